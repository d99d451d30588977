"""Nodes of ComfyUI's that need no model and are not ours, each with its reason (also in docs/compatibility.md)."""

from __future__ import annotations

from typing import Any

_AUDIO = "audio: not part of the core extension"
_VIDEO = "video: needs PyAV, which the sandbox image does not have"
_THREE = "3D: belongs to the front end's viewer and to models that make meshes"
_BY_TYPE = {
    "AUDIO": _AUDIO,
    "AUDIO_RECORD": _AUDIO,
    "VIDEO": _VIDEO,
    "LOAD_3D": _THREE,
    "LOAD_3D_ANIMATION": _THREE,
    "LOAD3D_CAMERA": _THREE,
    "VOXEL": _THREE,
    "MESH": _THREE,
}
_BY_NAME = {
    "SaveWEBM": _VIDEO,
    "LTXVPreprocess": _VIDEO,
    "GITSScheduler": "its table of sigmas is part of a model's training",
    "LotusConditioning": "its conditioning is part of a model's weights",
    "WanCameraEmbedding": "makes an input of one model's own patch",
}


def reason(name: str, kinds: set[Any]) -> str:
    if name in _BY_NAME:
        return _BY_NAME[name]
    return next((why for kind, why in _BY_TYPE.items() if any(kind in str(k).split(",") for k in kinds)), "")

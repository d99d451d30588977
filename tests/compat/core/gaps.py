"""Nodes of ComfyUI's that need no model and are not ours, each with its reason (also in docs/compatibility.md)."""

from __future__ import annotations

from typing import Any

_BY_TYPE: dict[str, str] = {}
_BY_NAME: dict[str, str] = {}


def reason(name: str, kinds: set[Any]) -> str:
    if name in _BY_NAME:
        return _BY_NAME[name]
    return next((why for kind, why in _BY_TYPE.items() if any(kind in str(k).split(",") for k in kinds)), "")

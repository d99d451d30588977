"""Two nodes' ``/object_info`` entries against each other, and inputs drawn from one."""

from __future__ import annotations

from typing import Any

import gaps
import values
from special import SPECIAL

#: Texts for people, and what only some releases' servers add; everything else is compared.
_TEXTS = {"tooltip", "placeholder", "display_name", "extra_dict", "advanced", "socketless", "dynamicPrompts"}
_FIELDS = (
    "input_order", "is_input_list", "output", "output_is_list", "output_name", "name", "category", "output_node",
)  # fmt: skip
_MODEL_TYPES = frozenset(
    """
    MODEL CLIP VAE CONTROL_NET CLIP_VISION CLIP_VISION_OUTPUT STYLE_MODEL GLIGEN UPSCALE_MODEL MODEL_PATCH GUIDER
    AUDIO_ENCODER AUDIO_ENCODER_OUTPUT PHOTOMAKER LATENT_UPSCALE_MODEL LORA_MODEL LOSS_MAP SAMPLER HOOKS
    HOOK_KEYFRAMES BACKGROUND_REMOVAL INTERP_MODEL OPTICAL_FLOW MOGE_MODEL MOGE_GEOMETRY FACE_DETECTION_MODEL
    DA3_MODEL DA3_GEOMETRY SAM3_TRACK_DATA
    """.split()  # noqa: SIM905
)


def absent(name: str, info: dict[str, Any]) -> tuple[str, str]:
    """Why a node of the checkout's is not ours."""
    kinds = {kind for section in values_of(info) for kind in section} | set(info["output"])
    if any(isinstance(kind, str) and set(kind.split(",")) & _MODEL_TYPES for kind in kinds):
        return "model", "needs a model runtime"
    reason = gaps.reason(name, kinds)
    return ("gap", reason) if reason else ("MISSING", "")


def values_of(info: dict[str, Any]) -> list[list[Any]]:
    sections = [info["input"].get(key) or {} for key in ("required", "optional")]
    return [[d[0] for d in section.values() if isinstance(d[0], str)] for section in sections]


def differences(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """Each field in which the two differ, as text."""
    found = []
    for key in _FIELDS:
        if key not in theirs:
            continue
        one, other = _tidy(key, theirs), _tidy(key, ours)
        if one != other:
            found.append(f"{key}: theirs {one}, ours {other}")
    found += [
        f"{key}: theirs {theirs.get(key)}, ours {ours.get(key)}"
        for key in ("deprecated", "experimental")
        if bool(theirs.get(key)) != bool(ours.get(key))
    ]
    for section in ("required", "optional"):
        one = theirs["input"].get(section) or {}
        other = ours["input"].get(section) or {}
        for name in one:
            if name not in other:
                found.append(f"input {name}: ours has none")
            elif declared(one[name]) != declared(other[name]):
                found.append(f"input {name}: theirs {declared(one[name])}, ours {declared(other[name])}")
        found += [f"input {name}: theirs has none" for name in other if name not in one]
    if set(theirs["input"].get("hidden") or {}) != set(ours["input"].get("hidden") or {}):
        found.append(f"hidden: theirs {theirs['input'].get('hidden')}, ours {ours['input'].get('hidden')}")
    return found


def _tidy(key: str, info: dict[str, Any]) -> Any:
    value = info.get(key)
    if key == "input_order":
        return {s: list(value.get(s) or []) for s in ("required", "optional")}
    if key == "output":
        return ["COMBO" if isinstance(kind, list) or kind == "COMBO" else kind for kind in value]
    if key == "output_name":
        return ["COMBO" if isinstance(kind, list) else kind for kind in value]
    if key in ("is_input_list", "output_node"):
        return bool(value)
    return value


def declared(declaration: Any) -> tuple[Any, dict[str, Any]]:
    """An input's type and options in one form: a list of choices and the type COMBO say the same to a client."""
    kind = declaration[0]
    options = dict(declaration[1]) if len(declaration) > 1 and isinstance(declaration[1], dict) else {}
    if isinstance(kind, list):
        options["options"], kind = kind, "COMBO"
        options.setdefault("default", None)
    kept = {
        key: _nested(item) for key, item in options.items() if key not in _TEXTS and item not in (None, False)
    }
    if kind == "COMBO" and kept.get("default") == (kept.get("options") or [None])[0]:
        kept.pop("default", None)  # the first choice is what a client takes anyway
    if kept.get("default") in ("", 0) and kind in ("STRING", "INT", "FLOAT"):
        kept.pop("default")
    return kind, kept


def _nested(value: Any) -> Any:
    """Declarations inside of declarations (dynamic inputs), without their texts."""
    if isinstance(value, dict):
        return {k: _nested(v) for k, v in value.items() if k not in _TEXTS and v not in (None, False)}
    if (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], dict)
    ):
        return list(declared(value))
    return [_nested(item) for item in value] if isinstance(value, list) else value


def inputs_for(name: str, info: dict[str, Any], number: int) -> dict[str, Any] | None:
    """Inputs of one case; None when an input is of a kind that cannot be made here, or there is no such case."""
    drawer = values.Drawer(name, number)
    if name in SPECIAL:
        return SPECIAL[name](drawer)
    inputs = {}
    for section in ("required", "optional"):
        for key, declaration in (info["input"].get(section) or {}).items():
            if section == "optional" and number % 3 == 1:
                continue
            kind, options = declaration[0], declaration[1] if len(declaration) > 1 else {}
            value = drawer.value(kind, options or {}, key)
            if value is None and section == "required":
                return None
            if value is not None:
                inputs[key] = [value] if info.get("is_input_list") else value
    return inputs

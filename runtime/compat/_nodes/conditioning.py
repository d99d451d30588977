"""The conditioning nodes of ``nodes``. They only handle tensors and dicts, so they are real.

A conditioning is a list of ``[tensor, dict]``. Making one out of a text needs a model and is names only.
"""

from __future__ import annotations

from typing import Any

from .. import node_helpers
from .limits import pixels

_STRENGTH = ("FLOAT", {"default": 1.0, "min": 0.0, "max": 10.0, "step": 0.01})
_SHARE = {"min": 0.0, "max": 1.0, "step": 0.001}


class ConditioningCombine:
    """Both conditionings, one after the other."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"conditioning_1": ("CONDITIONING",), "conditioning_2": ("CONDITIONING",)}}

    RETURN_TYPES: tuple[Any, ...] = ("CONDITIONING",)
    FUNCTION = "combine"
    CATEGORY = "conditioning"

    def combine(self, conditioning_1: list[Any], conditioning_2: list[Any]) -> tuple[Any]:
        return (conditioning_1 + conditioning_2,)


class ConditioningMultiply:
    """A conditioning times a number."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        multiplier = ("FLOAT", {"default": 1.0, "min": -100.0, "max": 100.0, "step": 0.01})
        return {"required": {"conditioning": ("CONDITIONING",), "multiplier": multiplier}}

    RETURN_TYPES: tuple[Any, ...] = ("CONDITIONING",)
    FUNCTION = "multiply"
    CATEGORY = "conditioning"

    def multiply(self, conditioning: list[Any], multiplier: float) -> tuple[Any]:
        result = []
        for tokens, extra in conditioning:
            pooled = extra.get("pooled_output")
            more = {} if pooled is None else {"pooled_output": pooled * multiplier}
            result.append([tokens * multiplier, {**extra, **more}])
        return (result,)


class ConditioningAverage:
    """A mix of two conditionings."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "conditioning_to": ("CONDITIONING",),
                "conditioning_from": ("CONDITIONING",),
                "conditioning_to_strength": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01}),
            }
        }

    RETURN_TYPES: tuple[Any, ...] = ("CONDITIONING",)
    FUNCTION = "addWeighted"
    CATEGORY = "conditioning"

    def addWeighted(
        self, conditioning_to: list[Any], conditioning_from: list[Any], conditioning_to_strength: float
    ) -> tuple[Any]:
        import torch

        share = conditioning_to_strength
        source, source_extra = conditioning_from[0]
        source_pooled = source_extra.get("pooled_output")
        mixed = []
        for target, target_extra in conditioning_to:
            part = source[:, : target.shape[1]]
            if part.shape[1] < target.shape[1]:
                padding = torch.zeros((1, target.shape[1] - part.shape[1], target.shape[2]))
                part = torch.cat([part, padding], dim=1)
            extra = target_extra.copy()
            pooled = extra.get("pooled_output", source_pooled)
            if source_pooled is not None and pooled is not None:
                extra["pooled_output"] = pooled * share + source_pooled * (1.0 - share)
            elif source_pooled is not None:
                extra["pooled_output"] = source_pooled
            mixed.append([target * share + part * (1.0 - share), extra])
        return (mixed,)


class ConditioningConcat:
    """The first of one conditioning appended to each item of another."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"conditioning_to": ("CONDITIONING",), "conditioning_from": ("CONDITIONING",)}}

    RETURN_TYPES: tuple[Any, ...] = ("CONDITIONING",)
    FUNCTION = "concat"
    CATEGORY = "conditioning"

    def concat(self, conditioning_to: list[Any], conditioning_from: list[Any]) -> tuple[Any]:
        import torch

        tail = conditioning_from[0][0]
        return ([[torch.cat((item[0], tail), 1), item[1].copy()] for item in conditioning_to],)


def _limited(conditioning: list[Any], area: tuple[Any, ...], strength: float) -> list[Any]:
    """A conditioning for an area of the picture."""
    place = {"area": area, "strength": strength, "set_area_to_bounds": False}
    return node_helpers.conditioning_set_values(conditioning, place)


class ConditioningSetArea:
    """Limits a conditioning to a rectangle in pixels."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "conditioning": ("CONDITIONING",),
                "width": pixels(64, 64, 8),
                "height": pixels(64, 64, 8),
                "x": pixels(step=8),
                "y": pixels(step=8),
                "strength": _STRENGTH,
            }
        }

    RETURN_TYPES: tuple[Any, ...] = ("CONDITIONING",)
    FUNCTION = "append"
    CATEGORY = "conditioning"

    def append(
        self, conditioning: list[Any], width: int, height: int, x: int, y: int, strength: float
    ) -> tuple[Any]:
        cells = tuple(side // 8 for side in (height, width, y, x))
        return (_limited(conditioning, cells, strength),)


class ConditioningSetAreaPercentage:
    """Limits a conditioning to a rectangle in shares of the picture."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        def share(default: float) -> tuple[str, dict[str, float]]:
            return ("FLOAT", {"default": default, "min": 0.0, "max": 1.0, "step": 0.01})

        return {
            "required": {
                "conditioning": ("CONDITIONING",),
                "width": share(1.0),
                "height": share(1.0),
                "x": share(0.0),
                "y": share(0.0),
                "strength": _STRENGTH,
            }
        }

    RETURN_TYPES: tuple[Any, ...] = ("CONDITIONING",)
    FUNCTION = "append"
    CATEGORY = "conditioning"

    def append(
        self, conditioning: list[Any], width: float, height: float, x: float, y: float, strength: float
    ) -> tuple[Any]:
        return (_limited(conditioning, ("percentage", height, width, y, x), strength),)


class ConditioningSetAreaStrength:
    """Sets how strongly a conditioning counts."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"conditioning": ("CONDITIONING",), "strength": _STRENGTH}}

    RETURN_TYPES: tuple[Any, ...] = ("CONDITIONING",)
    FUNCTION = "append"
    CATEGORY = "conditioning"

    def append(self, conditioning: list[Any], strength: float) -> tuple[Any]:
        return (node_helpers.conditioning_set_values(conditioning, {"strength": strength}),)


class ConditioningSetMask:
    """Limits a conditioning to a mask."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "conditioning": ("CONDITIONING",),
                "mask": ("MASK",),
                "strength": _STRENGTH,
                "set_cond_area": (["default", "mask bounds"],),
            }
        }

    RETURN_TYPES: tuple[Any, ...] = ("CONDITIONING",)
    FUNCTION = "append"
    CATEGORY = "conditioning"

    def append(self, conditioning: list[Any], mask: Any, set_cond_area: str, strength: float) -> tuple[Any]:
        values = {
            "mask": mask.unsqueeze(0) if mask.ndim < 3 else mask,
            "set_area_to_bounds": set_cond_area != "default",
            "mask_strength": strength,
        }
        return (node_helpers.conditioning_set_values(conditioning, values),)


class ConditioningZeroOut:
    """The same conditioning with nothing in it."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"conditioning": ("CONDITIONING",)}}

    RETURN_TYPES: tuple[Any, ...] = ("CONDITIONING",)
    FUNCTION = "zero_out"
    CATEGORY = "advanced/conditioning"

    def zero_out(self, conditioning: list[Any]) -> tuple[Any]:
        import torch

        result = []
        for item in conditioning:
            extra = item[1].copy()
            for key in ("pooled_output", "conditioning_lyrics"):
                if extra.get(key) is not None:
                    extra[key] = torch.zeros_like(extra[key])
            result.append([torch.zeros_like(item[0]), extra])
        return (result,)


class ConditioningSetTimestepRange:
    """Limits a conditioning to a part of the sampling."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "conditioning": ("CONDITIONING",),
                "start": ("FLOAT", {"default": 0.0, **_SHARE}),
                "end": ("FLOAT", {"default": 1.0, **_SHARE}),
            }
        }

    RETURN_TYPES: tuple[Any, ...] = ("CONDITIONING",)
    FUNCTION = "set_range"
    CATEGORY = "advanced/conditioning"

    def set_range(self, conditioning: list[Any], start: float, end: float) -> tuple[Any]:
        values = {"start_percent": start, "end_percent": end}
        return (node_helpers.conditioning_set_values(conditioning, values),)

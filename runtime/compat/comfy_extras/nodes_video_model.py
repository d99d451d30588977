"""``comfy_extras.nodes_video_model``: the area of a conditioning in video; what needs a model by name only."""

from __future__ import annotations

from typing import Any

from .._standins import names_only
from ..node_helpers import conditioning_set_values
from ._base import ExtraNode

__getattr__ = names_only(__name__)

_SHARES = {"width": 1.0, "height": 1.0, "temporal": 1.0, "x": 0, "y": 0, "z": 0}


class ConditioningSetAreaPercentageVideo(ExtraNode):
    """Limits a conditioning to a box in space and time, in shares of the whole."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        shares = {
            name: ("FLOAT", {"default": default, "min": 0, "max": 1.0, "step": 0.01})
            for name, default in _SHARES.items()
        }
        strength = ("FLOAT", {"default": 1.0, "min": 0.0, "max": 10.0, "step": 0.01})
        return {"required": {"conditioning": ("CONDITIONING",), **shares, "strength": strength}}

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "append"
    CATEGORY = "conditioning"

    def append(
        self,
        conditioning: Any,
        width: float,
        height: float,
        temporal: float,
        x: float,
        y: float,
        z: float,
        strength: float,
    ) -> tuple[Any]:
        area = ("percentage", temporal, height, width, z, y, x)
        values = {"area": area, "strength": strength, "set_area_to_bounds": False}
        return (conditioning_set_values(conditioning, values),)


NODE_CLASS_MAPPINGS = {
    "ConditioningSetAreaPercentageVideo": ConditioningSetAreaPercentageVideo,
}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {}

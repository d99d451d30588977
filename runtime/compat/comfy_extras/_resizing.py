"""One node that resizes pictures and masks in nine ways."""

from __future__ import annotations

import math
from typing import Any

from .._nodes.limits import CROPPING, IMAGE_SCALING, MAX_RESOLUTION
from ._base import V3Node, io


def _planes(item: Any) -> Any:
    """A picture [B,H,W,C] or a mask [B,H,W] with the channels second."""
    return item.movedim(-1, 1) if item.ndim == 4 else item.unsqueeze(1)


def _resized(item: Any, width: int, height: int, method: str, crop: str = "disabled") -> Any:
    from ..comfy.utils import common_upscale

    planes = common_upscale(_planes(item), width, height, method, crop)
    return planes.movedim(1, -1) if item.ndim == 4 else planes.squeeze(1)


def _to_multiple(item: Any, multiple: int, method: str) -> Any:
    """Cover the largest size of that multiple which fits, and cut off what is over."""
    high, wide = item.shape[1:3]
    width, height = wide // multiple * multiple, high // multiple * multiple
    if multiple <= 1 or 0 in (width, height) or (width, height) == (wide, high):
        return item
    across, down = width / wide, height / high
    if across >= down:
        size = width, max(height, math.ceil(high * across))
    else:
        size = max(width, math.ceil(wide * down)), height
    covering = _resized(item, size[0], size[1], method)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return covering[:, top : top + height, left : left + width]


def _size(wide: int, high: int, how: dict[str, Any]) -> tuple[int, int]:
    """The width and height that a way of resizing asks for."""
    way = how["resize_type"]
    if way == "scale by multiplier":
        return round(wide * how["multiplier"]), round(high * how["multiplier"])
    if way == "scale total pixels":
        factor = math.sqrt(int(how["megapixels"] * 1024 * 1024) / (wide * high))
        return round(wide * factor), round(high * factor)
    if way in ("scale longer dimension", "scale shorter dimension"):
        longer = way == "scale longer dimension"
        length = how["longer_size" if longer else "shorter_size"]
        if wide == high:
            return length, length
        if (wide > high) == longer:
            return length, round((high / wide) * length)
        return round((wide / high) * length), length
    width = 0 if way == "scale height" else how["width"]
    height = 0 if way == "scale width" else how["height"]
    if width == 0 and height == 0:
        return wide, high
    return width or max(1, round(wide * height / high)), height or max(1, round(high * width / wide))


def _length(name: str) -> Any:
    return io.Int.Input(name, default=512, min=0, max=MAX_RESOLUTION, step=1)


class ResizeImageMaskNode(V3Node):
    """Resizes a picture or a mask."""

    scale_methods = IMAGE_SCALING
    crop_methods = CROPPING

    @classmethod
    def define_schema(cls) -> Any:
        template = io.MatchType.Template("input_type", [io.Image, io.Mask])
        crop = io.Combo.Input("crop", options=cls.crop_methods, default="center")
        ways = {
            "scale dimensions": [_length("width"), _length("height"), crop],
            "scale by multiplier": [io.Float.Input("multiplier", default=1.00, min=0.01, max=8.0, step=0.01)],
            "scale longer dimension": [_length("longer_size")],
            "scale shorter dimension": [_length("shorter_size")],
            "scale width": [_length("width")],
            "scale height": [_length("height")],
            "scale total pixels": [io.Float.Input("megapixels", default=1.0, min=0.01, max=16.0, step=0.01)],
            "match size": [io.MultiType.Input("match", [io.Image, io.Mask]), crop],
            "scale to multiple": [io.Int.Input("multiple", default=8, min=1, max=MAX_RESOLUTION, step=1)],
        }
        options = [io.DynamicCombo.Option(way, inputs) for way, inputs in ways.items()]
        return io.Schema(
            node_id="ResizeImageMaskNode",
            display_name="Resize Image/Mask",
            category="transform",
            inputs=[
                io.MatchType.Input("input", template=template),
                io.DynamicCombo.Input("resize_type", options=options),
                io.Combo.Input("scale_method", options=cls.scale_methods, default="area"),
            ],
            outputs=[io.MatchType.Output(template=template, display_name="resized")],
        )

    @classmethod
    def execute(cls, input: Any, scale_method: str, resize_type: dict[str, Any]) -> Any:
        way = resize_type["resize_type"]
        if way == "scale to multiple":
            return io.NodeOutput(_to_multiple(input, resize_type["multiple"], scale_method))
        if way == "match size":
            high, wide = _planes(resize_type["match"]).shape[-2:]
            return io.NodeOutput(_resized(input, wide, high, scale_method, resize_type["crop"]))
        high, wide = _planes(input).shape[-2:]
        if way == "scale dimensions" and resize_type["width"] == 0 and resize_type["height"] == 0:
            return io.NodeOutput(input)
        width, height = _size(wide, high, resize_type)
        return io.NodeOutput(
            _resized(input, width, height, scale_method, resize_type.get("crop", "disabled"))
        )

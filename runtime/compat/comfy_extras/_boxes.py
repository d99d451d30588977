"""Bounding boxes as values, and cropping to one."""

from __future__ import annotations

from typing import Any

from .._nodes.limits import MAX_RESOLUTION
from .._nodes.saving import PreviewImage
from ._base import V3Node, io


class BoundingBox(V3Node):
    """A rectangle."""

    @classmethod
    def define_schema(cls) -> Any:
        places = [io.Int.Input(name, default=0, min=0, max=MAX_RESOLUTION) for name in ("x", "y")]
        sizes = [io.Int.Input(name, default=512, min=1, max=MAX_RESOLUTION) for name in ("width", "height")]
        return io.Schema(
            node_id="PrimitiveBoundingBox",
            display_name="Bounding Box",
            category="utils/primitive",
            inputs=[*places, *sizes],
            outputs=[io.BoundingBox.Output()],
        )

    @classmethod
    def execute(cls, x: int, y: int, width: int, height: int) -> Any:
        return io.NodeOutput({"x": x, "y": y, "width": width, "height": height})


class ImageCropV2(V3Node):
    """The part of a picture that lies in a rectangle; shown, too."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="ImageCropV2",
            display_name="Image Crop",
            category="image/transform",
            has_intermediate_output=True,
            inputs=[io.Image.Input("image"), io.BoundingBox.Input("crop_region", component="ImageCrop")],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, image: Any, crop_region: dict[str, int]) -> Any:
        left = min(crop_region.get("x", 0), image.shape[2] - 1)
        top = min(crop_region.get("y", 0), image.shape[1] - 1)
        right, bottom = left + crop_region.get("width", 512), top + crop_region.get("height", 512)
        part = image[:, top:bottom, left:right, :]
        shown = PreviewImage().save_images(part)["ui"]["images"]
        return io.NodeOutput(part, ui={"images": shown, "animated": (False,)})

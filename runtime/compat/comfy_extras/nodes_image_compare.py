"""``comfy_extras.nodes_image_compare``: two pictures under one slider."""

from __future__ import annotations

from typing import Any

from .._nodes.saving import PreviewImage
from .._standins import names_only
from ._base import V3Node, io

__getattr__ = names_only(__name__)


class ImageCompare(V3Node):
    """Shows two pictures to compare."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="ImageCompare",
            display_name="Compare Images",
            category="image",
            is_experimental=True,
            is_output_node=True,
            inputs=[
                io.Image.Input("image_a", optional=True),
                io.Image.Input("image_b", optional=True),
                io.ImageCompare.Input("compare_view"),
            ],
            outputs=[],
        )

    @classmethod
    def execute(cls, image_a: Any = None, image_b: Any = None, compare_view: Any = None) -> Any:
        saver = PreviewImage()

        def shown(image: Any, prefix: str) -> Any:
            return [] if image is None else saver.save_images(image, prefix)["ui"]["images"]

        shown_a, shown_b = shown(image_a, "comfy.compare.a"), shown(image_b, "comfy.compare.b")
        return io.NodeOutput(ui={"a_images": shown_a, "b_images": shown_b})


NODE_CLASS_MAPPINGS = {"ImageCompare": ImageCompare}
NODE_DISPLAY_NAME_MAPPINGS = {"ImageCompare": "Compare Images"}

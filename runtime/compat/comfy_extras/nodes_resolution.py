"""``comfy_extras.nodes_resolution``: widths and heights of an aspect ratio."""

from __future__ import annotations

import math
from typing import Any

from .._standins import names_only
from ._base import V3Node, io

__getattr__ = names_only(__name__)

_RATIOS = {
    "1:1 (Square)": (1, 1),
    "2:3 (Portrait Photo)": (2, 3),
    "3:2 (Photo)": (3, 2),
    "3:4 (Portrait Standard)": (3, 4),
    "4:3 (Standard)": (4, 3),
    "9:16 (Portrait Widescreen)": (9, 16),
    "16:9 (Widescreen)": (16, 9),
    "21:9 (Ultrawide)": (21, 9),
}


class ResolutionSelector(V3Node):
    """The size of a picture of an aspect ratio and a number of megapixels (of 1024 by 1024)."""

    @classmethod
    def define_schema(cls) -> Any:
        ratios = list(_RATIOS)
        return io.Schema(
            node_id="ResolutionSelector",
            display_name="Resolution Selector",
            category="utils",
            inputs=[
                io.Combo.Input("aspect_ratio", options=ratios, default=ratios[0]),
                io.Float.Input("megapixels", default=1.0, min=0.1, max=16.0, step=0.1),
                io.Int.Input("multiple", default=8, min=8, max=128, step=4, optional=True),
            ],
            outputs=[io.Int.Output("width"), io.Int.Output("height")],
        )

    @classmethod
    def execute(cls, aspect_ratio: str, megapixels: float, multiple: int = 8) -> Any:
        wide, high = _RATIOS[aspect_ratio]
        factor = math.sqrt(megapixels * 1024 * 1024 / (wide * high))
        return io.NodeOutput(*(round(side * factor / multiple) * multiple for side in (wide, high)))


NODE_CLASS_MAPPINGS = {"ResolutionSelector": ResolutionSelector}
NODE_DISPLAY_NAME_MAPPINGS = {"ResolutionSelector": "Resolution Selector"}

"""``comfy_extras.nodes_seed``: one seed for several nodes."""

from __future__ import annotations

import sys
from typing import Any

from .._standins import names_only
from ._base import V3Node, io

__getattr__ = names_only(__name__)


class SeedNode(V3Node):
    """A seed."""

    @classmethod
    def define_schema(cls) -> Any:
        control = io.ControlAfterGenerate.fixed
        return io.Schema(
            node_id="SeedNode",
            display_name="Seed",
            category="utils",
            inputs=[io.Int.Input("seed", min=0, max=sys.maxsize, control_after_generate=control)],
            outputs=[io.Int.Output(display_name="seed")],
        )

    @classmethod
    def execute(cls, seed: int) -> Any:
        return io.NodeOutput(seed)


NODE_CLASS_MAPPINGS = {"SeedNode": SeedNode}
NODE_DISPLAY_NAME_MAPPINGS = {"SeedNode": "Seed"}

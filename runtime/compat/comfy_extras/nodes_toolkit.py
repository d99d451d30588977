"""``comfy_extras.nodes_toolkit``: lists."""

from __future__ import annotations

from typing import Any

from .._standins import names_only
from ._base import V3Node, io

__getattr__ = names_only(__name__)


class CreateList(V3Node):
    """One list of any number of values of one type; lists among them are joined."""

    @classmethod
    def define_schema(cls) -> Any:
        kind = io.MatchType.Template("type")
        template = io.Autogrow.TemplatePrefix(
            input=io.MatchType.Input("input", template=kind), prefix="input"
        )
        return io.Schema(
            node_id="CreateList",
            display_name="Create List",
            category="utils",
            is_input_list=True,
            inputs=[io.Autogrow.Input("inputs", template=template)],
            outputs=[io.MatchType.Output(template=kind, is_output_list=True, display_name="list")],
        )

    @classmethod
    def execute(cls, inputs: dict[str, list[Any]]) -> Any:
        return io.NodeOutput([item for items in inputs.values() for item in items])


NODE_CLASS_MAPPINGS = {"CreateList": CreateList}
NODE_DISPLAY_NAME_MAPPINGS = {"CreateList": "Create List"}

"""``comfy_extras.nodes_logic``: choosing between values, and truth values."""

from __future__ import annotations

from typing import Any

from .._standins import names_only
from ._base import V3Node, io

__getattr__ = names_only(__name__)

_CATEGORY = "utils/logic"


class SwitchNode(V3Node):
    """One of two values; the other is not computed."""

    @classmethod
    def define_schema(cls) -> Any:
        template = io.MatchType.Template("switch")
        return io.Schema(
            node_id="ComfySwitchNode",
            display_name="If/Else Switch",
            category=_CATEGORY,
            is_experimental=True,
            inputs=[
                io.Boolean.Input("switch"),
                io.MatchType.Input("on_false", template=template, lazy=True),
                io.MatchType.Input("on_true", template=template, lazy=True),
            ],
            outputs=[io.MatchType.Output(template=template, display_name="output")],
        )

    @classmethod
    def check_lazy_status(cls, switch: bool, on_false: Any = None, on_true: Any = None) -> list[str]:
        wanted, value = ("on_true", on_true) if switch else ("on_false", on_false)
        return [wanted] if value is None else []

    @classmethod
    def execute(cls, switch: bool, on_true: Any, on_false: Any) -> Any:
        return io.NodeOutput(on_true if switch else on_false)


class CustomComboNode(V3Node):
    """A choice among options that the user writes in the front end, which alone knows them."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="CustomCombo",
            display_name="Custom Combo",
            category="utils",
            is_experimental=True,
            inputs=[io.Combo.Input("choice", options=[])],
            outputs=[io.String.Output(display_name="STRING"), io.Int.Output(display_name="INDEX")],
            accept_all_inputs=True,
        )

    @classmethod
    def validate_inputs(cls, choice: Any, index: int = 0, **more: Any) -> bool:
        return True

    @classmethod
    def execute(cls, choice: Any, index: int = 0, **more: Any) -> Any:
        return io.NodeOutput(choice, index)


class NotNode(V3Node):
    """Whether a value counts as false in Python."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="ComfyNotNode",
            display_name="Not",
            category=_CATEGORY,
            inputs=[io.AnyType.Input("value")],
            outputs=[io.Boolean.Output()],
        )

    @classmethod
    def execute(cls, value: Any) -> Any:
        return io.NodeOutput(not value)


def _any_number_of_values() -> Any:
    template = io.Autogrow.TemplatePrefix(input=io.AnyType.Input("value"), prefix="value", min=1)
    return io.Autogrow.Input("values", template=template)


class AndNode(V3Node):
    """Whether all values count as true in Python."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="ComfyAndNode",
            display_name="And",
            category=_CATEGORY,
            inputs=[_any_number_of_values()],
            outputs=[io.Boolean.Output()],
        )

    @classmethod
    def execute(cls, values: dict[str, Any]) -> Any:
        return io.NodeOutput(all(values.values()))


class OrNode(V3Node):
    """Whether any value counts as true in Python."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="ComfyOrNode",
            display_name="Or",
            category=_CATEGORY,
            inputs=[_any_number_of_values()],
            outputs=[io.Boolean.Output()],
        )

    @classmethod
    def execute(cls, values: dict[str, Any]) -> Any:
        return io.NodeOutput(any(values.values()))


NODE_CLASS_MAPPINGS = {
    "ComfySwitchNode": SwitchNode,
    "CustomCombo": CustomComboNode,
    "ComfyNotNode": NotNode,
    "ComfyAndNode": AndNode,
    "ComfyOrNode": OrNode,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    name: made.GET_SCHEMA().display_name for name, made in NODE_CLASS_MAPPINGS.items()
}

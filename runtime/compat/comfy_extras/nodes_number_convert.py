"""``comfy_extras.nodes_number_convert``: numbers out of whatever stands for one."""

from __future__ import annotations

import math
from typing import Any

from .._standins import names_only
from ._base import V3Node, io

__getattr__ = names_only(__name__)


def as_numbers(value: Any) -> tuple[float, int]:
    """A value as a float and as an int.

    Raises:
        ValueError: it stands for no finite number.
    """
    match value:
        case bool() | int() | float():
            known = value
        case str():
            known = _of_text(value)
        case _:
            raise TypeError(
                f"a value of type {type(value).__name__} is not a number, a text or a truth value"
            )
    try:
        number = float(known)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{number} is not finite: it has no INT form")
    return number, int(known)


def _of_text(text: str) -> float:
    """An int where the text is one: a float would lose digits of a long one."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise ValueError(f"the text {text[:80]!r} is not a number")


class NumberConvertNode(V3Node):
    """A number, text or truth value as FLOAT and as INT."""

    @classmethod
    def define_schema(cls) -> Any:
        kinds = [io.Int, io.Float, io.String, io.Boolean]
        return io.Schema(
            node_id="ComfyNumberConvert",
            display_name="Convert Number",
            category="utils",
            inputs=[io.MultiType.Input("value", kinds, display_name="value")],
            outputs=[io.Float.Output(display_name="FLOAT"), io.Int.Output(display_name="INT")],
        )

    @classmethod
    def execute(cls, value: Any) -> Any:
        return io.NodeOutput(*as_numbers(value))


NODE_CLASS_MAPPINGS = {"ComfyNumberConvert": NumberConvertNode}
NODE_DISPLAY_NAME_MAPPINGS = {"ComfyNumberConvert": "Convert Number"}

"""``comfy_extras.nodes_math``: arithmetic with any number of values."""

from __future__ import annotations

import math
import string
import sys
from typing import Any

from .._standins import names_only
from ._base import V3Node, io
from ._expressions import evaluate

__getattr__ = names_only(__name__)


def _as_float(result: Any, what: str) -> float:
    if not isinstance(result, (int, float)):
        raise TypeError(f"{what} gives {type(result).__name__}, not a number")
    if isinstance(result, int) and abs(result) > sys.float_info.max:
        raise ValueError(f"{what} gives a number that is too large for FLOAT")
    number = float(result)
    if number in (math.inf, -math.inf) or math.isnan(number):
        raise ValueError(f"{what} gives {number}, which is not finite")
    return number


class MathExpressionNode(V3Node):
    """The value of an expression in a, b, c ... as FLOAT, INT and BOOLEAN."""

    @classmethod
    def define_schema(cls) -> Any:
        template = io.Autogrow.TemplateNames(
            input=io.MultiType.Input("value", [io.Float, io.Int, io.Boolean]),
            names=list(string.ascii_lowercase),
            min=1,
        )
        return io.Schema(
            node_id="ComfyMathExpression",
            display_name="Math Expression",
            category="math",
            inputs=[
                io.String.Input("expression", default="a + b", multiline=True),
                io.Autogrow.Input("values", template=template),
            ],
            outputs=[
                io.Float.Output(display_name="FLOAT"),
                io.Int.Output(display_name="INT"),
                io.Boolean.Output(display_name="BOOL"),
            ],
        )

    @classmethod
    def execute(cls, expression: str, values: dict[str, Any]) -> Any:
        if not expression.strip():
            raise ValueError("the expression is empty")
        result = evaluate(expression, {**values, "values": list(values.values())})
        return io.NodeOutput(_as_float(result, repr(expression[:200])), int(result), bool(result))


NODE_CLASS_MAPPINGS = {"ComfyMathExpression": MathExpressionNode}
NODE_DISPLAY_NAME_MAPPINGS = {"ComfyMathExpression": "Math Expression"}

"""``comfy_extras.nodes_primitive``: one value, typed in."""

from __future__ import annotations

import sys
from typing import Any

from ..comfy.comfy_types.node_typing import IO
from ._base import ExtraNode


def _primitive(name: str, kind: IO, options: dict[str, Any], display: str) -> type:
    def input_types(cls: type) -> dict[str, Any]:
        del cls
        return {"required": {"value": (str(kind), dict(options))}}

    def execute(self: Any, value: Any) -> tuple[Any]:
        del self
        return (value,)

    return type(
        name,
        (ExtraNode,),
        {
            "INPUT_TYPES": classmethod(input_types),
            "RETURN_TYPES": (str(kind),),
            "FUNCTION": "execute",
            "CATEGORY": "utils/primitive",
            "execute": execute,
            "__module__": __name__,
            "__doc__": f"{display}: passes on the value typed in.",
        },
    )


_WHOLE = {"min": -sys.maxsize, "max": sys.maxsize, "control_after_generate": True}
_REAL = {"min": -sys.maxsize, "max": sys.maxsize, "step": 0.1}

String = _primitive("PrimitiveString", IO.STRING, {}, "String")
StringMultiline = _primitive("PrimitiveStringMultiline", IO.STRING, {"multiline": True}, "String (Multiline)")
Int = _primitive("PrimitiveInt", IO.INT, _WHOLE, "Int")
Float = _primitive("PrimitiveFloat", IO.FLOAT, _REAL, "Float")
Boolean = _primitive("PrimitiveBoolean", IO.BOOLEAN, {}, "Boolean")

NODE_CLASS_MAPPINGS = {
    "PrimitiveString": String,
    "PrimitiveStringMultiline": StringMultiline,
    "PrimitiveInt": Int,
    "PrimitiveFloat": Float,
    "PrimitiveBoolean": Boolean,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "PrimitiveString": "String",
    "PrimitiveStringMultiline": "String (Multiline)",
    "PrimitiveInt": "Int",
    "PrimitiveFloat": "Float",
    "PrimitiveBoolean": "Boolean",
}

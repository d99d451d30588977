"""``comfy_extras.nodes_preview_any``: shows any value as text."""

from __future__ import annotations

import json
from typing import Any

from ..comfy.comfy_types.node_typing import IO
from ._base import ExtraNode


class PreviewAny(ExtraNode):
    """Shows a value: text as it is, numbers as Python writes them, the rest as JSON or as Python prints it."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"source": (IO.ANY, {})}}

    RETURN_TYPES = ("STRING",)
    FUNCTION = "main"
    OUTPUT_NODE = True
    CATEGORY = "utils"

    def main(self, source: Any = None) -> dict[str, Any]:
        has_text = source is None or isinstance(source, (str, int, float))
        text = str(source) if has_text else self._described(source)
        return {"ui": {"text": (text,)}, "result": (text,)}

    @staticmethod
    def _described(source: Any) -> str:
        try:
            return json.dumps(source)
        except Exception:  # a pack's object may raise from anything
            try:
                return str(source)
            except Exception:
                return "source exists, but could not be serialized."


NODE_CLASS_MAPPINGS = {"PreviewAny": PreviewAny}
NODE_DISPLAY_NAME_MAPPINGS = {"PreviewAny": "Preview as Text"}

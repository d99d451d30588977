"""``comfy_extras.nodes_string``: texts.

Regular expressions come from the prompt. One that takes for ever is ended with the sandbox, as any node is.
"""

from __future__ import annotations

import json
import re
import string
from typing import Any

from ._base import ExtraNode, V3Node, io

_TEXT = ("STRING", {"multiline": True})


def _yes_no(default: bool) -> tuple[str, dict[str, bool]]:
    return ("BOOLEAN", {"default": default})


_FLAGS = {"case_insensitive": _yes_no(True), "multiline": _yes_no(False), "dotall": _yes_no(False)}


def _flags(case_insensitive: bool, multiline: bool, dotall: bool) -> int:
    return (
        (re.IGNORECASE if case_insensitive else 0)
        | (re.MULTILINE if multiline else 0)
        | (re.DOTALL if dotall else 0)
    )


class _TextNode(ExtraNode):
    FUNCTION = "execute"
    CATEGORY = "utils/string"
    RETURN_TYPES = ("STRING",)


class StringConcatenate(_TextNode):
    """Two texts with something between."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "string_a": _TEXT,
                "string_b": _TEXT,
                "delimiter": ("STRING", {"default": "", "multiline": False}),
            }
        }

    def execute(self, string_a: str, string_b: str, delimiter: str = "", **_: Any) -> tuple[str]:
        return (delimiter.join((string_a, string_b)),)


class StringSubstring(_TextNode):
    """A part of a text, by position."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"string": _TEXT, "start": ("INT", {}), "end": ("INT", {})}}

    def execute(self, string: str, start: int, end: int, **_: Any) -> tuple[str]:
        return (string[start:end],)


class StringLength(_TextNode):
    """How long a text is."""

    RETURN_TYPES = ("INT",)
    RETURN_NAMES = ("length",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"string": _TEXT}}

    def execute(self, string: str, **_: Any) -> tuple[int]:
        return (len(string),)


class CaseConverter(_TextNode):
    """A text in capitals, in small letters, ..."""

    modes = {
        "UPPERCASE": str.upper,
        "lowercase": str.lower,
        "Capitalize": str.capitalize,
        "Title Case": str.title,
    }

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"string": _TEXT, "mode": ("COMBO", {"options": list(cls.modes)})}}

    def execute(self, string: str, mode: str, **_: Any) -> tuple[str]:
        return (self.modes.get(mode, str)(string),)


class StringTrim(_TextNode):
    """A text without white space at its ends."""

    modes = {"Both": str.strip, "Left": str.lstrip, "Right": str.rstrip}

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"string": _TEXT, "mode": ("COMBO", {"options": list(cls.modes)})}}

    def execute(self, string: str, mode: str, **_: Any) -> tuple[str]:
        return (self.modes.get(mode, str)(string),)


class StringReplace(_TextNode):
    """A text with every occurrence of another replaced."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"string": _TEXT, "find": _TEXT, "replace": _TEXT}}

    def execute(self, string: str, find: str, replace: str, **_: Any) -> tuple[str]:
        return (string.replace(find, replace),)


class StringContains(_TextNode):
    """Whether a text holds another."""

    RETURN_TYPES = ("BOOLEAN",)
    RETURN_NAMES = ("contains",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"string": _TEXT, "substring": _TEXT, "case_sensitive": _yes_no(True)}}

    def execute(self, string: str, substring: str, case_sensitive: bool, **_: Any) -> tuple[bool]:
        return (substring in string if case_sensitive else substring.lower() in string.lower(),)


class StringCompare(_TextNode):
    """Whether a text equals, starts with or ends with another."""

    RETURN_TYPES = ("BOOLEAN",)
    modes: dict[str, Any] = {"Starts With": str.startswith, "Ends With": str.endswith, "Equal": str.__eq__}

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "string_a": _TEXT,
                "string_b": _TEXT,
                "mode": ("COMBO", {"options": list(cls.modes)}),
                "case_sensitive": _yes_no(True),
            }
        }

    def execute(self, string_a: str, string_b: str, mode: str, case_sensitive: bool, **_: Any) -> tuple[bool]:
        if not case_sensitive:
            string_a, string_b = string_a.lower(), string_b.lower()
        return (bool(self.modes[mode](string_a, string_b)),)


class RegexMatch(_TextNode):
    """Whether a regular expression is found in a text."""

    RETURN_TYPES = ("BOOLEAN",)
    RETURN_NAMES = ("matches",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"string": _TEXT, "regex_pattern": _TEXT, **_FLAGS}}

    def execute(
        self, string: str, regex_pattern: str, case_insensitive: bool, multiline: bool, dotall: bool, **_: Any
    ) -> tuple[bool]:
        try:
            return (
                re.search(regex_pattern, string, _flags(case_insensitive, multiline, dotall)) is not None,
            )
        except re.error:
            return (False,)


class RegexExtract(_TextNode):
    """What a regular expression finds in a text, one finding a line."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        modes = ["First Match", "All Matches", "First Group", "All Groups"]
        return {
            "required": {
                "string": _TEXT,
                "regex_pattern": _TEXT,
                "mode": ("COMBO", {"options": modes}),
                **_FLAGS,
                "group_index": ("INT", {"default": 1, "min": 0, "max": 100}),
            }
        }

    def execute(
        self,
        string: str,
        regex_pattern: str,
        mode: str,
        case_insensitive: bool,
        multiline: bool,
        dotall: bool,
        group_index: int,
        **_: Any,
    ) -> tuple[str]:
        try:
            found = list(re.finditer(regex_pattern, string, _flags(case_insensitive, multiline, dotall)))
        except re.error:
            return ("",)
        if mode.endswith(("Group", "Groups")):
            texts = [match.group(group_index) or "" for match in found if group_index <= match.re.groups]
        else:
            texts = [match.group(0) for match in found]
        return ("\n".join(texts if mode.startswith("All") else texts[:1]),)


class RegexReplace(_TextNode):
    """A text with what a regular expression finds replaced."""

    DESCRIPTION = "Replaces what a regular expression finds in a text."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"string": _TEXT, "regex_pattern": _TEXT, "replace": _TEXT},
            "optional": {**_FLAGS, "count": ("INT", {"default": 0, "min": 0, "max": 100})},
        }

    def execute(
        self,
        string: str,
        regex_pattern: str,
        replace: str,
        case_insensitive: bool = True,
        multiline: bool = False,
        dotall: bool = False,
        count: int = 0,
        **_: Any,
    ) -> tuple[str]:
        flags = _flags(case_insensitive, multiline, dotall)
        return (re.sub(regex_pattern, replace, string, count=count, flags=flags),)


class JsonExtractString(_TextNode):
    """One entry of a JSON object as a text; empty where there is none."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"json_string": _TEXT, "key": ("STRING", {"multiline": False})}}

    def execute(self, json_string: str, key: str) -> tuple[str]:
        try:
            data = json.loads(json_string)
        except (ValueError, TypeError):
            return ("",)
        value = data.get(key) if isinstance(data, dict) else None
        return ("" if value is None else str(value),)


class _AsJson(_TextNode):
    _name, _kind = "dictionary", "DICT"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {cls._name: (cls._kind,), "indent": ("INT", {"default": 2, "min": 0, "max": 8})}}

    def execute(self, indent: int = 2, **inputs: Any) -> tuple[str]:
        return (json.dumps(inputs[self._name], ensure_ascii=False, indent=indent or None),)


class ConvertDictionaryToString(_AsJson):
    """A dictionary as JSON."""


class ConvertArrayToString(_AsJson):
    """A list as JSON."""

    _name, _kind = "array", "ARRAY"


class StringFormat(V3Node):
    """Python's ``str.format`` with the values a, b, c ..."""

    @classmethod
    def define_schema(cls) -> Any:
        names = list(string.ascii_lowercase)
        template = io.Autogrow.TemplateNames(input=io.AnyType.Input("value"), names=names, min=0)
        return io.Schema(
            node_id="StringFormat",
            display_name="Format Text",
            category="utils/string",
            inputs=[
                io.Autogrow.Input("values", template=template),
                io.String.Input("f_string", default="{a}", multiline=True),
            ],
            outputs=[io.String.Output()],
        )

    @classmethod
    def execute(cls, values: dict[str, Any], f_string: str) -> Any:
        return io.NodeOutput(f_string.format(**values))


NODE_CLASS_MAPPINGS: dict[str, Any] = {
    made.__name__: made
    for made in (
        StringConcatenate,
        StringSubstring,
        StringLength,
        CaseConverter,
        StringTrim,
        StringReplace,
        StringContains,
        StringCompare,
        RegexMatch,
        RegexExtract,
        RegexReplace,
        JsonExtractString,
        ConvertDictionaryToString,
        ConvertArrayToString,
        StringFormat,
    )
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "StringConcatenate": "Concatenate",
    "StringSubstring": "Substring",
    "StringLength": "Length",
    "CaseConverter": "Case Converter",
    "StringTrim": "Trim",
    "StringReplace": "Replace",
    "StringContains": "Contains",
    "StringCompare": "Compare",
    "RegexMatch": "Regex Match",
    "RegexExtract": "Regex Extract",
    "RegexReplace": "Regex Replace",
    "JsonExtractString": "Extract Text from JSON",
    "ConvertDictionaryToString": "Convert Dictionary to String",
    "ConvertArrayToString": "Convert Array to String",
    "StringFormat": "Format Text",
}

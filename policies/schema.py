"""JSON Schemas of the policy files, for editors (`ringfence policy schema`).

The schema helps while typing; the verdict is always the loader's, which also knows ceilings and paths.
"""

from __future__ import annotations

from typing import Any

from policies.model import DefaultsFile, PartialPolicy

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def policy_schema() -> dict[str, Any]:
    """The schema of `<extension>.yaml`."""
    return {"$schema": _DIALECT, **_without_null(PartialPolicy.model_json_schema())}


def defaults_schema() -> dict[str, Any]:
    """The schema of `default.yaml`."""
    return {"$schema": _DIALECT, **_without_null(DefaultsFile.model_json_schema())}


def _without_null(node: Any) -> Any:
    """In the models None means "not written"; in a file an empty value is an error, so the schema must say so."""
    if isinstance(node, list):
        return [_without_null(item) for item in node]
    if not isinstance(node, dict):
        return node
    cleaned = {
        key: _without_null(item) for key, item in node.items() if not (key == "default" and item is None)
    }
    choices = cleaned.get("anyOf")
    if isinstance(choices, list):
        kept = [choice for choice in choices if choice != {"type": "null"}]
        cleaned["anyOf"] = kept
        if len(kept) == 1:
            del cleaned["anyOf"]
            cleaned = {**kept[0], **cleaned}
    return cleaned

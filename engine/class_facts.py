"""What a node that reads the prompt may know of the other classes in it: what comes out of them, and whose they are.

Loops and list tools of packs look the classes of their prompt up in ``nodes.NODE_CLASS_MAPPINGS``. A sandbox holds its
own classes and core's only; of the others it is told what the catalogue says of their outputs, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from engine.carrying import unit
from engine.registry import NodeType

JSON = Any


def class_facts(reader: NodeType, used: Iterable[NodeType]) -> dict[str, JSON]:
    """By class, for those of a prompt that the reader's sandbox does not hold."""
    facts: dict[str, JSON] = {}
    for node_type in used:
        if node_type.core or node_type.class_type in facts or unit(node_type) == unit(reader):
            continue
        description = node_type.description
        facts[node_type.class_type] = {
            "extension": node_type.extension,
            "output_node": description.output_node,
            "output": [
                kind if isinstance(kind, str) else "COMBO" for kind in _items(description.info, "output")
            ],
            "output_name": [str(name) for name in _items(description.info, "output_name")],
            "output_is_list": [bool(flag) for flag in _items(description.info, "output_is_list")],
        }
    return facts


def _items(info: JSON, key: str) -> list[JSON]:
    found = info.get(key)
    return list(found) if isinstance(found, list | tuple) else []

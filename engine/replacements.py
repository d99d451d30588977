"""Nodes of unknown classes that a pack has declared a successor for: rewritten before a prompt is validated.

Pure. The declarations come from sandboxes (checked where they came in), the prompt from a client: neither is changed.
A declaration of a few bytes applies to every node of a prompt, so what it adds to one is bounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from engine.prompt import as_link, prompt_error
from engine.registry import NodeType
from policies import format_bytes
from sandbox.calls import NodeReplacement, measure

JSON = Any

MAX_ADDED: Final = 32 * 1024 * 1024
"""Of a prompt, in bytes of this process's memory: as much as a client may send."""


def replacements(types: Mapping[str, NodeType]) -> dict[str, list[NodeReplacement]]:
    """Old class -> what can take its place, among the classes that there are."""
    found: dict[str, list[NodeReplacement]] = {}
    for node in types.values():
        for item in node.replaces:
            found.setdefault(item.old_node_id, []).append(item)
    return found


def shown(types: Mapping[str, NodeType]) -> dict[str, list[dict[str, JSON]]]:
    """The answer of ``/node_replacements``."""
    return {
        old: [
            {
                "new_node_id": item.new_node_id,
                "old_node_id": item.old_node_id,
                "old_widget_ids": None if item.old_widget_ids is None else list(item.old_widget_ids),
                "input_mapping": _listed(item.input_mapping),
                "output_mapping": _listed(item.output_mapping),
            }
            for item in items
        ]
        for old, items in replacements(types).items()
    }


def apply(prompt: JSON, types: Mapping[str, NodeType]) -> JSON:
    """The prompt with its unknown nodes replaced; the very object when there is nothing to replace.

    Raises:
        PromptInvalidError: it would become far larger than it came.
    """
    if not isinstance(prompt, dict):
        return prompt
    for node in prompt.values():
        # JSON: what is no plain object, or of no class, is looked at below.
        if type(node) is not dict or type(kind := node.get("class_type")) is not str or kind not in types:
            break
    else:
        return prompt
    known = replacements(types)
    chosen = {
        node_id: known[kind][0]
        for node_id, node in prompt.items()
        if (kind := _class_of(node)) is not None and kind not in types and kind in known
    }
    if not chosen:
        return prompt
    room = _Room()
    replaced = {
        node_id: _successor(node, chosen[node_id], room) if node_id in chosen else node
        for node_id, node in prompt.items()
    }
    return {node_id: _relinked(node, chosen) for node_id, node in replaced.items()}


def _class_of(node: JSON) -> str | None:
    kind = node.get("class_type") if isinstance(node, dict) else None
    return kind if isinstance(kind, str) else None


class _Room:
    """What may be added to one prompt."""

    def __init__(self) -> None:
        self._left = MAX_ADDED

    def take(self, value: JSON) -> JSON:
        self._left -= measure(value)[1]
        if self._left < 0:
            raise prompt_error(
                "invalid_prompt",
                "The prompt is too large",
                f"what packs add to its nodes of unknown classes takes more than {format_bytes(MAX_ADDED)}",
            )
        return value


def _successor(node: dict[str, JSON], replacement: NodeReplacement, room: _Room) -> dict[str, JSON]:
    """The node as one of the new class; inputs that nobody mapped are left behind."""
    before = node.get("inputs")
    before = before if isinstance(before, dict) else {}
    inputs: dict[str, JSON] = {}
    used: set[str] = set()
    for mapping in replacement.input_mapping or ():
        old = mapping.get("old_id")
        if "set_value" in mapping:
            inputs[mapping["new_id"]] = room.take(mapping["set_value"])
        elif old in before:
            inputs[mapping["new_id"]] = room.take(before[old]) if old in used else before[old]
            used.add(str(old))
    return {**node, "class_type": replacement.new_node_id, "inputs": inputs}


def _relinked(node: JSON, chosen: Mapping[str, NodeReplacement]) -> JSON:
    """The node with its links to replaced nodes renumbered."""
    inputs = node.get("inputs") if isinstance(node, dict) else None
    if not isinstance(inputs, dict):
        return node
    changed: dict[str, JSON] = {}
    for name, value in inputs.items():
        link = as_link(value)
        replacement = None if link is None else chosen.get(link.source)
        if link is None or replacement is None:
            continue
        for mapping in replacement.output_mapping or ():
            if mapping["old_idx"] == link.slot:
                changed[name] = [link.source, mapping["new_idx"]]
                break
    return {**node, "inputs": {**inputs, **changed}} if changed else node


def _listed(items: tuple[Mapping[str, JSON], ...] | None) -> list[dict[str, JSON]] | None:
    return None if items is None else [dict(item) for item in items]

"""Node replacements: what packs say of old classes, as an answer, and applied to prompts that name them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from engine import Engine, NodeReplacement, PromptRequest
from policies import TenantId

JSON = Any


async def with_replacements(engine: Engine, tenant: TenantId, wanted: PromptRequest) -> PromptRequest:
    """The request with nodes of classes that are gone replaced, where a pack said by what."""
    said = await engine.extensions.replacements(tenant)
    if not said:
        return wanted
    known = (await engine.extensions.node_types(tenant)).keys()
    return dataclasses.replace(wanted, prompt=applied(wanted.prompt, known, said))


def as_answer(replacements: Sequence[NodeReplacement]) -> dict[str, list[dict[str, JSON]]]:
    """The answer of ``GET /node_replacements``."""
    found: dict[str, list[dict[str, JSON]]] = {}
    for item in replacements:
        found.setdefault(item.old_node_id, []).append(
            {
                "new_node_id": item.new_node_id,
                "old_node_id": item.old_node_id,
                "old_widget_ids": _listed(item.old_widget_ids),
                "input_mapping": _listed(item.input_mapping),
                "output_mapping": _listed(item.output_mapping),
            }
        )
    return found


def applied(prompt: JSON, known: Collection[str], replacements: Sequence[NodeReplacement]) -> JSON:
    """The prompt with nodes of unknown classes replaced where a pack said by what; anything odd stays as it is."""
    if not isinstance(prompt, dict) or not replacements:
        return prompt
    chosen: dict[str, NodeReplacement] = {}
    for item in replacements:
        if item.new_node_id in known and item.old_node_id not in known:
            chosen.setdefault(item.old_node_id, item)
    changed = {
        node_id: chosen[entry["class_type"]]
        for node_id, entry in prompt.items()
        if isinstance(entry, dict)
        and isinstance(entry.get("class_type"), str)
        and entry["class_type"] in chosen
        and isinstance(entry.get("_meta"), dict)
    }
    if not changed:
        return prompt
    result = {
        node_id: _replaced(entry, changed[node_id]) if node_id in changed else entry
        for node_id, entry in prompt.items()
    }
    return {node_id: _relinked(entry, changed) for node_id, entry in result.items()}


def _replaced(entry: Mapping[str, JSON], by: NodeReplacement) -> dict[str, JSON]:
    old = entry.get("inputs")
    inputs: dict[str, JSON] = {}
    for mapping in by.input_mapping or ():
        name = mapping.get("new_id")
        if not isinstance(name, str):
            continue
        if "set_value" in mapping:
            inputs[name] = mapping["set_value"]
        elif isinstance(old, dict) and mapping.get("old_id") in old:
            inputs[name] = old[mapping["old_id"]]
    return {"class_type": by.new_node_id, "inputs": inputs, "_meta": entry["_meta"]}


def _relinked(entry: JSON, changed: Mapping[str, NodeReplacement]) -> JSON:
    if not isinstance(entry, dict) or not isinstance(entry.get("inputs"), dict):
        return entry
    inputs = {name: _link(value, changed) for name, value in entry["inputs"].items()}
    return {**entry, "inputs": inputs}


def _link(value: JSON, changed: Mapping[str, NodeReplacement]) -> JSON:
    if not isinstance(value, list) or len(value) != 2 or not isinstance(value[0], str):
        return value
    by = changed.get(value[0])
    for mapping in (by.output_mapping if by is not None else None) or ():
        if mapping.get("old_idx") == value[1]:
            return [value[0], mapping.get("new_idx")]
    return value


def _listed(items: tuple[Any, ...] | None) -> list[Any] | None:
    return None if items is None else [dict(item) if isinstance(item, Mapping) else item for item in items]

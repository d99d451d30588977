"""How far a job is, as one number and some words; pure functions over a prompt and what its run has said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from api.v2.board import Live
from api.v2.models import ProgressView
from policies import safe_text


def needed_nodes(prompt: Mapping[str, Any], outputs: Iterable[str]) -> frozenset[str]:
    """Ids of the nodes that these outputs depend on, the outputs included."""
    found: set[str] = set()
    waiting = [node_id for node_id in outputs if node_id in prompt]
    while waiting:
        node_id = waiting.pop()
        if node_id in found:
            continue
        found.add(node_id)
        waiting.extend(filter(prompt.__contains__, map(_source, prompt[node_id].get("inputs", {}).values())))
    return frozenset(found)


def progress_of(live: Live, prompt: Mapping[str, Any], needed: frozenset[str]) -> ProgressView:
    """A complete snapshot."""
    done = {node_id for node_id in live.cached if node_id in needed}
    done |= {
        node_id for node_id, node in live.nodes.items() if node.state == "finished" and node_id in needed
    }
    current = live.nodes.get(live.changed or "")
    part = 0.0
    if current is None or current.state != "running":
        return ProgressView(value=_share(len(done), needed), nodes_done=len(done), nodes_total=len(needed))
    if current.max > 0 and current.node_id in needed:
        part = min(max(current.value / current.max, 0.0), 1.0)
    shown = current.real_id if current.real_id in prompt else current.display_id
    entry = prompt.get(current.node_id) or prompt.get(shown) or {}
    class_type = safe_text(str(entry.get("class_type", "")), 200)
    step, steps = int(current.value), int(current.max)
    return ProgressView(
        value=_share(len(done) + part, needed),
        nodes_done=len(done),
        nodes_total=len(needed),
        current_node=current.node_id,
        current_node_class=class_type or None,
        step=step,
        steps=steps,
        message=f"{class_type} {step}/{steps}",
    )


def _source(value: Any) -> str:
    """The node that an input is linked to, or "" (no node has that id)."""
    is_link = isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)
    return value[0] if is_link else ""


def _share(done: float, needed: frozenset[str]) -> float:
    return round(min(done / len(needed), 1.0), 4) if needed else 0.0

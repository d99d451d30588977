"""What a run leaves behind, in ComfyUI's shape: error objects and the history entry. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from engine.errors import ExpansionError, NodeInputError
from engine.graph import Graph, GraphNode
from engine.storage import QueuedPrompt
from policies import RingfenceError
from sandbox.errors import NodeRaisedError

JSON = Any

OUT_OF_MEMORY_ADVICE: Final = (
    "The device ran out of memory: lower the resolution or batch size, or stop other prompts."
)


def failure_details(
    error: RingfenceError,
    node: GraphNode,
    graph: Graph,
    *,
    executed: Iterable[str],
    current_inputs: Mapping[str, Sequence[JSON]],
) -> dict[str, JSON]:
    """ComfyUI's ``execution_error`` object, without prompt id and timestamp."""
    if isinstance(error, NodeRaisedError):
        kind = error.exception_type
        advice = error.hint or (OUT_OF_MEMORY_ADVICE if error.out_of_memory else "")
        text = f"{error.message}\n{advice}"
        inputs: Mapping[str, Sequence[JSON]] = error.inputs or current_inputs
        traceback: Sequence[str] = error.traceback
    else:
        kind = _kind(error)
        text, inputs = f"{error}\n", current_inputs
        traceback = tuple(getattr(error, "traceback", ()))
    return {
        "node_id": node.real,
        "node_type": graph[node.real].class_type,
        "executed": list(executed),
        "exception_message": text,
        "exception_type": kind,
        "traceback": list(traceback),
        "current_inputs": {name: list(values) for name, values in inputs.items()},
        "current_outputs": list(graph.original),
    }


def _kind(error: RingfenceError) -> str:
    if isinstance(error, ExpansionError):
        return error.kind
    if isinstance(error, NodeInputError):
        return "comfy_execution.graph.NodeInputError"
    return f"ringfence.{type(error).__name__}"


def cycle_details(cycle: Sequence[str], graph: Graph, *, executed: Iterable[str]) -> dict[str, JSON]:
    """The same for nodes that wait for each other, which only an expansion can bring about."""
    added = next((node_id for node_id in cycle if graph[node_id].parent is not None), None)
    blamed = cycle[0] if added is None else graph[added].display
    blamed = blamed if blamed in graph.original else graph[cycle[0]].real
    path = " -> ".join(f"{node_id} ({graph[node_id].class_type})" for node_id in (*cycle[:50], cycle[0]))
    return {
        "node_id": blamed,
        "node_type": graph[blamed].class_type,
        "executed": list(executed),
        "exception_message": f"Nodes depend on each other in a circle: {path}\n",
        "exception_type": "graph.DependencyCycleError",
        "traceback": [],
        "current_inputs": [],
        "current_outputs": list(graph.original),
    }


def refused_entry(
    row: QueuedPrompt, kind: str, text: str, now_ms: int
) -> tuple[dict[str, JSON], dict[str, JSON]]:
    """Error object and history entry of a prompt that could not even begin."""
    node_id = row.outputs[0] if row.outputs else ""
    entry = row.prompt.get(node_id)
    details: dict[str, JSON] = {
        "node_id": node_id,
        "node_type": entry.get("class_type", "") if isinstance(entry, Mapping) else "",
        "executed": [],
        "exception_message": f"{text}\n",
        "exception_type": kind,
        "traceback": [],
        "current_inputs": {},
        "current_outputs": list(row.prompt),
    }
    message = {**details, "prompt_id": row.prompt_id, "timestamp": now_ms}
    messages = [("execution_error", message)]
    return details, history_entry(row, outputs={}, meta={}, messages=messages, is_success=False)


def node_meta(node: GraphNode) -> dict[str, JSON]:
    """A node's entry in the history's ``meta``."""
    return {
        "node_id": node.node_id,
        "display_node": node.display,
        "parent_node": node.parent,
        "real_node_id": node.real,
    }


def whereabouts(node: GraphNode, *, sandbox: str | None, duration_ms: int | None) -> dict[str, JSON]:
    """Where a node ran and for how long; no sandbox: its result was already there."""
    return {
        "class_type": node.class_type,
        "real_node_id": node.real,
        "extension": node.node_type.extension,
        "sandbox": sandbox,
        "duration_ms": duration_ms,
        "cached": sandbox is None,
    }


def history_entry(
    row: QueuedPrompt,
    *,
    outputs: Mapping[str, JSON],
    meta: Mapping[str, JSON],
    messages: Sequence[tuple[str, Mapping[str, JSON]]],
    is_success: bool,
    nodes: Mapping[str, JSON] | None = None,
) -> dict[str, JSON]:
    """One entry of ``/history``. The prompt is the one that was queued, without what the run added to it.

    ``nodes`` (see ``whereabouts``) go under the key ``ringfence``, which ComfyUI's clients are not shown.
    """
    return {
        "prompt": [row.number, row.prompt_id, row.prompt, row.extra_data, list(row.outputs)],
        "outputs": dict(outputs),
        "status": {
            "status_str": "success" if is_success else "error",
            "completed": is_success,
            "messages": [[name, dict(data)] for name, data in messages],
        },
        "meta": dict(meta),
        "ringfence": {"nodes": dict(nodes or {})},
    }

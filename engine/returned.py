"""Whether what a node returned fits what its class declared when it was registered.

A sandbox says what came back, and could say anything: the registered schema and the inputs that were sent are ours, so
how many outputs there may be, and how many values in each, is known here. Fewer outputs than declared are no error, as
in ComfyUI: a node with a ui and nothing else returns none. Kinds of values are not compared: packs disagree on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.errors import NodeOutputError
from engine.graph import GraphNode
from policies import safe_text
from sandbox.calls import NodeResult, Value

JSON = Any


def check_outcome(node: GraphNode, inputs: Mapping[str, Sequence[Value] | None], outcome: NodeResult) -> None:
    """Compare an outcome with the node's registered schema.

    Raises:
        NodeOutputError: it has more outputs or calls, or other numbers of values, than the schema and inputs allow.
    """
    description = node.node_type.description
    declared = len(node.node_type.outputs)
    slots = outcome.slots or ()
    if outcome.calls is None and not outcome.blocked and len(slots) <= declared:
        for values in inputs.values():
            if values is not None and len(values) > 1:
                break
        else:
            for values in slots:
                if len(values) != 1:
                    break
            else:
                return  # one call, one value each: as any output may be
    expected = _calls(inputs, whole=description.info.get("is_input_list") is True)
    for index, _ in outcome.blocked:
        if index >= expected:
            raise _wrong(node, f"a blocker for call {index}, and it was called {_times(expected)}")
    if outcome.calls is not None:
        if len(outcome.calls) != expected:
            raise _wrong(
                node, f"{len(outcome.calls)} results of an expansion for {expected} calls of it, one each"
            )
        for call in outcome.calls:
            if call.expand is not None and description.api == "v3" and not description.enable_expand:
                raise _wrong(node, f"an expansion of {len(call.expand)} nodes, and its class declares none")
            if len(call.result) > declared:
                raise _wrong(node, f"{len(call.result)} outputs, and its class declares {declared}")
        return
    if len(slots) > declared:
        raise _wrong(node, f"{len(slots)} outputs, and its class declares {declared}")
    flags = _listed(description.info.get("output_is_list"))
    for position, values in enumerate(slots):
        is_list = position < len(flags) and flags[position] is True
        if not is_list and len(values) != expected:
            raise _wrong(
                node,
                f"{len(values)} values in output {position}, which is declared as no list and has one for each of "
                f"the {expected} calls",
            )


def _calls(inputs: Mapping[str, Sequence[Value] | None], *, whole: bool) -> int:
    """How often the node's function was called: execution-semantics, list mapping."""
    if whole:
        return 1
    longest = max((1 if values is None else len(values) for values in inputs.values()), default=1)
    return max(longest, 1)


def _listed(value: JSON) -> Sequence[JSON]:
    return value if isinstance(value, (list, tuple)) else ()


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _wrong(node: GraphNode, figure: str) -> NodeOutputError:
    extension = node.node_type.extension
    return NodeOutputError(
        f"node {safe_text(node.node_id, 80)!r} ({safe_text(node.class_type, 80)}) of extension '{extension}' "
        f"returned {figure}",
        hint=f"if the pack was changed since it was loaded: ringfence extension reload {extension}",
    )

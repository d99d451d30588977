"""What the execution of a node may give: outputs, an expansion, things to show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

from pydantic import Field, StringConstraints

from policies import SandboxId, safe_text
from sandbox import hostile_json
from sandbox.calls import NUMBERS, PART_BYTES, ForeignHandle, NodeResult, Value, measure
from sandbox.errors import ProtocolViolationError, QuotaError
from sandbox.fast_paths import TAKEN, FastPath
from sandbox.messages.envelope import NodeId, Text, checked
from sandbox.records import record
from sandbox.strict import Name, Strict
from sandbox.values import Parsed, Reader

MAX_RESULT_PARTS: Final = 200_000
"""JSON values in the frame of one node result, all values and ``ui`` together; larger data travels in files."""
PLAIN_SLOTS: Final = 16
PLAIN_TEXT: Final = 200
"""Outputs and characters of what ``executed_plainly`` reads."""
PLAIN_PARTS: Final = 200
"""Parts of a ``ui`` that it reads."""
_EXECUTED: Final = frozenset({"slots", "ui", "calls", "blocked"})


class _Blocked(Strict):
    index: Annotated[int, Field(ge=0, le=10**9)]
    message: Text


class _ExpandedNode(Strict):
    class_type: Name
    inputs: dict[Annotated[str, StringConstraints(max_length=256)], Any]
    override_display_id: NodeId | None = None


class _Call(Strict):
    result: list[Any]
    expand: dict[NodeId, _ExpandedNode] | None


class _Executed(Strict):
    slots: list[list[Any]] | None
    ui: dict[str, Any] | None
    calls: list[_Call] | None
    blocked: Annotated[list[_Blocked], Field(max_length=100_000)]


@record
class ParsedNode:
    """A node of an expansion whose constants still name files of the sandbox."""

    class_type: str
    inputs: dict[str, Parsed]
    override_display_id: str | None


@record
class ParsedCall:
    """One mapped call of an expanding node."""

    result: list[Parsed]
    expand: dict[str, ParsedNode] | None


@record
class ParsedResult:
    """An execute result, checked; the files in it are still the sandbox's."""

    slots: list[list[Parsed]] | None
    calls: list[ParsedCall] | None
    ui: dict[str, Any] | None
    blocked: tuple[tuple[int, str], ...]

    def values(self) -> list[Parsed]:
        """Every value in it."""
        found = [value for slot in self.slots or () for value in slot]
        for call in self.calls or ():
            found += call.result
            for node in (call.expand or {}).values():
                found += node.inputs.values()
        return found


def executed(
    result: Any,
    sandbox: SandboxId,
    *,
    max_values: int,
    max_expansion: int,
    foreign: Mapping[int, ForeignHandle] | None = None,
) -> ParsedResult:
    """Check an execute result; ``foreign`` are the objects of other sandboxes that it may hand on.

    Raises:
        ProtocolViolationError: it is none.
        QuotaError: more values or expanded nodes than the policy allows, or more than ``MAX_RESULT_PARTS``.
        HandleNotPortableError: it hands on an object that it was not given.
    """
    slots = _nothing_but_slots(result)
    if slots is not None:
        _check_count(sum(map(len, slots)), max_values)
        read = Reader(sandbox, max_parts=MAX_RESULT_PARTS - 1, foreign=foreign).read
        return ParsedResult([[read(item) for item in slot] for slot in slots], None, None, ())
    said = checked(_Executed, result, "node result")
    if (said.slots is None) == (said.calls is None):
        raise ProtocolViolationError("it sent a node result with both or neither of slots and calls")
    count = sum(map(len, said.slots or ())) + sum(len(call.result) for call in said.calls or ())
    _check_count(count, max_values)
    expanded = sum(len(call.expand or ()) for call in said.calls or ())
    if expanded > max_expansion:
        raise QuotaError(
            f"the node expands into {expanded} nodes, the policy allows {max_expansion}",
            "raise 'limits.expansion_nodes'",
        )
    ui_parts, _ = measure(said.ui)
    read = Reader(sandbox, max_parts=MAX_RESULT_PARTS - ui_parts, foreign=foreign).read
    return ParsedResult(
        slots=None if said.slots is None else [[read(item) for item in slot] for slot in said.slots],
        calls=None if said.calls is None else [_call(call, read) for call in said.calls],
        ui=None if said.ui is None else hostile_json.plain(said.ui),
        blocked=tuple((item.index, safe_text(item.message, newlines=True)) for item in said.blocked),
    )


def _nothing_but_slots(result: Any) -> list[list[Any]] | None:
    """The slots of a result that has nothing else in it: most have not, and the model would say the same of them."""
    slots = _slots(result)
    if slots is None or result["ui"] is not None:
        return None
    for slot in slots:
        if type(slot) is not list:
            return None
    return slots


def _slots(result: Any) -> list[Any] | None:
    """The slots of a result that neither expands nor blocks, where it may be read without a model."""
    if FastPath.PLAIN_RESULTS not in TAKEN or type(result) is not dict or result.keys() != _EXECUTED:
        return None
    slots = result["slots"]
    return slots if type(slots) is list and result["calls"] is None and result["blocked"] == [] else None


def _check_count(count: int, max_values: int) -> None:
    if count > max_values:
        raise QuotaError(
            f"the node returned {count} values, the policy allows {max_values}", "raise 'limits.outputs'"
        )


def executed_plainly(result: Any, *, max_values: int) -> NodeResult | None:
    """What becomes of the plainest results: of each output one number, truth or short text, and to show some lists of
    such, or of objects of such. None: not that plain.

    There is nothing to take over in it, so it is what the engine gets.
    """
    slots = _slots(result)
    if slots is None or ((ui := result["ui"]) is not None and not _is_plain(ui)):
        return None
    if (count := len(slots)) > max_values or count > PLAIN_SLOTS:
        return None
    read: list[tuple[Value]] = []
    for slot in slots:
        if type(slot) is not list or len(slot) != 1:
            return None
        (value,) = slot
        if type(value) in NUMBERS:
            weight = PART_BYTES
        elif type(value) is str and value.isascii() and len(value) <= PLAIN_TEXT:
            weight = PART_BYTES + len(value)
        else:
            return None
        read += [(Value(value, weight=weight),)]
    return NodeResult(tuple(read), ui, None, ())


def _is_plain(ui: Any) -> bool:
    """Whether a ``ui`` is few lists of numbers and texts, or of objects of such, as files that were saved are told."""
    if type(ui) is not dict:
        return False
    parts: list[Any] = []
    for items in ui.values():
        if type(items) is not list or len(items) > PLAIN_PARTS:
            return False
        for item in items:
            if type(item) is dict:
                parts += item.values()
            else:
                parts.append(item)
        if len(parts) > PLAIN_PARTS:
            return False
    for part in parts:
        kind = type(part)
        # A whole number beyond 64 bits is one that ``hostile_json.plain`` makes another of.
        if kind is int:
            if not -(2**63) <= part < 2**63:
                return False
        elif kind is not str and kind not in NUMBERS:
            return False
    return len(ui) <= PLAIN_PARTS


def _call(call: _Call, read: Callable[[Any], Parsed]) -> ParsedCall:
    expand = {
        name: ParsedNode(
            node.class_type,
            {key: read(item) for key, item in node.inputs.items()},
            node.override_display_id,
        )
        for name, node in (call.expand or {}).items()
    }
    return ParsedCall([read(item) for item in call.result], expand or None)

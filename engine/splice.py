"""The result of a node that expanded: links to children replaced by what the children produced, calls merged.

Rules: execution-semantics §9.2 and the merge of §5. Every value handed out has a holder of its own, so the maker of the
``NodeResult`` lets go of the originals afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from engine.cache import Result, Slots
from engine.errors import ExpansionError
from engine.prompt import as_link
from engine.values import Ledger, list_items
from policies import safe_text
from sandbox.calls import ExpandedCall, Value

JSON = Any


def links_of(calls: Sequence[ExpandedCall]) -> list[str]:
    """Ids of the nodes that the results of expanding calls link to, in order, each once."""
    found: dict[str, None] = {}
    for call in calls:
        if call.expand is not None:
            for value in call.result:
                link = as_link(value.tree)
                if link is not None:
                    found[link.source] = None
    return list(found)


def splice(
    calls: Sequence[ExpandedCall],
    is_list: Sequence[bool],
    result_of: Callable[[str], Result | None],
    ledger: Ledger,
    who: str,
) -> Slots:
    """Merge the calls of an expanding node slot by slot. Each value in the answer is held once for the caller.

    Raises:
        ExpansionError: calls returned different numbers of slots, a list slot holds no list, or a result links to an
            output that its node did not return.
    """
    rows = [list(_spliced(call, result_of, who)) for call in calls]
    if not rows:
        return ()
    if any(len(row) != len(rows[0]) for row in rows):
        counts = ", ".join(str(len(row)) for row in rows[:20])
        raise ExpansionError(
            f"{who}: its calls returned different numbers of outputs ({counts})", kind="IndexError"
        )
    slots: list[tuple[Value, ...]] = []
    held: list[Value] = []
    try:
        for position in range(len(rows[0])):
            merged: list[Value] = []
            for row in rows:
                value = row[position]
                if position < len(is_list) and is_list[position] and not value.is_blocker:
                    items = list_items(value)
                    if items is None:
                        raise ExpansionError(
                            f"{who}: output {position} is declared a list, but holds none", kind="TypeError"
                        )
                    merged += items
                else:
                    merged.append(value)
            for value in merged:
                ledger.retain(value)
                held.append(value)
            slots.append(tuple(merged))
    except BaseException:
        ledger.release_all(held)
        raise
    return tuple(slots)


def _spliced(call: ExpandedCall, result_of: Callable[[str], Result | None], who: str) -> Iterator[Value]:
    for value in call.result:
        link = as_link(value.tree) if call.expand is not None else None
        if link is None:
            yield value
            continue
        result = result_of(link.source)
        count = 0 if result is None else len(result.slots)
        if result is None or not 0 <= link.slot < count:
            raise ExpansionError(
                f"{who}: its result links to output {link.slot} of node {safe_text(link.source, 80)!r}, "
                f"which returned {count}",
                kind="IndexError",
            )
        yield from result.slots[link.slot]

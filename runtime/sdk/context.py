"""Which node call the running code belongs to.

A context variable, so it follows async tasks and ``asyncio.to_thread``. Threads that a pack starts by itself have no
context: what they report is put down to the call that started last (``latest``), as packs expect.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextvars import ContextVar, Token
from dataclasses import dataclass, field


class Flag:
    """Set or not: a ``threading.Event`` that nobody waits for, which is made for every call."""

    __slots__ = ("_is_set",)

    def __init__(self) -> None:
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True

    def clear(self) -> None:
        self._is_set = False


@dataclass(slots=True, eq=False)
class CallContext:
    """One mapped call of a node."""

    call: str | int
    """The host's id of the call; progress names it."""
    prompt_id: str
    node_id: str
    list_index: int | None
    """Which item of a list-mapped call; None outside list mapping."""
    interrupted: Flag = field(default_factory=Flag, repr=False)
    """Set once the host (or the pack) asked the call to stop; shared by all mapped calls of one execution."""
    is_execution: bool = True
    """False for validators and the like: the host listens for the progress of executions only."""
    client_id: str | None = None
    """The client that queued the prompt, if it said who it is."""
    graphs: Iterator[int] = field(default_factory=itertools.count, repr=False)
    """Numbers the graph builders that this call makes, for their default prefixes."""

    def next_graph_prefix(self) -> str:
        """Default id prefix for the next ``GraphBuilder`` of this call: ``<node id>.<call index>.<graph index>.``"""
        return f"{self.node_id}.{self.list_index or 0}.{next(self.graphs)}."


_current: ContextVar[CallContext | None] = ContextVar("ringfence_call", default=None)
_active: list[CallContext] = []  # in the order entered; list operations are atomic, so no lock


def current() -> CallContext | None:
    """The call this code runs in, or None (import time, a pack's own thread, a description)."""
    return _current.get()


def latest() -> CallContext | None:
    """The execution that was entered last and is not over; the best guess where there is no context."""
    try:
        return _active[-1]
    except IndexError:
        return None


class entered:  # noqa: N801 - reads as a verb in `with`; a class, for it is entered with every call
    """Run the body as part of ``call``."""

    __slots__ = ("_call", "_token")
    _token: Token[CallContext | None]

    def __init__(self, call: CallContext) -> None:
        self._call = call

    def __enter__(self) -> CallContext:
        call = self._call
        self._token = _current.set(call)
        if call.is_execution:
            _active.append(call)
        return call

    def __exit__(self, *_: object) -> None:
        if self._call.is_execution:
            _active.remove(self._call)
        _current.reset(self._token)

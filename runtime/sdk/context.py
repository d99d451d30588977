"""Which node call the running code belongs to.

A context variable, so it follows async tasks and ``asyncio.to_thread``. Threads that a pack starts by itself have no
context: what they report is put down to the call that started last (``latest``), as packs expect.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, eq=False)
class CallContext:
    """One mapped call of a node."""

    call: str | int
    """The host's id of the call; progress names it."""
    prompt_id: str
    node_id: str
    list_index: int | None
    """Which item of a list-mapped call; None outside list mapping."""
    interrupted: threading.Event = field(default_factory=threading.Event, repr=False)
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


@contextmanager
def entered(call: CallContext) -> Iterator[CallContext]:
    """Run the body as part of ``call``."""
    token = _current.set(call)
    if call.is_execution:
        _active.append(call)
    try:
        yield call
    finally:
        if call.is_execution:
            _active.remove(call)
        _current.reset(token)

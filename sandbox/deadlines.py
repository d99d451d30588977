"""The deadlines of calls that wait, with one timer for all of them."""

from __future__ import annotations

import asyncio
from typing import Protocol


class Waiting(Protocol):
    """A call that waits for its answer."""

    def too_late(self) -> None:
        """Its deadline has passed."""


class Deadlines:
    """The deadlines of the calls of one conversation that wait, and one timer for all of them.

    The timer is set to the earliest deadline or to an earlier one, of a call that no longer waits: it then looks, and
    is set anew. So calls that follow each other set no timer each.
    """

    def __init__(self) -> None:
        self._due: dict[Waiting, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._set_to = 0.0

    def add(self, call: Waiting, loop: asyncio.AbstractEventLoop, limit_s: float) -> None:
        """``call`` waits, from now on for so long."""
        due = self._due[call] = loop.time() + limit_s
        if self._timer is None or due < self._set_to:
            self._set(loop, due)

    def remove(self, call: Waiting) -> None:
        """It does not wait any more."""
        self._due.pop(call, None)

    @property
    def is_set(self) -> bool:
        """Whether the timer runs."""
        return self._timer is not None

    def stop(self) -> None:
        """Nothing waits any more, and nothing will."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self.stop()
        self._set_to = due
        self._timer = loop.call_at(due, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        for call, due in list(self._due.items()):
            if due <= now:
                del self._due[call]
                call.too_late()
        if self._due:
            self._set(loop, min(self._due.values()))

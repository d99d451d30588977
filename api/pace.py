"""How often one socket hears about progress and the queue. Everything else passes at once and in its order.

A client hears every change until they come faster than anybody looks; from there on the latest state is sent so
many times a second. Nothing final is lost: what is held back goes out before the prompt's end is said, and a node's
own progress before it is said that a node began or has something to show. A tenant with many sockets hears less often
on each: what is sent to all of them together has a bound, too.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from engine.events import (
    Event,
    NodeExecuted,
    NodeStarted,
    ProgressChanged,
    PromptEnded,
    PromptEvent,
    PromptFailed,
    PromptInterrupted,
    PromptSucceeded,
    QueueChanged,
)
from sandbox import Allowance

PER_S: Final = 10.0
BURST: Final = 100.0
SOCKETS: Final = 10
"""What more than so many sockets of one tenant hear together is no more than these would."""
MAP: Final = 64
"""Nodes of a prompt's map that are told for the price of one change; a larger one is told more seldom."""
MOST: Final = 10.0
"""The price of the largest map, so that it is told once a second still."""
_ENDS: Final = (PromptSucceeded, PromptFailed, PromptInterrupted, PromptEnded)
_PACED: Final = (ProgressChanged, QueueChanged)
_HELD: Final = 256
_QUEUE: Final = ""  # no prompt has this id

_Key = tuple[str, str | None]


class Pace:
    """What one socket is told now, and what a little later."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, *, company: Callable[[], int] = lambda: 1
    ) -> None:
        self._clock = clock
        self._company = company
        self._allowance = Allowance(PER_S, BURST, clock)
        self._held: dict[_Key, Event] = {}
        self._since = math.inf
        self._price = 1.0

    def due_s(self) -> float:
        """How long it may wait for the next event until something held back is due."""
        return max(0.0, self._since + self._price / PER_S - self._clock()) if self._held else math.inf

    @property
    def is_holding(self) -> bool:
        """True while something is held back."""
        return bool(self._held)

    def pass_on(self, event: Event) -> list[Event]:
        """What to tell now that this happened."""
        if not isinstance(event, _PACED):
            return [*self._before(event), event] if self._held else [event]
        key = _key(event)
        before = self._held.pop(key, None) if self._held else None
        if isinstance(event, ProgressChanged) and isinstance(before, ProgressChanged):
            event = replace(event, preview=event.preview or before.preview)
        price = _price(event) * max(1.0, self._company() / SOCKETS)
        if self._allowance.take(price):
            return [event]
        if not self._held:
            self._since, self._price = self._clock(), 1.0
        self._price = max(self._price, price)
        self._held[key] = event
        # Many nodes of one prompt at once: whoever has been held longest goes, so that nothing grows.
        return [self._held.pop(next(iter(self._held)))] if len(self._held) > _HELD else []

    def overdue(self) -> list[Event]:
        """What was held back long enough."""
        if not self._held or self.due_s() > 0:
            return []
        return self.rest()

    def rest(self) -> list[Event]:
        """Everything that was held back."""
        held = list(self._held.values())
        self._held.clear()
        return list(held)

    def _before(self, event: Event) -> list[Event]:
        if not self._held or not isinstance(event, PromptEvent):
            return []
        of_nodes = isinstance(event, NodeStarted | NodeExecuted)
        if not of_nodes and not isinstance(event, _ENDS):
            return []
        mine = (event.prompt_id,) if of_nodes else (event.prompt_id, _QUEUE)
        keys = [key for key in self._held if key[0] in mine and (key[1] is not None or not of_nodes)]
        return [self._held.pop(key) for key in keys]


def _key(event: ProgressChanged | QueueChanged) -> _Key:
    """A node's own progress bar and pictures are that node's; all else is the prompt's whole map."""
    if isinstance(event, QueueChanged):
        return _QUEUE, None
    has_own = event.legacy or event.preview is not None
    return event.prompt_id, event.changed if has_own else None


def _price(event: ProgressChanged | QueueChanged) -> float:
    return min(MOST, max(1.0, len(event.nodes) / MAP)) if isinstance(event, ProgressChanged) else 1.0

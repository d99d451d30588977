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
PACED: Final = frozenset({ProgressChanged, QueueChanged})
"""What may be held back; the rest passes, and asks only for what is held back."""
_ENDS: Final = frozenset({PromptSucceeded, PromptFailed, PromptInterrupted, PromptEnded})
_OF_NODES: Final = frozenset({NodeStarted, NodeExecuted})
_HELD: Final = 256
_Key = tuple[str, str | None]
_THE_QUEUE: Final[_Key] = ("", None)  # no prompt has this id


class Pace:
    """What one socket is told now, and what a little later."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, *, company: Callable[[], int] = lambda: 1
    ) -> None:
        self._clock = clock
        self._company = company
        self._allowance = Allowance(PER_S, BURST, clock)
        self.held: dict[_Key, Event] = {}
        """What is held back."""
        self._since = math.inf
        self._price = 1.0

    def due_s(self) -> float:
        """How long it may wait for the next event until something held back is due."""
        return max(0.0, self._since + self._price / PER_S - self._clock()) if self.held else math.inf

    def pass_on(self, event: Event) -> list[Event]:
        """What to tell now that this happened."""
        held, price = self.held, 1.0
        if type(event) not in PACED:
            return [*self.before(event), event]
        if type(event) is ProgressChanged:
            # A node's own progress bar and pictures are that node's; all else is the prompt's whole map.
            has_own = event.legacy or event.preview is not None
            key: _Key = event.prompt_id, event.changed if has_own else None
            before = held.pop(key, None) if held else None
            if (
                before is not None
                and event.preview is None
                and isinstance(before, ProgressChanged)
                and before.preview
            ):
                event = replace(event, preview=before.preview)
            nodes = len(event.nodes)
            if nodes > MAP:
                price = min(MOST, nodes / MAP)
        else:
            key = _THE_QUEUE
            held.pop(key, None)
        company, now = self._company(), self._clock()
        if company > SOCKETS:
            price *= company / SOCKETS
        if self._allowance.take(price, now):
            return [event]
        if not held:
            self._since, self._price = now, price
        elif price > self._price:
            self._price = price
        held[key] = event
        # Many nodes of one prompt at once: whoever has been held longest goes, so that nothing grows.
        return [held.pop(next(iter(held)))] if len(held) > _HELD else []

    def overdue(self) -> list[Event]:
        """What was held back long enough."""
        if not self.held or self.due_s() > 0:
            return []
        return self.rest()

    def rest(self) -> list[Event]:
        """Everything that was held back."""
        held = list(self.held.values())
        self.held.clear()
        return held

    def before(self, event: Event) -> list[Event]:
        """What was held back and is to be told before this, which itself passes."""
        kind = type(event)
        is_end = kind in _ENDS
        if not is_end and kind not in _OF_NODES:
            return []
        due: list[_Key] = []
        prompt_id: str = event.prompt_id  # type: ignore[attr-defined]
        for key in self.held:
            if (key[0] == prompt_id or key is _THE_QUEUE) and (is_end or key[1] is not None):
                due.append(key)  # noqa: PERF401 - asked of every node: no comprehension's frame
        return [self.held.pop(key) for key in due] if due else []

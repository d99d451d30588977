"""How much of something was used within the last while: a sum that forgets, in bounded memory."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

_SLOTS: Final = 120


class RollingSum:
    """Amounts of the last ``window_s`` seconds, remembered in slots of a 120th of it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._slots: deque[tuple[float, float]] = deque()  # when the slot began, how much fell into it
        self._sum = 0.0

    def add(self, amount: float, window_s: float) -> None:
        """So much was used now."""
        now = self._clock()
        self._forget(now - window_s)
        if self._slots and now - self._slots[-1][0] < window_s / _SLOTS:
            began, before = self._slots[-1]
            self._slots[-1] = (began, before + amount)
        else:
            self._slots.append((now, amount))
        self._sum += amount

    def total(self, window_s: float) -> float:
        """What was used within the window."""
        self._forget(self._clock() - window_s)
        return max(0.0, self._sum)

    def seconds_until_below(self, limit: float, window_s: float) -> float:
        """When enough of it will be forgotten; 0 when it is below now."""
        left = self.total(window_s)
        for began, amount in self._slots:
            if left < limit:
                break
            left -= amount
            if left < limit:
                return max(0.0, began + window_s - self._clock())
        return 0.0 if left < limit else window_s

    def slots(self) -> list[tuple[float, float]]:
        """What is remembered, oldest first: how many seconds ago it began, and how much it was."""
        now = self._clock()
        return [(now - began, amount) for began, amount in self._slots]

    def restore(self, slots: Sequence[tuple[float, float]]) -> None:
        """Remember what ``slots`` of an earlier sum remembered, beside what came since."""
        now = self._clock()
        before = sorted((now - age, amount) for age, amount in slots)
        self._slots = deque(sorted([*before, *self._slots]))
        self._sum = sum(amount for _, amount in self._slots)

    def _forget(self, before: float) -> None:
        while self._slots and self._slots[0][0] <= before:
            self._sum -= self._slots.popleft()[1]
        if not self._slots:
            self._sum = 0.0

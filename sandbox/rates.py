"""How much somebody may do per second."""

from __future__ import annotations

import time
from collections.abc import Callable


class Allowance:
    """A token bucket: ``rate`` per second, up to ``burst`` at once. Not shared between threads."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] | None = None) -> None:
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._clock = clock or (lambda: time.monotonic())  # noqa: PLW0108 - looked up at each call
        self._at = self._clock()

    def take(self, amount: float = 1.0) -> bool:
        """Take ``amount`` if it is there."""
        self._refill()
        if self._left < amount:
            return False
        self._left -= amount
        return True

    def borrow(self, amount: float) -> float:
        """Take ``amount`` in any case; the seconds to wait until it has been earned."""
        self._refill()
        self._left -= amount
        return max(0.0, -self._left / self._rate)

    def _refill(self) -> None:
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now

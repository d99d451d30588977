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
        self._clock = clock
        self._at = self._now()

    def take(self, amount: float = 1.0, now: float | None = None) -> bool:
        """Take ``amount`` if it is there; ``now`` is for whoever has just looked at the clock."""
        if now is None:
            now = time.monotonic() if self._clock is None else self._clock()
        left = self._left + (now - self._at) * self._rate
        if left > self._burst:
            left = self._burst
        self._at = now
        if left < amount:
            self._left = left
            return False
        self._left = left - amount
        return True

    def borrow(self, amount: float) -> float:
        """Take ``amount`` in any case; the seconds to wait until it has been earned."""
        self._refill()
        self._left -= amount
        return max(0.0, -self._left / self._rate)

    def _now(self) -> float:
        return time.monotonic() if self._clock is None else self._clock()

    def _refill(self) -> None:
        now = self._now()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now

"""A token bucket: how chatty a pack may be before its words are dropped (and counted)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Budget:
    """Allows a burst, then a steady rate. Thread-safe."""

    def __init__(
        self, burst: float, per_second: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._burst = burst
        self._per_second = per_second
        self._clock = clock
        self._left = burst
        self._since = clock()
        self._lock = threading.Lock()

    def take(self, amount: float = 1.0) -> bool:
        """Take ``amount`` from the budget; False, taking nothing, when that much is not left."""
        with self._lock:
            now = self._clock()
            self._left = min(self._burst, self._left + (now - self._since) * self._per_second)
            self._since = now
            if amount > self._left:
                return False
            self._left -= amount
            return True

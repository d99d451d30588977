"""How often somebody may be wrong: failed log-ins by address, in bounded memory.

A token has 256 random bits, so nobody guesses one; this keeps those who try from filling the log and the machine.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from policies import RingfenceError

FAILURES = 10
WINDOW_S = 300.0
_MOST_ADDRESSES = 4096


class TooManyAttemptsError(RingfenceError):
    """Too many failed log-ins from one address."""

    code = "too-many-attempts"

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(
            f"too many failed log-ins from your address: {FAILURES} in {WINDOW_S / 60:.0f} minutes",
            hint=f"try again in {retry_after_s} s",
        )
        self.retry_after_s = retry_after_s


class Attempts:
    """Failed log-ins of the last minutes."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._failed: OrderedDict[str, deque[float]] = OrderedDict()

    def check(self, who: str) -> None:
        """Raises: TooManyAttemptsError when another attempt has to wait."""
        failed = self._failed.get(who)
        if failed is None:
            return
        now = self._now()
        while failed and now - failed[0] >= WINDOW_S:
            failed.popleft()
        if not failed:
            del self._failed[who]
        elif len(failed) >= FAILURES:
            raise TooManyAttemptsError(max(1, math.ceil(WINDOW_S - (now - failed[0]))))

    def failed(self, who: str) -> None:
        """Note a failure."""
        self._failed.setdefault(who, deque(maxlen=FAILURES)).append(self._now())
        self._failed.move_to_end(who)
        while len(self._failed) > _MOST_ADDRESSES:
            self._failed.popitem(last=False)

    @property
    def addresses(self) -> int:
        """How many addresses are remembered."""
        return len(self._failed)

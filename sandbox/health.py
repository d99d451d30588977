"""Which extensions keep dying, and for how long they are held back. A clock and counters, nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from sandbox.errors import QuarantinedError

FIRST_S: Final = 2.0
LONGEST_S: Final = 300.0


@dataclass(slots=True)
class _State:
    deaths: int = 0
    until: float = 0.0
    last: str = ""


@dataclass(slots=True)
class Health:
    """After ``after`` deaths in a row an owner is held back: 2 s, then twice as long each time, to five minutes."""

    after: int = 3
    clock: Callable[[], float] = time.monotonic
    _states: dict[str, _State] = field(default_factory=dict)

    def died(self, owner: str, why: str) -> None:
        """One more death with no successful call since the last."""
        state = self._states.setdefault(owner, _State())
        state.deaths += 1
        state.last = why
        if state.deaths >= self.after:
            state.until = self.clock() + min(FIRST_S * 2.0 ** (state.deaths - self.after), LONGEST_S)

    def worked(self, owner: str) -> None:
        """A call succeeded: what was before is forgotten."""
        self._states.pop(owner, None)

    def held_for(self, owner: str) -> float:
        """Seconds until it may start again; 0 when it may."""
        state = self._states.get(owner)
        return max(0.0, state.until - self.clock()) if state else 0.0

    def longest(self, prefix: str) -> float:
        """The longest that any owner whose name begins with ``prefix`` is held back."""
        return max((self.held_for(owner) for owner in self._states if owner.startswith(prefix)), default=0.0)

    def check(self, owner: str, who: str) -> None:
        """Raises: QuarantinedError while it is held back."""
        left = self.held_for(owner)
        if left > 0:
            state = self._states[owner]
            raise QuarantinedError(
                f"{who} ended {state.deaths} times in a row and is held back for {left:.0f} s; last: {state.last}",
                "mend the cause; it is tried again by itself",
                retry_after_s=left,
            )

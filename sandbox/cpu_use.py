"""The CPU time of one sandbox, from readings of its counter: what was new, and what ran while nobody waited."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_RESTLESS_S: Final = 1.0
"""CPU time that an idle worker does not use."""


@dataclass(slots=True)
class CpuUse:
    """Told of each reading, in order."""

    total_s: float = 0.0
    idle_s: float = 0.0
    """Used since it was last in use."""

    def read(self, total_s: float | None) -> float:
        """A reading, None when there is none: the seconds since the one before."""
        if total_s is None:
            return 0.0
        used, self.total_s = max(0.0, total_s - self.total_s), total_s
        return used

    def used(self, seconds: float, *, is_idle: bool) -> None:
        """So much of what was read was used while it was idle, or was not."""
        self.idle_s = self.idle_s + seconds if is_idle else 0.0

    @property
    def is_restless(self) -> bool:
        """Whether something works on in it while it is idle."""
        return self.idle_s > _RESTLESS_S

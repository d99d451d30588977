"""The CPU time of one sandbox, from readings of its counter: what is new, what ran while idle, and when to read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_RESTLESS_S: Final = 1.0
"""CPU time that an idle worker does not use."""
_QUIET: Final = 0.1
"""The share of one processor below which nothing works in a sandbox; gVisor's need a twentieth while they wait."""
QUIET_READ_S: Final = 5.0
"""How often a quiet sandbox is read. The counter only grows: nothing is lost meanwhile, it is charged later."""


@dataclass(slots=True)
class CpuUse:
    """Told of each reading, in order."""

    total_s: float = 0.0
    idle_s: float = 0.0
    """Used since it was last in use."""
    read_at: float = 0.0
    """When it was last read, by the monotonic clock."""
    is_quiet: bool = False
    """Nothing worked in it between the last two readings."""

    def is_due(self, now: float, used_at: float) -> bool:
        """Whether one that nobody uses now, and somebody used last at ``used_at``, shall be read again."""
        return not self.is_quiet or used_at >= self.read_at or now - self.read_at >= QUIET_READ_S

    def read(self, total_s: float | None, now: float) -> float:
        """A reading, None when there is none: the seconds since the one before."""
        elapsed, self.read_at = now - self.read_at, now
        if total_s is None:
            self.is_quiet = False
            return 0.0
        used, self.total_s = max(0.0, total_s - self.total_s), total_s
        self.is_quiet = used <= _QUIET * elapsed
        return used

    def used(self, seconds: float, *, is_idle: bool) -> None:
        """So much of what was read was used while it was idle, or was not."""
        self.idle_s = self.idle_s + seconds if is_idle else 0.0

    @property
    def is_restless(self) -> bool:
        """Whether something works on in it while it is idle."""
        return self.idle_s > _RESTLESS_S

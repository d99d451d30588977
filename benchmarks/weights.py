"""Who has the processor first in a benchmark: what ``cpu_shares`` in compose.yaml gives the services, for processes.

``nice`` is not enough: a kernel with autogroups (``/proc/sys/kernel/sched_autogroup_enabled``) compares it within one
session only, and gives each session, and all containers together, the same.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final, Self

SERVICE: Final = 65536
"""As in compose.yaml."""
LEAST: Final = 2
_V1: Final = Path("/sys/fs/cgroup/cpu")


def can_weigh() -> bool:
    """Whether cgroups of this kind can be made here: version 1, as root. Elsewhere ``nice`` has to do."""
    return os.geteuid() == 0 and (_V1 / "docker").is_dir()


class Weighed:
    """A cgroup with a weight, for this block."""

    def __init__(self, name: str, shares: int, *, beside_containers: bool = False) -> None:
        self._place = (_V1 / "docker" if beside_containers else _V1) / f"ringfence-bench-{os.getpid()}-{name}"
        self._shares = shares

    def __enter__(self) -> Self:
        if can_weigh():
            self._place.mkdir()
            (self._place / "cpu.shares").write_text(str(self._shares))
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # where there is none, or something else is in it still
            if str(os.getpid()) in (self._place / "cgroup.procs").read_text().split():
                (_V1 / "cgroup.procs").write_text(str(os.getpid()))
            self._place.rmdir()

    def take(self, pid: int) -> None:
        """Put a process there, with all its threads and later children."""
        if can_weigh():
            (self._place / "cgroup.procs").write_text(str(pid))
        elif os.geteuid() == 0:
            os.setpriority(os.PRIO_PROCESS, pid, -10 if self._shares >= SERVICE else 19)

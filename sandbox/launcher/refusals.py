"""How many processes the kernel refused each sandbox, known before the sandbox dies of it.

A sandbox that dies because it was refused a process takes its cgroup, and with it the counter, along: whoever reads it
after the death finds nothing. The kernel tells those who wait on ``pids.events``, so we wait on all of them at once;
not every kernel does so for cgroup v1, so we also look now and then.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from typing import Final

import anyio

from sandbox.launcher.cgroups import Cgroup

_WORD: Final = b"max"
_MOST: Final = 4096
_LOOK_S: Final = 0.25


class Refusals:
    """Every sandbox's counter of refused processes, in one place to wait at.

    The files are the kernel's own, in memory: reading one is a system call and waits for nothing.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._told: dict[int, Callable[[int], None]] = {}

    def watch(self, cgroup: Cgroup, tell: Callable[[int], None]) -> None:
        """Tell each new count from now on, until the cgroup is gone."""
        if cgroup.pids is None:
            return
        try:
            descriptor = os.open(cgroup.pids / "pids.events", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return  # gone already, or a kernel without it: then the cause is told by the exit status alone
        count = _read(descriptor)
        if count is None:
            os.close(descriptor)
            return
        tell(count)
        self._told[descriptor] = tell
        self._epoll.register(descriptor, select.EPOLLPRI)

    async def run(self) -> None:
        """Follow them until cancelled."""
        while True:
            with anyio.move_on_after(_LOOK_S):
                await anyio.wait_readable(self._epoll)
                self._epoll.poll(0)
            self.look()

    def look(self) -> None:
        """Read every counter, and let go of those whose cgroup is gone."""
        for descriptor, tell in list(self._told.items()):
            count = _read(descriptor)
            if count is None:
                self._forget(descriptor)
            else:
                tell(count)

    def close(self) -> None:
        """Let go of all."""
        for descriptor in list(self._told):
            self._forget(descriptor)
        self._epoll.close()

    def _forget(self, descriptor: int) -> None:
        del self._told[descriptor]
        self._epoll.unregister(descriptor)
        os.close(descriptor)


def _read(descriptor: int) -> int | None:
    """The count; None when its cgroup is gone."""
    try:
        for line in os.pread(descriptor, _MOST, 0).splitlines():
            word, _, number = line.partition(b" ")
            if word == _WORD:
                return int(number)
    except (OSError, ValueError):
        return None
    return None

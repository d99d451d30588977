"""Giving memory back: files that nobody wants any more, and those that somebody still holds on to.

Pages live until the last descriptor and mapping is gone, so an unlinked file is not yet free memory. What its maker
alone could reach is emptied at once, whoever has it open. What was granted to others must not be emptied (a reader
would die of SIGBUS): it is asked about again and again, and goes on being counted until it is let go.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import anyio
import anyio.to_thread

from policies import SandboxId
from sandbox import shm

INLINE_BYTES: Final = 1024 * 1024
"""Up to here allocating, copying and freeing is faster than handing it to a thread."""
_ASK_AGAIN_S: Final = 1.0


@dataclass(slots=True)
class _Lingering:
    fd: int
    nbytes: int
    holders: set[SandboxId]
    on_free: Callable[[], None]


class Reaper:
    """Owns the descriptors of files on their way out. ``run`` is its one task."""

    def __init__(self) -> None:
        self._lingering: list[_Lingering] = []
        self._work: list[tuple[int, bool]] = []
        self._woken = anyio.Event()

    @property
    def has_lingering(self) -> bool:
        """Whether anything unlinked is still held by a sandbox."""
        return bool(self._lingering)

    def destroy(self, fd: int, nbytes: int) -> None:
        """Empty and close a file that only its maker could reach."""
        if nbytes <= INLINE_BYTES:
            shm.destroy(fd)
        else:
            self._later(fd, is_destroyed=True)

    def release(self, fd: int, nbytes: int, holders: set[SandboxId], on_free: Callable[[], None]) -> None:
        """Close an unlinked object and call ``on_free``: now, or when the last of ``holders`` lets go of it."""
        if holders and shm.is_open_elsewhere(fd):
            self._lingering.append(_Lingering(fd, nbytes, holders, on_free))
            self._woken.set()
            return
        on_free()
        self._close(fd, nbytes)

    def forget_sandbox(self, sandbox: SandboxId) -> None:
        """A sandbox is gone: it holds nothing any more."""
        for item in self._lingering:
            item.holders.discard(sandbox)
        self.ask_again()

    def ask_again(self) -> None:
        """Free what was let go meanwhile."""
        waiting, self._lingering = self._lingering, []
        for item in waiting:
            self.release(item.fd, item.nbytes, item.holders, item.on_free)

    async def run(self) -> None:
        """Do what takes long, in threads: closing the last descriptor of 512 MB takes 20 ms."""
        while True:
            if self._lingering:
                with anyio.move_on_after(_ASK_AGAIN_S):
                    await self._woken.wait()
            else:
                await self._woken.wait()
            self._woken = anyio.Event()
            work, self._work = self._work, []
            if work:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(_finish, work)
            self.ask_again()
            if self._lingering:
                await anyio.sleep(_ASK_AGAIN_S)

    async def finish(self) -> None:
        """Return when what waits to be closed is closed."""
        work, self._work = self._work, []
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(_finish, work)

    def close(self) -> None:
        """Close everything. Blocking; for the end."""
        _finish(self._work)
        _finish([(item.fd, False) for item in self._lingering])
        self._work.clear()
        self._lingering.clear()

    def _close(self, fd: int, nbytes: int) -> None:
        if nbytes <= INLINE_BYTES:
            os.close(fd)
        else:
            self._later(fd, is_destroyed=False)

    def _later(self, fd: int, *, is_destroyed: bool) -> None:
        self._work.append((fd, is_destroyed))
        self._woken.set()


def _finish(work: list[tuple[int, bool]]) -> None:
    for fd, is_destroyed in work:
        if is_destroyed:
            shm.destroy(fd)
        else:
            os.close(fd)

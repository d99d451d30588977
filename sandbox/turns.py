"""A lock whose taking costs nothing where nobody has it: no coroutine and no step of the event loop."""

from __future__ import annotations

import asyncio
from collections import deque


class Turn:
    """First come, first served: it is handed over, so that nobody overtakes who waits."""

    __slots__ = ("_is_taken", "_waiting")

    def __init__(self) -> None:
        self._is_taken = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits for it."""
        return bool(self._waiting)

    def take(self) -> bool:
        """Take it if nobody has it; else ``wait`` for it."""
        if self._is_taken:
            return False
        self._is_taken = True
        return True

    async def wait(self) -> None:
        """Take it as soon as it is one's turn; whoever is cancelled meanwhile has not taken it."""
        if self.take():
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        except BaseException:
            if waiter.cancelled():
                if waiter in self._waiting:
                    self._waiting.remove(waiter)
            else:  # it was handed over, and nobody is there to take it
                self.leave()
            raise

    def leave(self) -> None:
        """Hand it to whoever has waited longest."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._is_taken = False

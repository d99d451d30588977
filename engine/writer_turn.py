"""Whose turn it is to write to a database that has one writer, in the order of asking; where nobody writes, at once.

An ``asyncio.Lock`` would do, but for whoever asks from a plain function and has no task to wait in
(``group_commit.py``).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class WriterTurn:
    """One turn at a time. ``async with`` waits for it; ``ask`` is told when it has come."""

    def __init__(self) -> None:
        self._is_taken = False
        self._line: deque[Callable[[], object]] = deque()

    def ask(self, go: Callable[[], object]) -> None:
        """Call ``go`` when it is its turn, now if nobody has it; ``pass_on`` ends it.

        One in the line that says False then does not take its turn.
        """
        if self._is_taken:
            self._line.append(go)
        else:
            self._is_taken = True
            go()

    def pass_on(self) -> None:
        """Whoever has the turn is done."""
        while self._line:
            if self._line.popleft()() is not False:
                return
        self._is_taken = False

    async def __aenter__(self) -> None:
        if not self._is_taken:
            self._is_taken = True
            return
        come: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def go() -> bool:
            is_waited_for = not come.done()
            if is_waited_for:
                come.set_result(None)
            return is_waited_for

        self._line.append(go)
        try:
            await come
        except asyncio.CancelledError:
            if not come.cancelled():  # it had come, and nobody takes it
                self.pass_on()
            raise

    async def __aexit__(self, *exc_info: object) -> None:
        self.pass_on()

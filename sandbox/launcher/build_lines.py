"""The lines of a build on their way to the host; bounded, the rest is dropped."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio


class BuildLines:
    """Those of one build: ``take`` each, while ``forward`` sends them."""

    def __init__(self, send: Callable[[str], Awaitable[None]]) -> None:
        self._send = send
        self._into, self._from = anyio.create_memory_object_stream[str](1_000)
        self._done = anyio.Event()

    def take(self, text: str) -> None:
        """Never waits for the host."""
        try:
            self._into.send_nowait(text)
        except (anyio.WouldBlock, anyio.ClosedResourceError, anyio.BrokenResourceError):
            pass

    async def forward(self) -> None:
        """Send what comes, until ``close``."""
        try:
            async with self._from:
                async for text in self._from:
                    await self._send(text)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            pass  # the host hung up, which is noticed elsewhere
        finally:
            self._into.close()
            self._done.set()

    async def close(self) -> None:
        """No more come; wait until those that did have been sent."""
        self._into.close()
        await self._done.wait()

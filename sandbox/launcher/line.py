"""One connection of a host to the launcher: one request comes, and answers go until one of the two hangs up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar

import anyio
from anyio.abc import UNIXSocketStream

from policies import RingfenceError
from sandbox.launcher import channel

T = TypeVar("T")

_SEND_S: Final = 30.0
"""For a host that does not take its answer."""
HUNG_UP: Final = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)
"""What a stream raises once the host has gone."""


class Line:
    """The launcher's end; ``complain`` is told of what no sound host does."""

    def __init__(self, stream: UNIXSocketStream, complain: Callable[[str], None]) -> None:
        self._stream = stream
        self._complain = complain

    @property
    def peer(self) -> channel.Peer:
        """Who connected, in the kernel's words."""
        return channel.Peer.of(self._stream)

    async def request(self) -> bytes:
        """The one request, as it came."""
        return await channel.receive(self._stream, limit=channel.MAX_REQUEST)

    async def send(self, message: Mapping[str, Any]) -> None:
        """Send a message of the answer."""
        with anyio.fail_after(_SEND_S):
            await channel.send(self._stream, message, limit=channel.MAX_ANSWER)

    async def hand_over(self, descriptor: int) -> None:
        """Give the host a descriptor of its own."""
        await self._stream.send_fds(b"\0", [descriptor])

    async def until_hung_up(self, scope: anyio.CancelScope) -> None:
        """Cancel ``scope`` when the host hangs up, or says more than its one request."""
        try:
            await self._stream.receive(1)
            self._complain("a connection carried more than one request")
        except HUNG_UP:
            pass
        scope.cancel()

    async def while_wanted(self, work: Callable[[], Awaitable[T]]) -> T | None:
        """What ``work`` gives; None when the host hung up, which cancels it."""
        failed: RingfenceError | None = None
        found: list[T] = []
        async with anyio.create_task_group() as group:
            group.start_soon(self.until_hung_up, group.cancel_scope)
            try:
                found.append(await work())
            except RingfenceError as error:
                failed = error  # not raised in here: a task group would wrap it
            group.cancel_scope.cancel()
        if failed is not None:
            raise failed
        return found[0] if found else None

"""A route of a pack at the far end of a WebSocket, in a test's hands."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Never

import anyio

from policies import ExtensionName, TenantId
from sandbox import SocketClosed, SocketRequest


class FakePackSocket:
    """Fulfils ``PackSocket``. Answers what it hears, unless told not to."""

    def __init__(self, protocol: str | None = None) -> None:
        self.protocol = protocol
        self.heard: list[str | bytes] = []
        self.left = anyio.Event()
        self.farewell = SocketClosed(1001)
        self.echoes = True
        self.takes: BaseException | None = None
        """What sending to it raises."""
        self.ends: BaseException | None = None
        """With what its sandbox ends, once ``ending`` is set."""
        self.ending = anyio.Event()
        self._said, self._next = anyio.create_memory_object_stream[
            str | bytes | SocketClosed | BaseException
        ](math.inf)

    def say(self, message: str | bytes | SocketClosed | BaseException) -> None:
        self._said.send_nowait(message)

    async def receive(self) -> str | bytes | SocketClosed:
        message = await self._next.receive()
        if isinstance(message, BaseException):
            raise message
        return message

    async def send(self, message: str | bytes) -> None:
        if self.takes is not None:
            raise self.takes
        self.heard.append(message)
        if self.echoes:
            self.say(message)

    def leave(self, end: SocketClosed) -> None:
        self.farewell = end

    async def watch(self) -> Never:
        await self.ending.wait()
        assert self.ends is not None
        raise self.ends

    def close(self) -> None:
        self._said.close()
        self._next.close()
        self.left.set()


class FakeSockets:
    """The WebSockets that an engine opened."""

    def __init__(self) -> None:
        self.asked: list[tuple[TenantId, ExtensionName, SocketRequest]] = []
        self.sockets: list[FakePackSocket] = []
        self.refusal: BaseException | None = None
        self.door = anyio.Event()
        """Set: sockets are opened at once. Else they wait for it."""
        self.door.set()
        self.protocol: str | None = None

    @asynccontextmanager
    async def open(
        self, tenant: TenantId, extension: ExtensionName, request: SocketRequest
    ) -> AsyncIterator[FakePackSocket]:
        self.asked.append((tenant, extension, request))
        await self.door.wait()
        if self.refusal is not None:
            raise self.refusal
        socket = FakePackSocket(self.protocol)
        self.sockets.append(socket)
        try:
            yield socket
        finally:
            socket.close()

"""Connections of the proxy: the sandbox's end, one that counts, one that gives read bytes back, and the relay."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import anyio
from anyio.abc import ByteStream

from sandbox.egress.decision import FailedError

PIECE: Final = 64 * 1024


class LocalStream(ByteStream):
    """The sandbox's end of a connection. What was sent has left this process when ``send`` returns."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        writer.transport.set_write_buffer_limits(0)

    @classmethod
    async def of(cls, connection: socket.socket) -> LocalStream:
        """Take over a connected, non-blocking socket."""
        return cls(*await asyncio.open_unix_connection(sock=connection, limit=PIECE))

    async def receive(self, max_bytes: int = PIECE) -> bytes:
        try:
            data = await self._reader.read(max_bytes)
        except OSError as error:
            raise anyio.BrokenResourceError from error
        if not data:
            raise anyio.EndOfStream
        return data

    async def send(self, item: bytes) -> None:
        try:
            self._writer.write(item)
            await self._writer.drain()
        except OSError as error:
            raise anyio.BrokenResourceError from error

    async def send_eof(self) -> None:
        try:
            self._writer.write_eof()
        except OSError as error:
            raise anyio.BrokenResourceError from error

    async def aclose(self) -> None:
        self._writer.transport.abort()


class _AroundStream(ByteStream):
    """A stream around another: what a subclass does not do is done by that one."""

    def __init__(self, inner: ByteStream) -> None:
        self._inner = inner

    async def send_eof(self) -> None:
        await self._inner.send_eof()

    async def aclose(self) -> None:
        await self._inner.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return self._inner.extra_attributes


class CountedStream(_AroundStream):
    """The connection to the outside: each byte is counted before it is passed on, and waits for its turn.

    ``on_bytes`` takes bytes up and down, and says how many seconds to wait.
    """

    def __init__(self, inner: ByteStream, on_bytes: Callable[[int, int], float]) -> None:
        super().__init__(inner)
        self._on_bytes = on_bytes
        self.active_at = time.monotonic()

    async def receive(self, max_bytes: int = PIECE) -> bytes:
        """Raises: FailedError when a cap is reached."""
        data = await self._inner.receive(min(max_bytes, PIECE))
        self.active_at = time.monotonic()
        if wait := self._on_bytes(0, len(data)):
            await anyio.sleep(wait)
        return data

    async def send(self, item: bytes) -> None:
        """Raises: FailedError when a cap is reached."""
        if wait := self._on_bytes(len(item), 0):
            await anyio.sleep(wait)
        await self._inner.send(item)
        self.active_at = time.monotonic()


class ReturnedStream(_AroundStream):
    """A connection whose first bytes were read already, and are read again."""

    def __init__(self, inner: ByteStream, first: bytes) -> None:
        super().__init__(inner)
        self._first = first

    async def receive(self, max_bytes: int = PIECE) -> bytes:
        if self._first:
            piece, self._first = self._first[:max_bytes], self._first[max_bytes:]
            return piece
        return await self._inner.receive(max_bytes)

    async def send(self, item: bytes) -> None:
        await self._inner.send(item)


async def relay(inside: ByteStream, outside: ByteStream) -> None:
    """Carry bytes both ways until both sides have finished or one is gone. Half a connection may stay open.

    Raises:
        FailedError: a cap was reached.
    """
    problem: FailedError | None = None

    async def pump(source: ByteStream, target: ByteStream) -> None:
        nonlocal problem
        try:
            while True:
                try:
                    data = await source.receive(PIECE)
                except anyio.EndOfStream:
                    await target.send_eof()
                    return
                await target.send(data)
        except FailedError as error:
            problem = error
            group.cancel_scope.cancel()
        except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
            group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(pump, inside, outside)
        group.start_soon(pump, outside, inside)
    if problem is not None:
        raise problem

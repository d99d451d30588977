"""Bytes to and from one worker: a Unix socket it connects to, or the stdio of its container; one interface for both.

A read ends in one of three ways that are told apart: the bytes, a clean end (``EndOfStreamError``), or a stream that
breaks off in the middle (``TruncatedFrameError``). Frames are put together in ``peer.py``.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol, cast

import anyio

from runtime.wire import TruncatedFrameError
from sandbox.errors import ProtocolViolationError
from sandbox.launcher.attachment import HEADER, STDOUT
from sandbox.patience import patiently

_BUFFER: Final = 1024 * 1024
_CREDENTIALS: Final = struct.Struct("3i")
_PASSABLE: Final = 64 * 1024 * 1024


class EndOfStreamError(Exception):
    """The other side hung up between two messages."""


class ByteStream(Protocol):
    """What a session needs of a connection."""

    def take(self, count: int) -> bytes | None:
        """The next ``count`` bytes if they are there already."""

    def on_arrival(self, look: Callable[[bytes], int]) -> None:
        """``look`` is shown what came while ``read_exactly`` waits and nothing else is there, before it goes on, and
        says how many bytes it takes of it, from the first on.

        A connection that knows nothing of it never calls.
        """

    async def read_exactly(self, count: int) -> bytes:
        """Wait for ``count`` bytes.

        Raises:
            EndOfStreamError: the stream ended before the first of them.
            TruncatedFrameError: it ended after some.
        """

    async def write(self, data: bytes) -> None:
        """Send ``data``; returns when the connection has room for more. Cancelling never leaves half of it unsent.

        Raises:
            EndOfStreamError: the other side is gone.
        """

    def write_at_once(self, data: bytes) -> bool:
        """Send ``data`` now, all of it; False when some still waits, so that ``write(b"")`` has to wait for room.

        Raises:
            EndOfStreamError: the other side is gone.
        """

    def close(self) -> None:
        """Hang up at once."""


class _Buffer(asyncio.Protocol):
    """What a connection delivers, until somebody takes it; reading pauses while that is too much."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.ended = False
        self.error: Exception | None = None
        self._transport: asyncio.Transport
        self._needed = 0
        self._reader: asyncio.Future[None] | None = None
        self._is_paused = False
        self._is_full = False
        self._writers: deque[asyncio.Future[None]] = deque()
        self.look: Callable[[bytes], int] | None = None

    async def wait_for(self, count: int) -> None:
        """Return when ``count`` bytes are there, or no more will come."""
        while len(self.data) < count and not self.ended:
            self._go_on()  # one message may be longer than what is kept at most
            self._needed = count
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None

    async def wait_for_room(self) -> None:
        """Return when more may be written, or nobody reads any more."""
        while self._is_full and not self.ended:
            writer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._writers.append(writer)
            try:
                await writer
            finally:
                self._writers.remove(writer)

    def take(self, count: int) -> bytes:
        """The first ``count`` bytes, which are there."""
        taken = bytes(self.data[:count])
        del self.data[:count]
        if len(self.data) <= _BUFFER:
            self._go_on()
        return taken

    def _go_on(self) -> None:
        if self._is_paused and not self._transport.is_closing():
            self._is_paused = False
            self._transport.resume_reading()

    # -- called by the transport -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.look is not None and self._reader is not None and not self.data:
            taken = self.look(data)
            if taken == len(data):
                return
            data = data[taken:]
        self.data += data
        if self._reader is not None:
            if len(self.data) >= self._needed:
                _wake(self._reader)
        elif len(self.data) > 2 * _BUFFER and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        self._end(None)
        return True  # whoever writes may go on until it is closed

    def connection_lost(self, error: Exception | None) -> None:
        self._end(error)

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        for writer in self._writers:
            _wake(writer)

    def _end(self, error: Exception | None) -> None:
        self.ended = True
        self.error = self.error or error
        for waiting in (*self._writers, *([self._reader] if self._reader else [])):
            _wake(waiting)


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


class SocketStream:
    """A connected socket."""

    def __init__(self, connection: socket.socket, transport: asyncio.Transport, buffer: _Buffer) -> None:
        self._connection = connection
        self._transport = transport
        self._buffer = buffer
        self._is_behind = False
        """The transport may have something to send."""

    @classmethod
    async def of(cls, connection: socket.socket) -> SocketStream:
        """Take over a connected, non-blocking socket."""
        loop = asyncio.get_running_loop()
        with anyio.CancelScope(shield=True):  # a turn of the loop or two, after which somebody can close it
            transport, buffer = await loop.create_unix_connection(_Buffer, sock=connection)
        return cls(connection, transport, buffer)

    def take(self, count: int) -> bytes | None:
        """See ``ByteStream``."""
        return self._buffer.take(count) if len(self._buffer.data) >= count else None

    def on_arrival(self, look: Callable[[bytes], int]) -> None:
        """See ``ByteStream``."""
        self._buffer.look = look

    async def read_exactly(self, count: int) -> bytes:
        """See ``ByteStream``."""
        buffer = self._buffer
        if len(buffer.data) < count:
            await buffer.wait_for(count)
            if len(buffer.data) < count:
                if buffer.data and buffer.error is None:
                    raise TruncatedFrameError(f"{len(buffer.data)} of {count} bytes came")
                raise EndOfStreamError from buffer.error
        return buffer.take(count)

    async def write(self, data: bytes) -> None:
        """See ``ByteStream``."""
        if self._transport.is_closing():
            raise EndOfStreamError
        if data:
            self._is_behind = True
            self._transport.write(data)
        await self._buffer.wait_for_room()
        if self._transport.is_closing():
            raise EndOfStreamError from self._buffer.error

    def write_at_once(self, data: bytes) -> bool:
        """See ``ByteStream``."""
        if self._transport.is_closing():
            raise EndOfStreamError
        sent = 0
        if self._is_behind:
            self._is_behind = self._transport.get_write_buffer_size() > 0
        if not self._is_behind:
            # Straight to the kernel: a transport may keep it until the loop has nothing else to do.
            try:
                sent = self._connection.send(data)
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                raise EndOfStreamError from error
            if sent == len(data):
                return True
        self._is_behind = True
        self._transport.write(data[sent:])
        return self._transport.get_write_buffer_size() == 0

    def close(self) -> None:
        """See ``ByteStream``."""
        self._transport.abort()


class AttachedStream:
    """A container's stdin and stdout through the engine; what it writes to stderr goes to ``on_stderr``."""

    def __init__(self, inner: SocketStream, on_stderr: Callable[[bytes], None]) -> None:
        self._inner = inner
        self._on_stderr = on_stderr
        self._ready = bytearray()

    def take(self, count: int) -> bytes | None:
        """See ``ByteStream``."""
        if len(self._ready) < count:
            return None
        taken = bytes(self._ready[:count])
        del self._ready[:count]
        return taken

    def on_arrival(self, look: Callable[[bytes], int]) -> None:
        """Never called: what comes is the engine's framing around the worker's."""

    async def read_exactly(self, count: int) -> bytes:
        """See ``ByteStream``."""
        while len(self._ready) < count:
            try:
                which, length = HEADER.unpack(await self._inner.read_exactly(HEADER.size))
                if length > _PASSABLE:
                    raise TruncatedFrameError("the engine announced an impossible piece of output")
                piece = await self._inner.read_exactly(length) if length else b""
            except EndOfStreamError:
                if self._ready:
                    raise TruncatedFrameError(f"{len(self._ready)} of {count} bytes came") from None
                raise
            if which == STDOUT:
                self._ready += piece
            else:
                self._on_stderr(piece)
        taken = bytes(self._ready[:count])
        del self._ready[:count]
        return taken

    async def write(self, data: bytes) -> None:
        """See ``ByteStream``."""
        await self._inner.write(data)

    def write_at_once(self, data: bytes) -> bool:
        """See ``ByteStream``."""
        return self._inner.write_at_once(data)

    def close(self) -> None:
        """See ``ByteStream``."""
        self._inner.close()


class Door:
    """The listening socket of one sandbox: opened before it starts, closed after the first visitor."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "worker.sock"
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """Listen. Blocking (directory and file system)."""
        self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._path.parent.chmod(0o755)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            listener.bind(str(self._path))
            # Anybody who reaches it may connect; only that sandbox and we can reach the directory.
            self._path.chmod(0o666)
            listener.listen(1)
        except BaseException:
            listener.close()
            raise
        self._socket = listener

    async def admit(self, uid: int) -> SocketStream:
        """Wait for the worker, once.

        Raises:
            ProtocolViolationError: whoever came is not ``uid``.
        """
        if self._socket is None:
            raise RuntimeError("the door is not open")
        try:
            connection, _ = await asyncio.get_running_loop().sock_accept(self._socket)
        finally:
            self.shut()
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, found, _ = _CREDENTIALS.unpack(raw)
        if found != uid:
            connection.close()
            raise ProtocolViolationError(f"uid {found} connected where only uid {uid} may")
        return await SocketStream.of(connection)

    def shut(self) -> None:
        """Stop listening."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def remove(self) -> None:
        """Stop listening and remove the directory."""
        self.shut()
        await anyio.to_thread.run_sync(self._remove)

    def _remove(self) -> None:
        self._path.unlink(missing_ok=True)
        try:
            patiently(lambda: os.rmdir(self._path.parent))  # noqa: PTH106
        except OSError:
            pass

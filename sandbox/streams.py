"""Bytes to and from one worker: a Unix socket it connects to, or the stdio of its container; one interface for both.

A read ends in one of three ways that are told apart: the bytes, a clean end (``EndOfStreamError``), or a stream that
breaks off in the middle (``TruncatedFrameError``). Frames are put together in ``peer.py``.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import anyio

from runtime.wire import TruncatedFrameError
from sandbox.errors import ProtocolViolationError
from sandbox.launcher.attachment import HEADER, STDOUT

_BUFFER: Final = 1024 * 1024
_CREDENTIALS: Final = struct.Struct("3i")
_PASSABLE: Final = 64 * 1024 * 1024


class EndOfStreamError(Exception):
    """The other side hung up between two messages."""


class ByteStream(Protocol):
    """What a session needs of a connection."""

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


class SocketStream:
    """A connected socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def of(cls, connection: socket.socket) -> SocketStream:
        """Take over a connected, non-blocking socket."""
        with anyio.CancelScope(shield=True):  # a turn of the loop or two, after which somebody can close it
            reader, writer = await asyncio.open_unix_connection(sock=connection, limit=_BUFFER)
        return cls(reader, writer)

    async def read_exactly(self, count: int) -> bytes:
        """See ``ByteStream``."""
        try:
            return await self._reader.readexactly(count)
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise TruncatedFrameError(f"{len(error.partial)} of {count} bytes came") from None
            raise EndOfStreamError from None
        except OSError as error:
            raise EndOfStreamError from error

    async def write(self, data: bytes) -> None:
        """See ``ByteStream``."""
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            raise EndOfStreamError from error

    def write_at_once(self, data: bytes) -> bool:
        """See ``ByteStream``."""
        transport = self._writer.transport
        if transport.is_closing():
            raise EndOfStreamError
        transport.write(data)
        return transport.get_write_buffer_size() == 0

    def close(self) -> None:
        """See ``ByteStream``."""
        self._writer.transport.abort()


class AttachedStream:
    """A container's stdin and stdout through the engine; what it writes to stderr goes to ``on_stderr``."""

    def __init__(self, inner: SocketStream, on_stderr: Callable[[bytes], None]) -> None:
        self._inner = inner
        self._on_stderr = on_stderr
        self._ready = bytearray()

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
            os.rmdir(self._path.parent)  # noqa: PTH106
        except OSError:
            pass

"""WebSocket frames that are written in one turn of the event loop, sent to the kernel in one call.

uvicorn hands every frame to the transport by itself, and each costs a system call in which the kernel delivers it as
far as the reader's socket. A client that hears of many nodes in a row is told of them in one go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import State

from api.messages import Binary, Message

AT_ONCE: Final = "ringfence.send_at_once"
"""Key of a WebSocket scope's ``extensions``: ``GatheringProtocol.send_at_once`` of that connection."""
MOST: Final = 64 * 1024 - 1
"""Bytes that wait for the end of a turn, or are handed over in one step, so that the transport sees a slow reader
before there is more. A length that two bytes hold."""


_LONG: Final = 126
"""Stands in a frame's head for a length of so much or more, which follows in two bytes."""
#: The heads of frames by length: the only one of its message, of this kind, without a mask.
_TEXT: Final = tuple(bytes((0x81, length)) for length in range(_LONG + 1))
_BINARY: Final = tuple(bytes((0x82, length)) for length in range(_LONG + 1))


class GatheringTransport:
    """A transport whose writes of one turn become one; all else is the transport's own."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> None:
        """Send ``data`` with whatever else is written in this turn."""
        if not data:
            return
        if not self._parts:
            self._loop.call_soon(self.flush)
        self._parts.append(data)
        self._size += len(data)
        if self._size > MOST:
            self.flush()

    def write_now(self, data: bytes) -> None:
        """Send ``data`` now, after what waits: for who has gathered it already."""
        if self._parts:
            self._parts.append(data)
            self.flush()
        else:
            self._transport.write(data)

    def is_closing(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Close it once everything was sent."""
        self.flush()
        self._transport.close()

    def get_write_buffer_size(self) -> int:
        """Bytes that were not sent yet."""
        return self._size + self._transport.get_write_buffer_size()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def flush(self) -> None:
        """Send what waits now."""
        parts, self._parts, self._size = self._parts, [], 0
        if parts and not self._transport.is_closing():
            self._transport.write(b"".join(parts))


class GatheringProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSockets over a ``GatheringTransport``."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See ``asyncio.Protocol``."""
        self._gathering = GatheringTransport(transport, self.loop)
        # A transport in all that uvicorn asks of one; a subclass would hide the real one's methods, not pass them on.
        super().connection_made(self._gathering)  # type: ignore[arg-type]

    async def run_asgi(self) -> None:
        """Serve the connection, by an application that may send many messages in one step."""
        extensions: dict[str, Any] = self.scope.setdefault("extensions", {})
        extensions[AT_ONCE] = self.send_at_once
        await super().run_asgi()

    def send_at_once(self, messages: Sequence[Message]) -> int:
        """Hand over the first of these messages, as many as nothing is in the way of; how many were taken.

        The next one goes through ``send``, which knows what to do about a client that reads slowly or is gone.
        """
        if not self.handshake_complete or self.close_sent or self.initial_response is not None:
            return 0
        if self.disconnected or not self.writable.is_set() or self._gathering.is_closing():
            return 0
        connection = self.conn
        # Whole messages of an open connection without extensions leave its state as it is: they are framed without it.
        if (
            connection.state is not State.OPEN
            or connection.extensions
            or connection.expect_continuation_frame
        ):
            return 0
        # What the connection has to say itself, an answer to a ping for example, comes first.
        parts = connection.data_to_send() if connection.writes else []
        size = taken = 0
        for message in messages:
            length = len(message)
            size += length
            if size > MOST:
                break
            heads = _BINARY if type(message) is Binary else _TEXT
            if length < _LONG:
                parts += (heads[length], message)
            else:
                parts += (heads[_LONG], length.to_bytes(2, "big"), message)
            taken += 1
        if parts:
            self._gathering.write_now(b"".join(parts))
        return taken

    def flush(self) -> None:
        """Send what was written in this turn now."""
        self._gathering.flush()

"""WebSocket frames that are written in one turn of the event loop, sent to the kernel in one call.

uvicorn hands every frame to the transport by itself, and each costs a system call in which the kernel delivers it as
far as the reader's socket. A client that hears of many nodes in a row is told of them in one go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState

AT_ONCE: Final = "ringfence.send_at_once"
"""Key of a WebSocket scope's ``extensions``: ``GatheringProtocol.send_at_once`` of that connection."""
MOST: Final = 64 * 1024
"""Bytes that wait for the end of a turn; more are sent at once, so that the transport sees a slow reader."""


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

    def send_at_once(self, messages: Sequence[str | bytes]) -> bool:
        """Hand these messages over if nothing is in their way; False when none was taken.

        Then they go one by one through ``send``, which knows what to do about a client that reads slowly or is gone.
        """
        is_open = self.handshake_complete and not self.close_sent and self.initial_response is None
        if not is_open or self.disconnected or not self.writable.is_set() or self.transport.is_closing():
            return False
        if sum(map(len, messages)) > MOST:
            return False
        try:
            for message in messages:
                if isinstance(message, str):
                    self.conn.send_text(message.encode())
                else:
                    self.conn.send_binary(message)
        except InvalidState:
            # Before the first of them: the state changes with what is received or closed, not by sending.
            return False
        self.transport.write(b"".join(self.conn.data_to_send()))
        return True

    def flush(self) -> None:
        """Send what was written in this turn now."""
        self._gathering.flush()

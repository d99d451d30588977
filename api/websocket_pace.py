"""WebSockets whose clients say little: a rate of messages, and no answer to pings that nobody reads.

A client of this server has one thing to say, its feature flags; the rest is keep-alive. uvicorn takes messages, parts
of messages and pings as fast as they come, keeps empty parts without end and answers pings to whoever reads nothing.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from websockets.exceptions import InvalidState
from websockets.frames import Frame

from api.connections import Place
from api.gathered import GatheringProtocol
from api.settings import Settings
from sandbox import Allowance

log = logging.getLogger(__name__)

_BURST_S: Final = 5
_UNREAD: Final = 64 * 1024
_TOO_MANY: Final = 1008  # "policy violation"


class PacedWebSocket(GatheringProtocol):
    """uvicorn's WebSocket, with a measure; ``paced_by`` sets it."""

    messages_per_s: int
    place: Place | None = None
    """Its place among the connections, which it got when it was still HTTP."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._allowance = Allowance(float(self.messages_per_s), float(self.messages_per_s * _BURST_S))
        self._is_cut = False

    def connection_lost(self, exc: Exception | None) -> None:
        """Its place is free."""
        if self.place is not None:
            self.place.leave()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """After it was cut off nothing is looked at any more."""
        if not self._is_cut:
            super().data_received(data)

    def handle_text(self, event: Frame) -> None:
        """A message, or the first part of one."""
        if self._may():
            super().handle_text(event)

    def handle_bytes(self, event: Frame) -> None:
        """A message, or the first part of one."""
        if self._may():
            super().handle_bytes(event)

    def handle_cont(self, event: Frame) -> None:
        """A further part; an empty one costs as much as any."""
        if self._may():
            super().handle_cont(event)

    def handle_pong(self, event: Frame) -> None:
        """Asked for or not."""
        if self._may():
            super().handle_pong(event)

    def handle_ping(self) -> None:
        """Answered while the answers are read."""
        if not self._may():
            return
        if self.transport.get_write_buffer_size() > _UNREAD:
            log.warning("websocket client dropped: it pings and does not read")
            self._is_cut = True
            self.transport.abort()
            return
        super().handle_ping()

    def _may(self) -> bool:
        if self._is_cut:
            return False
        if self._allowance.take(1):
            return True
        self._is_cut = True
        log.warning("websocket client dropped: more than %d messages a second", self.messages_per_s)
        try:
            self.conn.send_close(_TOO_MANY, f"more than {self.messages_per_s} messages a second")
        except InvalidState:
            pass  # it is being closed already
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.queue.put_nowait({"type": "websocket.disconnect", "code": _TOO_MANY})
        self.transport.close()
        return False


def paced_by(settings: Settings, base: type[PacedWebSocket] = PacedWebSocket) -> type[PacedWebSocket]:
    """The protocol with one installation's measure."""
    return type("Paced", (base,), {"messages_per_s": settings.max_websocket_messages})

"""WebSocket connections that take larger messages once their route asks for it, and tell when a message has left.

Every connection begins with room for a small message, whoever is at the other end. A route that has checked its client
accepts with ``WIDE`` in the message and so raises the limit for this connection alone; from then on ``send`` returns
only when the client has taken most of what was sent, so that at most one message waits in this process's memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from api.messages import Message
from api.websocket_pace import PacedWebSocket
from sandbox import Allowance

WIDE: Final = "ringfence.max_message_bytes"
"""Key of an ASGI ``websocket.accept``: the bytes of the largest message that the client may send."""
PARTS_PER_S: Final = 2_000
"""Messages, their parts and pings of such a connection, five times as many at once. Who sends messages faster than the
route reads them is not cut off, since nothing is read from it meanwhile."""


class WideSocketProtocol(PacedWebSocket):
    """See the module's text."""

    _is_wide = False

    def handle_parser_exception(self) -> None:
        """Hang up; before the handshake there is no close frame to send, which uvicorn takes for granted."""
        if self.conn.close_sent is None:
            self.transport.close()
        else:
            super().handle_parser_exception()

    def send_at_once(self, messages: Sequence[Message]) -> int:
        """None where the client is waited for."""
        return 0 if self._is_wide else super().send_at_once(messages)

    async def send(self, message: Any) -> None:
        """Send, and wait for the client where the route asked for that."""
        most = message.get(WIDE) if message["type"] == "websocket.accept" else None
        if most is not None:
            self.conn.max_message_size = most
            self._is_wide = True
            self._allowance = Allowance(float(PARTS_PER_S), 5.0 * PARTS_PER_S)
        await super().send(message)
        if self._is_wide:
            self.flush()
            await self.writable.wait()

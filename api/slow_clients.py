"""HTTP connections whose clients have a deadline: for the head of a request, and a least speed for bodies and answers.

A connection costs a place among a bounded number (``connections.py``). uvicorn waits for the rest of a head, of a body
and for a reader of an answer as long as the client likes; this protocol does not. A WebSocket's pace is
``websocket_pace.py``'s and its handler's.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, ClassVar, Final

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES

from api.connections import ConnectionBook, Place, Refusal
from api.errors import comfy_error, dump_json
from api.settings import Settings
from api.websocket_pace import PacedWebSocket
from api.whole_answers import WholeAnsweringProtocol

log = logging.getLogger(__name__)

_TURNED_AWAY: Final = 64
_TURNED_AWAY_S: Final = 1.0
LEAST_BYTES_PER_S: Final = 500
"""What a body must bring, and a reader take, on average over ``slow_client_s``."""


class PatientProtocol(WholeAnsweringProtocol):
    """uvicorn's HTTP/1.1, with an end to its patience; ``bounded_by`` sets how long it lasts."""

    head_s: float
    slow_s: float
    book: ConnectionBook
    turned_away: ClassVar[set[PatientProtocol]]
    """Those that had no place and are told so; they are few, and soon gone."""

    _place: Place | None = None
    _turned_away: asyncio.TimerHandle | None = None

    _head: asyncio.TimerHandle | None = None
    _body: asyncio.TimerHandle | None = None
    _reader: asyncio.TimerHandle | None = None
    _received = 0
    _unsent = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Whoever connects has something to say."""
        super().connection_made(transport)
        place = self.book.enter(self.client)
        if isinstance(place, str):
            self._turn_away(place)
            return
        self._place = place
        self._head = self.loop.call_later(self.head_s, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._forget()
        if self._turned_away is not None:
            self.turned_away.discard(self)
            self._turned_away.cancel()
        if self._place is not None:
            self._place.leave()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Pass on, then see what is waited for now."""
        if self._turned_away is not None:
            return
        self._received += len(data)
        super().data_received(data)
        self._look()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """The transport is another protocol's from here on."""
        self._forget()
        super().handle_websocket_upgrade(event)
        socket = self.transport.get_protocol()
        if isinstance(socket, PacedWebSocket):
            socket.place, self._place = self._place, None

    def on_response_complete(self) -> None:
        """What is left to send must still go, and the next head has its own time."""
        super().on_response_complete()
        self._look()
        if self._reader is None and self.transport.get_write_buffer_size() > 0:
            self._watch_reader()

    def pause_writing(self) -> None:
        """More is waiting than the client has taken so far; from here until ``resume_writing`` nothing is added."""
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        """The client has taken most of it; the end of an answer must still go."""
        super().resume_writing()
        _cancel(self._reader)
        self._reader = None
        is_last = self.transport.is_closing() or self.cycle is None or self.cycle.response_complete
        if is_last and self.transport.get_write_buffer_size() > 0:
            self._watch_reader()

    def send_400_response(self, msg: str) -> None:
        """In the shape of every other error."""
        most = self.config.h11_max_incomplete_event_size
        if most is not None and len(self.conn.trailing_data[0]) > most:
            self._answer(431, "headers_too_large", "the head of the request is too long", "send less")
            return
        self._answer(400, "invalid_request", msg, "send HTTP/1.1")

    def _turn_away(self, refusal: Refusal) -> None:
        """Say why there is no place, and take no more from there."""
        whose = "this address has" if refusal == "address" else "this server has"
        if len(self.turned_away) >= _TURNED_AWAY:
            self.transport.abort()
            return
        log.warning("a connection is turned away: %s too many", whose)
        self.turned_away.add(self)
        self._turned_away = self.loop.call_later(_TURNED_AWAY_S, self.transport.abort)
        self.transport.write(_no_place(whose))
        if self.transport.can_write_eof():
            # Only its half: a connection that is closed while a request arrives is reset, and the answer lost.
            self.transport.write_eof()

    def _look(self) -> None:
        state = self.their_state
        is_closing = self.transport.is_closing() or self.transport.get_protocol() is not self
        # Between two requests uvicorn's own timer runs; with the first byte ours begins.
        waits_for_head = state is h11.IDLE and (
            self.timeout_keep_alive_task is None or bool(self.conn.trailing_data[0])
        )
        if is_closing or not waits_for_head:
            _cancel(self._head)
            self._head = None
        elif self._head is None:
            self._head = self.loop.call_later(self.head_s, self._head_is_late)
        if is_closing or state is not h11.SEND_BODY:
            _cancel(self._body)
            self._body = None
        elif self._body is None:
            self._received = 0
            self._body = self.loop.call_later(self.slow_s, self._body_tick)

    def _head_is_late(self) -> None:
        self._head = None
        self._answer(
            408,
            "request_timeout",
            f"the head of the request did not end within {self.head_s:g} s",
            "send it at once",
        )

    def _body_tick(self) -> None:
        self._body = None
        # Where we are the ones who do not read, or have answered already, the client is not at fault.
        ours = self.flow.read_paused or self.cycle is None or self.cycle.response_started
        if ours or self._received >= LEAST_BYTES_PER_S * self.slow_s:
            self._look()
            return
        self._answer(
            408,
            "request_timeout",
            f"the body came with {self._received / self.slow_s:.0f} bytes a second; {LEAST_BYTES_PER_S} are the least",
            "send it faster, or in parts",
        )
        self.cycle.disconnected = True
        self.cycle.message_event.set()

    def _watch_reader(self) -> None:
        _cancel(self._reader)
        self._unsent = self.transport.get_write_buffer_size()
        self._reader = self.loop.call_later(self.slow_s, self._reader_tick)

    def _reader_tick(self) -> None:
        self._reader = None
        left = self.transport.get_write_buffer_size()
        if left == 0:
            return
        taken = self._unsent - left
        if taken < (LEAST_BYTES_PER_S * self.slow_s if self.flow.write_paused else 1):
            log.warning("client dropped: it reads its answer too slowly")
            self.transport.abort()
            return
        self._watch_reader()

    def _answer(self, status: int, kind: str, message: str, hint: str) -> None:
        """Say why and hang up; without a word where an answer is under way."""
        self._forget()
        if self.transport.is_closing():
            return
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()
            return
        body = dump_json(comfy_error(kind, message, hint))
        headers: list[tuple[bytes, bytes]] = [
            (b"content-type", b"application/json; charset=utf-8"),
            (b"content-length", str(len(body)).encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"connection", b"close"),
        ]
        parts: list[Any] = [
            h11.Response(status_code=status, headers=headers, reason=STATUS_PHRASES[status]),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ]
        for part in parts:
            self.transport.write(self.conn.send(part) or b"")
        self.transport.close()
        self._watch_reader()

    def _forget(self) -> None:
        for timer in (self._head, self._body, self._reader):
            _cancel(timer)
        self._head = self._body = self._reader = None


def bounded_by(settings: Settings) -> type[PatientProtocol]:
    """The protocol with one installation's limits."""

    class Bounded(PatientProtocol):
        head_s = settings.request_head_s
        slow_s = settings.slow_client_s
        book = ConnectionBook(
            settings.max_connections,
            settings.max_address_connections or settings.max_connections // 2,
            settings.trusted_proxies,
        )
        turned_away: ClassVar[set[PatientProtocol]] = set()

    return Bounded


def _no_place(whose: str) -> bytes:
    body = dump_json(
        comfy_error("too_many_connections", f"{whose} too many connections open", "try again later")
    )
    head = (
        "HTTP/1.1 503 Service Unavailable",
        "Content-Type: application/json; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Retry-After: 1",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
    )
    return "\r\n".join((*head, "", "")).encode() + body


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()

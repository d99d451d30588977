"""Short answers in one write: head and body of an answer that is known whole go to the kernel together.

uvicorn hands head, body and end of an answer to h11 one by one and writes each by itself; h11 checks every header anew.
Here an answer of ours to a request that has ended, on a connection that goes on, is put into bytes by this protocol.
h11's machine then begins anew, as it does after every answer of its own.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from functools import lru_cache, partial
from typing import Any, Final, cast

from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, RequestResponseCycle

from api.known_heads import HeadKeepingProtocol
from sandbox import FastPath, takes

WHOLE: Final = "ringfence.whole_answer"
"""Key of an HTTP scope's ``extensions``: a ``SayWhole`` for that request."""
MOST: Final = 64 * 1024
"""Bytes of a body; longer ones go through uvicorn, which waits for slow readers."""

Headers = Sequence[tuple[bytes, bytes]]
SayWhole = Callable[[int, Headers, bytes], bool]
"""Status, headers with the body's length among them, body: False when nothing was sent, and ``send`` has to."""


class WholeAnsweringProtocol(HeadKeepingProtocol):
    """uvicorn's HTTP/1.1 with this extension."""

    def handle_events(self) -> None:
        """See ``H11Protocol``; a new request is offered the extension before its application runs."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._offer(self.cycle)

    def begin(self, scope: dict[str, Any], body: bytes) -> None:
        """The same where its head was known."""
        super().begin(scope, body)
        self._offer(self.cycle)

    def _offer(self, cycle: RequestResponseCycle) -> None:
        if takes(FastPath.WHOLE_ANSWERS):
            scope: MutableMapping[str, Any] = cast("MutableMapping[str, Any]", cycle.scope)
            scope["extensions"] = {WHOLE: partial(self._say_whole, cycle)}

    def _say_whole(self, cycle: RequestResponseCycle, status: int, headers: Headers, body: bytes) -> bool:
        may = (
            cycle is self.cycle
            and not cycle.response_started
            and not cycle.disconnected
            and cycle.keep_alive
            and not self.flow.write_paused
            and not self.transport.is_closing()
            and self.is_alone()
            and len(body) <= MOST
            and cycle.scope["method"] != "HEAD"
        )
        raw = _head(status, (*self.server_state.default_headers, *headers), len(body)) if may else None
        if raw is None:
            return False
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        cycle.message_event.set()
        self.transport.write(raw + body)
        self.begin_anew(cycle)
        cycle.on_response()
        return True


def _head(status: int, headers: tuple[tuple[bytes, bytes], ...], length: int) -> bytes | None:
    """The bytes before the body's; None where something is asked for that is h11's to do, or to refuse."""
    names = dict(headers)
    if (
        len(names) != len(headers)
        or names.get(b"content-length") != b"%d" % length
        or b"connection" in names
        or b"transfer-encoding" in names
    ):
        return None
    lines = [_status_line(status), *(b"%b: %b" % header for header in headers), b"", b""]
    head = b"\r\n".join(lines)
    ends = len(lines) - 1
    is_sound = head.count(b"\r") == head.count(b"\n") == ends and b"\0" not in head
    return head if is_sound else None


@lru_cache(64)
def _status_line(status: int) -> bytes:
    return b"HTTP/1.1 %d %b" % (status, STATUS_PHRASES.get(status, b""))

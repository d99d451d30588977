"""The head of a request that came before is not read anew: a client says nearly the same of each of its requests.

h11 reads every line of every head in Python. Here a connection keeps the last heads that h11 took, byte for byte, with
what uvicorn made of them. A request that comes whole, with a head that is one of these but for the number in
Content-Length, is begun at once. h11 is shown it when anything is asked of its machine: before an answer that it has to
write, and before any byte that comes while the request is answered. So there is no second reader of heads, which could
see another request than h11 does.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Any, Final, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from sandbox import FastPath, takes

_KEPT: Final = 4
"""Heads of one connection."""
_LONGEST_HEAD: Final = 4 * 1024
_LONGEST: Final = 64 * 1024
"""Bytes of a request; from here on uvicorn may stop reading until its application has taken some."""
_END: Final = b"\r\n\r\n"
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,7})\r\n", re.IGNORECASE)
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""After which a connection goes on as before: not CONNECT, which h11 takes for a switch of protocols."""
_ASKS_FOR_MORE: Final = frozenset({b"transfer-encoding", b"expect", b"upgrade"})
"""Of a connection than that it answers and goes on."""

_Key = tuple[bytes, bytes]
"""A head's bytes before the number in Content-Length, and after it; a head without one, and nothing."""


@dataclass(frozen=True, slots=True)
class _Head:
    """What uvicorn made of a head."""

    scope: dict[str, Any]
    headers: tuple[tuple[bytes, bytes], ...]
    length_at: int | None
    """Which of ``headers`` is Content-Length."""

    def scope_for(self, length: bytes, state: dict[str, Any]) -> dict[str, Any]:
        """A scope of its own for one request."""
        headers = list(self.headers)
        if self.length_at is not None:
            headers[self.length_at] = (b"content-length", length)
        return {**self.scope, "headers": headers, "state": state}


class _H11Later:
    """h11's machine, for an answer that may do without it."""

    they_are_waiting_for_100_continue = False

    def __init__(self, protocol: HeadKeepingProtocol) -> None:
        self._protocol = protocol

    def __getattr__(self, name: str) -> Any:
        return getattr(self._protocol.conn, name)


class HeadKeepingProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, with a memory for heads."""

    _h11: h11.Connection
    _unread = b""
    """The request that is being answered, where h11 was not shown it."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._heads: dict[_Key, _Head] = {}

    @property
    def conn(self) -> h11.Connection:
        """h11's machine, which has read all that came."""
        if self._unread:
            unread, self._unread = self._unread, b""
            self._h11.receive_data(unread)
            while self._h11.their_state is not h11.DONE:
                event = self._h11.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED:  # not the request that it was taken for
                    self.transport.abort()
                    break
        return self._h11

    @conn.setter
    def conn(self, conn: h11.Connection) -> None:
        self._h11, self._unread = conn, b""

    @property
    def their_state(self) -> object:
        """How far the client's request is: as ``conn`` would say, which need not be asked for it."""
        return h11.DONE if self._unread else self._h11.their_state

    def is_alone(self) -> bool:
        """The request has come whole, the connection goes on after it, nothing came behind it, nothing was answered."""
        conn = self._h11
        return bool(self._unread) or (
            conn.their_state is h11.DONE and conn.our_state is h11.SEND_RESPONSE and not conn.trailing_data[0]
        )

    def begin_anew(self, cycle: RequestResponseCycle) -> None:
        """The request was answered past h11, whose machine is as new for the next."""
        if self._unread:
            self._unread = b""  # it never saw it
        else:
            most = self.config.h11_max_incomplete_event_size or _LONGEST
            self.conn = cycle.conn = h11.Connection(h11.SERVER, most)

    def data_received(self, data: bytes) -> None:
        """See ``H11Protocol``."""
        end = data.find(_END, 0, _LONGEST_HEAD) if self._is_between_requests(data) else -1
        if end < 0:
            super().data_received(data)
            return
        head = data[: end + len(_END)]
        found = _LENGTH.search(head)
        key, length = _key(head, found), b"" if found is None else found[1]
        known = self._heads.get(key)
        if known is None:
            before = self.cycle
            super().data_received(data)
            if self.cycle is not before:
                self._keep(head, key, self.cycle.scope)
        elif len(data) - len(head) != (int(length) if length else 0):
            super().data_received(data)
        else:
            self._unset_keepalive_if_required()
            self._unread = data
            self.begin(known.scope_for(length, self.app_state.copy()), data[len(head) :])

    def begin(self, scope: dict[str, Any], body: bytes) -> None:
        """Let the application answer a request that came whole, as ``handle_events`` does for others."""
        self.scope, self.headers = cast("Any", scope), scope["headers"]
        self.cycle = RequestResponseCycle(
            scope=self.scope,
            conn=cast("h11.Connection", _H11Later(self)),
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            on_response=self.on_response_complete,
        )
        self.cycle.body += body
        self.cycle.more_body = False
        self.cycle.message_event.set()
        task = self.loop.create_task(self.cycle.run_asgi(self.app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def _is_between_requests(self, data: bytes) -> bool:
        conn = self._h11
        return (
            len(data) <= _LONGEST
            and not self._unread
            and conn.their_state is h11.IDLE
            and conn.our_state is h11.IDLE
            and not conn.trailing_data[0]
            and not self.transport.is_closing()
            and self.limit_concurrency is None
            and takes(FastPath.KNOWN_HEADS)
        )

    def _keep(self, head: bytes, key: _Key, scope: Any) -> None:
        """Remember a head that h11 took, if nothing in it is for h11 to judge anew."""
        names = [name for name, _ in scope["headers"]]
        lines = head.split(b"\r\n")
        is_plain = (
            scope["type"] == "http"
            and scope["method"] in _METHODS
            and scope["http_version"] == "1.1"
            # A header is a line, and the first empty line is the end for h11 as well.
            and len(lines) == len(names) + 3
            and head.count(b"\n") == head.count(b"\r") == len(lines) - 1
            and not any(line.startswith((b" ", b"\t")) for line in lines)
            and _ASKS_FOR_MORE.isdisjoint(names)
            and all(
                value.lower() == b"keep-alive" for name, value in scope["headers"] if name == b"connection"
            )
            # The number is the only Content-Length, or there is none.
            and names.count(b"content-length") == (1 if key[1] else 0)
        )
        if not is_plain:
            return
        if len(self._heads) >= _KEPT:
            self._heads.pop(next(iter(self._heads)))
        kept = {name: value for name, value in scope.items() if name in _OF_A_HEAD}
        length_at = names.index(b"content-length") if key[1] else None
        self._heads[key] = _Head(kept, tuple(scope["headers"]), length_at)


_OF_A_HEAD: Final = frozenset(
    {
        "type",
        "asgi",
        "http_version",
        "server",
        "client",
        "scheme",
        "method",
        "root_path",
        "path",
        "raw_path",
        "query_string",
    }
)
"""What uvicorn says of a request that its head and its connection decide."""


def _key(head: bytes, length: re.Match[bytes] | None) -> _Key:
    return (head, b"") if length is None else (head[: length.start(1)], head[length.end(1) :])

"""WebSockets on the routes of one extension.

The host asks for each message of a route and for room for each message of a client, so neither side can send more than
the other takes. Small messages are held one at a time; of large ones (over one piece) at most ``LARGE_AT_ONCE`` are in
the host's memory, for all WebSockets of the extension together. A WebSocket keeps its sandbox in use while something is
said on it, and for the policy's ``timeouts.idle`` after that; then the sandbox may be ended like any idle one, and the
WebSocket with it. At most ``MAX_SOCKETS`` of an extension are open, and one that the worker does not let go of counts.
"""

from __future__ import annotations

import base64
import math
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any, Final, Never

import anyio

from policies import ExtensionName, format_bytes, safe_text
from runtime import wire
from sandbox import messages
from sandbox.call_book import CallBook
from sandbox.calls import PackSocket, Progress, SocketClosed, SocketRequest
from sandbox.errors import (
    ProtocolViolationError,
    QuotaError,
    RouteBusyError,
    RouteRefusedError,
    RouteTimeoutError,
)
from sandbox.exchanges import Exchanges
from sandbox.launcher import failure
from sandbox.lifecycle import Sandbox, ended_copy
from sandbox.peer import ConversationEndedError

MAX_SOCKETS: Final = 32
LARGE_AT_ONCE: Final = 4
MESSAGE_TO_PACK: Final = wire.SOCKET_TO_PACK
TAKE_S: Final = 30.0
"""How long a route may leave a message lying before its WebSocket is given up."""
_GOING_AWAY: Final = SocketClosed(1001)
_NOT_SENT: Final = (1005, 1006, 1015)
"""Codes that say how a WebSocket ended and stand in no close frame."""


class Sockets:
    """Opens WebSockets on the routes of one extension in one sandbox."""

    def __init__(self, sandbox: Sandbox, extension: ExtensionName, calls: CallBook) -> None:
        self._sandbox = sandbox
        self._extension = extension
        self._calls = calls
        self._asker = Exchanges(sandbox, extension, calls)
        self._open = 0
        self._large = anyio.Semaphore(LARGE_AT_ONCE)

    @asynccontextmanager
    async def open(self, request: SocketRequest) -> AsyncIterator[PackSocket]:
        """See ``calls.Session.socket``."""
        limit = self._asker.piece_limit()
        if self._open + self._asker.unanswered() >= MAX_SOCKETS:
            raise RouteBusyError(
                f"{MAX_SOCKETS} WebSockets on routes of extension '{self._extension}' are open",
                "close some, or try again later",
            )
        self._open += 1
        call = self._calls.open(self._extension)
        self._sandbox.services.listen(call, _nobody)  # so that its events are put down to this extension
        what = f"WebSocket {safe_text(request.target.partition('?')[0], 120)!r}"
        socket = _Socket(self._asker, self._sandbox, call, what, limit, self._large)
        try:
            with self._sandbox.busy(), self._sandbox.asking():
                socket.protocol = await self._ask(request, socket)
            yield socket
        finally:
            self._open -= 1
            self._sandbox.services.unlisten(call)
            self._calls.close(call)
            with anyio.CancelScope(shield=True):
                await socket.end()

    async def _ask(self, request: SocketRequest, socket: _Socket) -> str | None:
        offered = request.protocols[: wire.SOCKET_PROTOCOLS]
        params = {
            "socket": socket.number,
            "name": self._extension,
            "target": request.target,
            "headers": [list(pair) for pair in request.headers],
            "protocols": list(offered),
        }
        deadline = anyio.current_time() + self._sandbox.policy.timeouts.call_s
        answer = await self._asker.ask(wire.SOCKET_OPEN, params, socket.what, deadline)
        status, protocol = await self._asker.checked(lambda: messages.socket_opened(answer, offered))
        if status != 101:
            raise RouteRefusedError(
                f"{socket.what} of extension '{self._extension}' was not accepted: the route answered {status}",
                status=status,
            )
        return protocol if isinstance(protocol, str) else None


class _Socket:
    """See ``calls.PackSocket``."""

    def __init__(
        self,
        asker: Exchanges,
        sandbox: Sandbox,
        number: int,
        what: str,
        limit: int,
        large: anyio.Semaphore,
    ) -> None:
        self.number = number
        self.what = what
        self.protocol: str | None = None
        self._asker = asker
        self._sandbox = sandbox
        self._limit = limit
        self._large = large
        self._is_large = False
        self._is_over = False
        self._farewell = _GOING_AWAY
        self._used_at = 0.0
        self._in_use = ExitStack()
        self._is_in_use = False
        self._use()

    async def receive(self) -> str | bytes | SocketClosed:
        """The route's next message."""
        self._let_go()
        said = await self._said()
        if isinstance(said, SocketClosed):
            self._is_over = True
            return said
        self._use()
        data = said.data
        if said.more:
            await self._large.acquire()
            self._is_large = True
            data = await self._rest(said)
        elif len(data) != said.size:
            await self._asker.checked(_broken_size)
        if said.kind == "binary":
            return data
        text: str = await self._asker.checked(lambda: _decoded(data))
        return text

    async def send(self, message: str | bytes) -> None:
        """Hand a message to the route."""
        self._use()
        kind, data = ("binary", message) if isinstance(message, bytes) else ("text", message.encode("utf-8"))
        if len(data) > MESSAGE_TO_PACK:
            raise QuotaError(
                f"a message of {len(data)} bytes is too large for {self.what}",
                f"at most {format_bytes(MESSAGE_TO_PACK)} go into one",
            )
        try:
            with anyio.fail_after(TAKE_S):
                for start in range(0, len(data) or 1, self._limit):
                    piece = data[start : start + self._limit]
                    params = {
                        "socket": self.number,
                        "kind": kind,
                        "data": base64.b64encode(piece).decode("ascii"),
                        "more": start + self._limit < len(data),
                    }
                    await self._asker.ask(wire.SOCKET_SEND, params, self.what, math.inf)
        except TimeoutError:
            raise RouteTimeoutError(
                f"{self.what} did not take a message", f"a route has {TAKE_S:.0f} s to read what it is sent"
            ) from None

    def leave(self, end: SocketClosed) -> None:
        """See ``calls.PackSocket``."""
        self._farewell = end

    async def watch(self) -> Never:
        """Let go of the sandbox while nothing is said; raise when it ends."""
        idle_s = self._sandbox.policy.timeouts.idle_s
        while not self._sandbox.leaving.is_set():
            quiet_s = anyio.current_time() - self._used_at
            if quiet_s >= idle_s:
                self._rest_now()
            with anyio.move_on_after(idle_s - quiet_s if self._is_in_use else idle_s):
                await self._sandbox.leaving.wait()
        if self._sandbox.is_ending:
            raise ended_copy(await self._sandbox.final_error(), call_started=True)
        raise failure.stopped(self._sandbox.names, "its code or policy has changed")

    async def end(self) -> None:
        """It is over, whoever ended it: tell the worker, unless it said so itself."""
        self._let_go()
        self._rest_now()
        if self._is_over:
            return
        params: dict[str, Any] = {"socket": self.number, "code": None, "reason": ""}
        if self._farewell.code not in _NOT_SENT:
            reason = self._farewell.reason.encode("utf-8")[: wire.SOCKET_REASON].decode("utf-8", "ignore")
            params |= {"code": self._farewell.code, "reason": reason}
        with anyio.move_on_after(TAKE_S):
            try:
                await self._sandbox.peer.notify(wire.SOCKET_CLOSE, params)
            except ConversationEndedError:
                return

    async def _said(self) -> messages.SocketPiece | SocketClosed:
        params = {"socket": self.number, "limit": self._limit}
        answer = await self._asker.ask(wire.SOCKET_RECEIVE, params, self.what, math.inf)
        said: messages.SocketPiece | SocketClosed = await self._asker.checked(
            lambda: messages.socket_said(answer, self._limit)
        )
        return said

    async def _rest(self, first: messages.SocketPiece) -> bytes:
        """A large message, whose first piece is at hand; the worker has all of it, so that it comes in time."""
        data = bytearray(first.data)
        piece: messages.SocketPiece | SocketClosed = first
        deadline = anyio.current_time() + self._sandbox.policy.timeouts.call_s
        while isinstance(piece, messages.SocketPiece) and piece.more:
            with anyio.move_on_after(deadline - anyio.current_time()) as time:
                piece = await self._said()
            if time.cancelled_caught:
                raise self._asker.too_slow(self.what)
            is_next = (
                isinstance(piece, messages.SocketPiece)
                and (piece.kind, piece.size) == (first.kind, first.size)
                and (len(data) + len(piece.data) < first.size) == piece.more
                and len(data) + len(piece.data) <= first.size
            )
            if not is_next:
                await self._asker.checked(_broken_size)
            data += piece.data if isinstance(piece, messages.SocketPiece) else b""
        return bytes(data)

    def _let_go(self) -> None:
        if self._is_large:
            self._is_large = False
            self._large.release()

    def _use(self) -> None:
        self._used_at = anyio.current_time()
        if not self._is_in_use:
            self._is_in_use = True
            self._in_use.enter_context(self._sandbox.keep())

    def _rest_now(self) -> None:
        self._is_in_use = False
        self._in_use.close()


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise ProtocolViolationError("it sent a text message on a WebSocket that is not UTF-8") from None


def _broken_size() -> Never:
    raise ProtocolViolationError("it sent a message on a WebSocket whose pieces do not make up its size")


def _nobody(_progress: Progress) -> None:
    """Routes report no progress of a node."""

"""HTTP exchanges with the routes of one extension, and its prompt handlers.

An exchange has one deadline, the policy's ``timeouts.call``, and a limit on its bytes. The host pulls the response
piece by piece, so a worker cannot send more than was asked for. A route that is slow, fails or breaks off costs its
exchange; only a broken protocol costs the sandbox. At most ``MAX_OPEN`` exchanges of an extension are open at once, and
one that the worker never answers counts as open until it does.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import anyio

from policies import ExtensionName, format_bytes, safe_text
from runtime import wire
from sandbox import messages
from sandbox.call_book import CallBook
from sandbox.calls import HttpRequest, HttpResponse, Progress
from sandbox.errors import (
    ProtocolViolationError,
    QuotaError,
    RouteBusyError,
    RouteTimeoutError,
)
from sandbox.lifecycle import Sandbox, ended_copy
from sandbox.peer import ConversationEndedError, PendingCall, RemoteCallError

MAX_OPEN: Final = 32
MAX_RESPONSE_BYTES: Final = 1 << 30
_HEAD_ROOM: Final = 64 * 1024
"""Of a message: what its headers and the JSON around them may take."""
_CLOSE_S: Final = 5.0


class Exchanges:
    """Asks the routes of one extension in one sandbox."""

    def __init__(self, sandbox: Sandbox, extension: ExtensionName, calls: CallBook) -> None:
        self._sandbox = sandbox
        self._extension = extension
        self._calls = calls
        self._open = 0
        self._unanswered: list[PendingCall] = []

    @asynccontextmanager
    async def open(self, request: HttpRequest, body: AsyncIterator[bytes]) -> AsyncIterator[HttpResponse]:
        """See ``calls.Session.http``."""
        limit = self.piece_limit()
        self._refuse_crowds()
        self._open += 1
        deadline = anyio.current_time() + self._sandbox.policy.timeouts.call_s
        what = f"route {request.method} {safe_text(request.target.partition('?')[0], 120)!r}"
        call = self._calls.open(self._extension)
        self._sandbox.services.listen(call, _nobody)  # so that its events are put down to this extension
        exchange = _Exchange(self, call, what, deadline, limit)
        if self._sandbox.watch is not None:
            self._sandbox.watch.route_called()
        try:
            # Around whoever reads the response too: a client that sends or reads slowly has no longer than a worker.
            with self._at_work(), anyio.move_on_after(deadline - anyio.current_time()) as time:
                yield await exchange.start(self._extension, request, body)
            if time.cancelled_caught:
                raise self.too_slow(what)
        finally:
            self._open -= 1
            self._sandbox.services.unlisten(call)
            self._calls.close(call)
            if not exchange.is_complete:
                with anyio.CancelScope(shield=True):
                    await self._close(call)

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        with self._sandbox.busy(), self._sandbox.asking():
            yield

    async def hook_prompt(self, body: Mapping[str, Any], limit_s: float) -> Any:
        """See ``calls.Session.hook_prompt``."""
        self._refuse_crowds()
        call = self._calls.open(self._extension)
        self._sandbox.services.listen(call, _nobody)
        try:
            with self._at_work():
                answer = await self.ask(
                    wire.PROMPT_HOOK,
                    {"name": self._extension, "body": dict(body)},
                    "its prompt handler",
                    anyio.current_time() + limit_s,
                )
        finally:
            self._sandbox.services.unlisten(call)
            self._calls.close(call)
        return await self.checked(lambda: messages.hooked(answer))

    async def ask(self, method: str, params: dict[str, Any], what: str, deadline: float) -> Any:
        """The worker's answer to one message of an exchange."""
        return await self.answer(await self.send(method, params, what, deadline), what, deadline)

    async def send(self, method: str, params: dict[str, Any], what: str, deadline: float) -> PendingCall:
        """Send one message of an exchange."""
        try:
            with anyio.fail_after(deadline - anyio.current_time()):
                return await self._sandbox.peer.start(method, params)
        except TimeoutError:
            raise self.too_slow(what) from None
        except ConversationEndedError:
            raise ended_copy(await self._sandbox.final_error(), call_started=False) from None
        except wire.FrameTooLargeError as error:
            raise QuotaError(f"the request for {what} does not fit one message: {error}") from None

    async def answer(self, pending: PendingCall, what: str, deadline: float) -> Any:
        """Wait for the answer to a message that was sent."""
        try:
            with anyio.fail_after(deadline - anyio.current_time()):
                return await pending.wait()
        except TimeoutError:
            raise self.too_slow(what) from None
        except ConversationEndedError:
            raise ended_copy(await self._sandbox.final_error(), call_started=True) from None
        except RemoteCallError as error:
            raise await self._failed(error) from None
        finally:
            self.let_go(pending)

    def let_go(self, pending: PendingCall) -> None:
        """Nobody waits for it any more; until it is answered it counts as open."""
        pending.close()
        if not pending.is_answered:
            self._unanswered.append(pending)

    async def checked(self, read: Any) -> Any:
        """What ``read`` makes of an answer; a worker whose answer is none is ended."""
        try:
            return read()
        except ProtocolViolationError as error:
            self._sandbox.end(error)
            raise await self._sandbox.final_error() from error

    def too_slow(self, what: str) -> RouteTimeoutError:
        """The error of an exchange that has used up its time."""
        limit = self._sandbox.policy.timeouts.call_s
        return RouteTimeoutError(
            f"{what} of extension '{self._extension}' did not answer in time",
            f"an exchange with all of its bytes may take {limit:.0f} s ('timeouts.call'); a prompt handler less",
        )

    async def _failed(self, error: RemoteCallError) -> Exception:
        try:
            return messages.failure(error.error, self._extension)
        except ProtocolViolationError as violation:
            self._sandbox.end(violation)
            return await self._sandbox.final_error()

    async def _close(self, number: int) -> None:
        with anyio.move_on_after(_CLOSE_S):
            try:
                await self._sandbox.peer.notify(wire.HTTP_CLOSE, {"exchange": number})
            except ConversationEndedError:
                return

    def unanswered(self) -> int:
        """How many messages nobody waits for that the worker still owes an answer to."""
        self._unanswered = [call for call in self._unanswered if not call.is_answered]
        return len(self._unanswered)

    def _refuse_crowds(self) -> None:
        if self._open + self.unanswered() >= MAX_OPEN:
            raise RouteBusyError(
                f"{MAX_OPEN} requests for routes of extension '{self._extension}' are open",
                "try again when they are answered",
            )

    def piece_limit(self) -> int:
        """How many bytes go into one message of an exchange.

        Raises:
            QuotaError: the policy's messages are too small for any.
        """
        allowed = self._sandbox.policy.limits.message_bytes
        limit = min(wire.HTTP_PIECE, (min(allowed, wire.MAX_FRAME) - _HEAD_ROOM) * 3 // 4)
        if limit < 1024:
            raise QuotaError(
                f"routes of extension '{self._extension}' need messages of more than {format_bytes(_HEAD_ROOM)}, "
                f"the policy allows {format_bytes(allowed)}",
                "raise 'limits.message_bytes'",
            )
        return limit


class _Exchange:
    """One request and its response."""

    def __init__(self, asker: Exchanges, number: int, what: str, deadline: float, limit: int) -> None:
        self._asker = asker
        self._number = number
        self._what = what
        self._deadline = deadline
        self._limit = limit
        self.is_complete = False

    async def start(
        self, extension: ExtensionName, request: HttpRequest, body: AsyncIterator[bytes]
    ) -> HttpResponse:
        """Send the request with all of its body, and wait for the head of the response."""
        pieces = _Pieces(body, self._limit)
        first, more = await pieces.next()
        params = {
            "exchange": self._number,
            "name": extension,
            "method": request.method,
            "target": request.target,
            "headers": [list(pair) for pair in request.headers],
            "data": _text(first),
            "more": more,
            "limit": self._limit,
        }
        pending = await self._asker.send(wire.HTTP_REQUEST, params, self._what, self._deadline)
        try:
            while more:
                piece, more = await pieces.next()
                sent = {"exchange": self._number, "data": _text(piece), "more": more}
                await self._asker.ask(wire.HTTP_SEND, sent, self._what, self._deadline)
        except BaseException:
            self._asker.let_go(pending)
            raise
        answer = await self._asker.answer(pending, self._what, self._deadline)
        head: messages.HttpHead = await self._asker.checked(lambda: messages.http_head(answer, self._limit))
        self.is_complete = not head.first.more
        return HttpResponse(head.status, head.headers, self._body(head.first))

    async def _body(self, piece: messages.HttpPiece) -> AsyncIterator[bytes]:
        left = MAX_RESPONSE_BYTES
        while True:
            left -= len(piece.data)
            if left < 0:
                raise QuotaError(f"{self._what} answered with more than {format_bytes(MAX_RESPONSE_BYTES)}")
            if piece.data:
                yield piece.data
            if not piece.more:
                return
            params = {"exchange": self._number, "limit": self._limit}
            answer = await self._asker.ask(wire.HTTP_READ, params, self._what, self._deadline)
            piece = await self._asker.checked(lambda: messages.http_piece(answer, self._limit))  # noqa: B023
            self.is_complete = not piece.more


class _Pieces:
    """A body cut anew: pieces of at most ``size`` bytes, and whether there is another."""

    def __init__(self, body: AsyncIterator[bytes], size: int) -> None:
        self._body = body
        self._size = size
        self._held = bytearray()
        self._is_over = False

    async def next(self) -> tuple[bytes, bool]:
        """The next piece (the last may be empty) and whether more follow."""
        while len(self._held) <= self._size and not self._is_over:
            try:
                self._held += await anext(self._body)
            except StopAsyncIteration:
                self._is_over = True
        piece = bytes(self._held[: self._size])
        del self._held[: self._size]
        return piece, bool(self._held) or not self._is_over


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _nobody(_progress: Progress) -> None:
    """Routes report no progress of a node."""

"""One request's body on its way in and its answer on the way out, as the guard (api/guard.py) lets them pass."""

from __future__ import annotations

import anyio
from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from api.bodies import BodyTooLargeError
from api.errors import response_to
from api.loop_share import Passage
from api.remarks import remarks_of
from api.request_form import announced
from api.whole_answers import WHOLE, SayWhole
from engine import SizeQuotaError
from policies import RingfenceError

_NO_SNIFFING = (b"x-content-type-options", b"nosniff")
_STAYS_OPEN = frozenset({"websocket.accept", "websocket.close"})
_CORS = {
    "Access-Control-Allow-Methods": "POST, GET, DELETE, PUT, PATCH, HEAD, OPTIONS",
    "Access-Control-Allow-Headers": "Content-Type, Authorization, Comfy-User, Idempotency-Key, Range",
    "Access-Control-Allow-Credentials": "true",
    "Access-Control-Max-Age": "600",
}
_DRAIN_BYTES = 512 * 1024 * 1024
_DRAIN_REFUSED_BYTES = 256 * 1024
"""What is still taken of the body of a request that was refused for another reason than its size."""
_DRAIN_S = 10.0


class LimitReachedError(Exception):
    """Unwinds whatever was reading the body."""


class Body:
    """The incoming body, counted; each part of it is taken in its sender's turn."""

    def __init__(self, receive: Receive, passage: Passage, *, is_coming: bool) -> None:
        self._receive = receive
        self._passage = passage
        self._is_coming = is_coming
        self.limit = 0
        self.ended = False
        self.too_large: RingfenceError | None = None
        """What to say at the limit, where that is not the installation's."""
        self.seen = 0

    async def receive(self) -> Message:
        """The next message."""
        if self.ended:
            return await self._receive()  # nothing but the end of the connection is waited for
        self._passage.step_aside()
        message = await self._receive()
        if message["type"] == "http.request":
            await self._passage.go_on()
        return message

    async def limited(self) -> Message:
        """The next message; raises at the first byte over the limit."""
        message = await self.receive()
        if message["type"] == "http.request":
            self.seen += len(message.get("body", b""))
            self.ended = not message.get("more_body", False)
            if self.seen > self.limit:
                raise LimitReachedError
        else:
            self.ended = True
        return message

    async def drain(self, left: int) -> None:
        """Throw away what still arrives, within reason: a client cut off while it sends may never read the answer."""
        with anyio.move_on_after(_DRAIN_S):
            while self._is_coming and not self.ended and left > 0:
                message = await self.receive()
                left -= len(message.get("body", b""))
                self.ended = message["type"] != "http.request" or not message.get("more_body", False)


class Answer:
    """The outgoing answer: remembers its status, and adds what every answer carries."""

    def __init__(self, send: Send, origin: str | None, body: Body, passage: Passage) -> None:
        self._send = send
        self._passage = passage
        self._is_hung_up = False
        self._origin = origin
        self._body = body
        self._has_begun = False
        self.status = 0
        self.is_bodiless = False

    async def send_raw(self, message: Message) -> None:
        """Pass on as it is; what comes after ``hang_up`` goes nowhere."""
        if self._is_hung_up:
            return
        if message["type"] == "http.response.body":
            self._passage.step_aside()  # whoever takes it may be slow
            await self._send(message)
            if message.get("more_body", False):
                await self._passage.go_on()
            return
        if message["type"] in _STAYS_OPEN:
            self._passage.end()
        await self._send(message)

    async def hang_up(self, code: int, reason: str) -> None:
        """Close a WebSocket over its handler's head."""
        self._is_hung_up = True
        try:
            await self._send({"type": "websocket.close", "code": code, "reason": reason})
        except RuntimeError:
            pass  # it was closed already

    async def send_whole(self, scope: Scope, response: Response) -> None:
        """All of an answer in one step where the server below does that; else as any answer."""
        say: SayWhole | None = scope.get("extensions", {}).get(WHOLE)
        # A body that was not asked for has ended, too, where the server takes it: nothing is left to drain.
        if say is not None and self._origin is None:
            self._passage.step_aside()
            if say(response.status_code, (*response.raw_headers, _NO_SNIFFING), bytes(response.body)):
                self.status, self._has_begun = response.status_code, True
                return
        await response(scope, self._body.limited, self.send)

    async def send(self, message: Message) -> None:
        """Pass on."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            # A file of a tenant must not be taken for a script or page by a browser that sniffs.
            if _NO_SNIFFING[0] in dict(message["headers"]):
                MutableHeaders(scope=message)["X-Content-Type-Options"] = "nosniff"
            else:
                message["headers"] = [*message["headers"], _NO_SNIFFING]
            if self._origin is not None:
                headers = MutableHeaders(scope=message)
                headers.update({**_CORS, "Access-Control-Allow-Origin": self._origin})
                headers.add_vary_header("Origin")
        else:
            if self.is_bodiless:
                message = {**message, "body": b""}
            is_whole = not self._has_begun and not message.get("more_body", False)
            self._has_begun = True
            if is_whole and self.status >= 400 and not self._body.ended:
                # An error said before all of the body was read: the server below would hang up with the rest of it
                # unread, and the client would see a connection reset in place of the answer.
                await self.send_raw({**message, "more_body": True})
                await self._body.drain(_DRAIN_REFUSED_BYTES)
                message = {"type": "http.response.body", "body": b""}
        await self.send_raw(message)


async def refuse(scope: Scope, body: Body, answer: Answer, error: RingfenceError) -> None:
    remarks_of(scope).error = error
    response: Response = response_to(error, scope["path"])
    if scope["type"] == "websocket":
        await answer.send_raw({"type": "websocket.close", "code": 1008, "reason": error.message[:100]})
        return
    response.headers["Connection"] = "close"
    headers = response.raw_headers
    await answer.send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    # The answer's bytes first, its end only after the rest of the body: see drain.
    await answer.send({"type": "http.response.body", "body": response.body, "more_body": True})
    # A body of announced length is let run out; one without an end in sight is hung up on. Whoever was refused for
    # another reason than its size gets to send what a form or a prompt has: cut off, it would see no answer.
    is_size = isinstance(error, BodyTooLargeError | SizeQuotaError)
    most = _DRAIN_BYTES if is_size else _DRAIN_REFUSED_BYTES
    await body.drain(min(announced(scope) or (body.limit if is_size else most), most))
    await answer.send({"type": "http.response.body", "body": b""})

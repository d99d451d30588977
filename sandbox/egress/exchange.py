"""One HTTP request through the proxy: read strictly, written anew, never copied byte for byte.

Both sides are HTTP/1.1 by h11. Because every message is parsed and then written from its parts, two readers cannot see
two different requests in it (smuggling): one Host, one length, no folded lines, no hop-by-hop headers. A connection
carries one request; what a client sends behind it (pipelining) is dropped. Redirects are answers like any other: who
follows one asks again and is checked again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

import anyio
import h11
from anyio.abc import ByteStream

from policies import safe_text
from sandbox.egress.decision import FailedError, RefusedError
from sandbox.egress.limits import EgressLimits
from sandbox.egress.streams import PIECE
from sandbox.egress.vault import Secret

Headers = list[tuple[bytes, bytes]]

_HOP_BY_HOP: Final = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-connection", b"proxy-authorization", b"proxy-authenticate", b"te",
        b"trailer", b"upgrade", b"expect", b"host", b"transfer-encoding", b"http2-settings",
    }
)  # fmt: skip
_METHOD: Final = re.compile(rb"[A-Z]{1,20}\Z")
_PATH: Final = re.compile(rb"/[!-~]*\Z")
GONE: Final = (OSError, anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)


async def read_request(stream: ByteStream, connection: h11.Connection, limits: EgressLimits) -> h11.Request:
    """The head of the next request.

    Raises:
        RefusedError: it is no HTTP, too long, or does not come in time.
        anyio.EndOfStream: the client left before its first byte.
    """
    started = False
    try:
        with anyio.fail_after(limits.head_s):
            while True:
                event = connection.next_event()
                if event is h11.NEED_DATA:
                    try:
                        data = await stream.receive(PIECE)
                    except anyio.EndOfStream:
                        if not started:
                            raise
                        data = b""
                    started = True
                    connection.receive_data(data)
                elif isinstance(event, h11.Request):
                    _check(event)
                    return event
                else:
                    raise anyio.EndOfStream
    except h11.RemoteProtocolError as error:
        why = safe_text(str(error), 200)  # it holds the line, which may be as long as a head
        raise RefusedError(f"this is not HTTP/1.1: {why}", status=error.error_status_hint or 400) from None
    except TimeoutError:
        raise RefusedError(
            f"the head of a request did not come within {limits.head_s:.0f} s", status=408
        ) from None


def _check(request: h11.Request) -> None:
    names = [name for name, _ in request.headers]
    if b"content-length" in names and b"transfer-encoding" in names:
        raise RefusedError("a request has a length or is chunked, not both", status=400)
    if request.http_version not in (b"1.0", b"1.1"):
        raise RefusedError("this version of HTTP is not spoken here; use HTTP/1.1", status=505)
    if not _METHOD.match(request.method):
        raise RefusedError("this is not a method", status=400)
    if request.method == b"CONNECT" and (b"content-length" in names or b"transfer-encoding" in names):
        raise RefusedError("CONNECT has no body", status=400)
    if request.method == b"TRACE":
        raise RefusedError("TRACE is not passed on: it would show what was added on the way", status=405)


def host_header(request: h11.Request) -> str | None:
    """The one Host header; h11 refuses a second one."""
    for name, value in request.headers:
        if name == b"host":
            return value.decode("latin-1")
    return None


async def answer(stream: ByteStream, connection: h11.Connection, error: RefusedError) -> bool:
    """Tell the client why not; False when an answer has begun already, which can only break off."""
    if connection.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
        return False
    body = f"Ringfence: {error.why}\n".encode("ascii", "backslashreplace")
    reason = b"Refused by Ringfence" if not isinstance(error, FailedError) else b"Failed at Ringfence"
    headers = [
        ("Content-Type", "text/plain; charset=us-ascii"),
        ("Content-Length", str(len(body))),
        ("X-Ringfence-Egress", "refused" if not isinstance(error, FailedError) else "failed"),
        ("Connection", "close"),
    ]
    pieces = [
        connection.send(h11.Response(status_code=error.status, headers=headers, reason=reason)),
        connection.send(h11.Data(data=body)),
        connection.send(h11.EndOfMessage()),
    ]
    try:
        await stream.send(b"".join(piece or b"" for piece in pieces))
    except GONE:
        return False
    return True


class Filling:
    """Puts secrets into their headers, and takes them out of whatever comes back."""

    def __init__(self, secrets: Sequence[Secret]) -> None:
        self._secrets = secrets
        self.filled: list[str] = []
        """Names of the secrets that this request carries."""
        # The longest first: one value may be a part of another.
        self._values = sorted({secret.value for secret in secrets}, key=len, reverse=True)
        self._held = b""

    def request(self, headers: Headers) -> Headers:
        """The headers as the other side shall see them.

        Each secret's header is set, whatever the pack wrote there: with a key of its own it could send what it
        learned in here to an account of its own at the very host that is allowed.
        """
        if not self._secrets:
            return headers
        ours = {secret.header for secret in self._secrets}
        # What is compressed cannot be looked through on its way back.
        done = [pair for pair in headers if pair[0] not in ours and pair[0] != b"accept-encoding"]
        done += [(secret.header, secret.line) for secret in self._secrets]
        done.append((b"accept-encoding", b"identity"))
        self.filled = [secret.name for secret in self._secrets]
        return done

    def check_answer(self, headers: Headers) -> None:
        """Raises: RefusedError for an answer that cannot be looked through."""
        coded = {value.strip().lower() for name, value in headers if name == b"content-encoding"} - {
            b"identity"
        }
        if self.filled and coded:
            raise FailedError(
                f"the answer is compressed although it was asked for plain, so it cannot be cleared of secret "
                f"'{self.filled[0]}'"
            )

    def clear(self, data: bytes) -> bytes:
        """``data`` without secrets; each of their bytes becomes a star, so that lengths stay true."""
        for value in self._values:
            data = data.replace(value, b"*" * len(value))
        return data

    def body(self, data: bytes, *, last: bool = False) -> bytes:
        """The next piece of a body; an end that could be the beginning of a secret waits for what follows."""
        if not self._values:
            return data
        data = self.clear(self._held + data)
        keep = 0 if last else max(_overlap(data, value) for value in self._values)
        self._held = data[len(data) - keep :]
        return data[: len(data) - keep]


def _overlap(data: bytes, value: bytes) -> int:
    """How many bytes at the end of ``data`` are the beginning of ``value``."""
    for length in range(min(len(data), len(value) - 1), 0, -1):
        if data.endswith(value[:length]):
            return length
    return 0


def _kept(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    listed = list(headers)
    named = {
        word.strip().lower() for name, value in listed if name == b"connection" for word in value.split(b",")
    }
    return [(name, value) for name, value in listed if name not in _HOP_BY_HOP and name not in named]


async def forward(
    inside: ByteStream,
    client: h11.Connection,
    request: h11.Request,
    outside: ByteStream,
    *,
    path: str,
    authority: str,
    filling: Filling,
    limits: EgressLimits,
) -> None:
    """Send one request on and its answer back.

    Raises:
        RefusedError: the request cannot be sent as it is.
        FailedError: the other side or a cap ended it.
    """
    target = path.encode("latin-1")
    if not _PATH.match(target):
        raise RefusedError("this is not a path", status=400)
    chunked = any(name == b"transfer-encoding" for name, _ in request.headers)
    headers = filling.request(_kept(request.headers))
    headers = [(b"host", authority.encode("ascii")), *headers, (b"connection", b"close")]
    if chunked:
        headers.append((b"transfer-encoding", b"chunked"))
    server = h11.Connection(h11.CLIENT, max_incomplete_event_size=limits.head_bytes)
    try:
        head = server.send(h11.Request(method=request.method, target=target, headers=headers))
    except h11.LocalProtocolError:
        raise RefusedError("this request cannot be passed on", status=400) from None
    problem: RefusedError | None = None

    async def up() -> None:
        nonlocal problem
        try:
            await outside.send(head or b"")
            await _upload(inside, client, outside, server)
        except RefusedError as error:
            problem = error
            group.cancel_scope.cancel()
        except h11.RemoteProtocolError:
            problem = FailedError("the body of the request broke off", status=400)
            group.cancel_scope.cancel()
        except GONE:
            pass  # the answer may come all the same: a server need not read a body it refuses

    async with anyio.create_task_group() as group:
        group.start_soon(up)
        try:
            await _download(inside, client, outside, server, filling)
        except RefusedError as error:
            problem = error
        except h11.RemoteProtocolError as error:
            problem = FailedError(f"the answer is not HTTP/1.1: {error}")
        except GONE:
            problem = FailedError("the connection broke off before the answer was complete")
        group.cancel_scope.cancel()
    if problem is not None:
        raise problem


async def _upload(
    inside: ByteStream, client: h11.Connection, outside: ByteStream, server: h11.Connection
) -> None:
    while True:
        event = client.next_event()
        if event is h11.NEED_DATA:
            if client.they_are_waiting_for_100_continue:
                await inside.send(client.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
            try:
                data = await inside.receive(PIECE)
            except anyio.EndOfStream:
                data = b""
            client.receive_data(data)
        elif isinstance(event, h11.Data):
            await outside.send(server.send(h11.Data(data=bytes(event.data))) or b"")
        elif isinstance(event, h11.EndOfMessage):
            await outside.send(server.send(h11.EndOfMessage()) or b"")
            return
        else:
            return


async def _download(
    inside: ByteStream,
    client: h11.Connection,
    outside: ByteStream,
    server: h11.Connection,
    filling: Filling,
) -> None:
    while True:
        event = server.next_event()
        if event is h11.NEED_DATA:
            try:
                data = await outside.receive(PIECE)
            except anyio.EndOfStream:
                data = b""
            server.receive_data(data)
        elif isinstance(event, h11.Response):
            kept = _kept(event.headers)
            filling.check_answer(kept)
            if any(name == b"transfer-encoding" for name, _ in event.headers):
                kept = [pair for pair in kept if pair[0] != b"content-length"]
            kept = [(name, filling.clear(value)) for name, value in kept]
            response = h11.Response(
                status_code=event.status_code,
                headers=[*kept, (b"connection", b"close")],
                reason=filling.clear(bytes(event.reason)),
            )
            await inside.send(client.send(response) or b"")
        elif isinstance(event, h11.Data):
            if piece := filling.body(bytes(event.data)):
                await inside.send(client.send(h11.Data(data=piece)) or b"")
        elif isinstance(event, h11.EndOfMessage):
            if rest := filling.body(b"", last=True):
                await inside.send(client.send(h11.Data(data=rest)) or b"")
            await inside.send(client.send(h11.EndOfMessage()) or b"")
            return
        elif isinstance(event, h11.InformationalResponse):
            if event.status_code == 101:
                raise FailedError("the answer changes the protocol, which nobody asked for")
        else:
            raise FailedError("the connection broke off before the answer was complete")

"""What the routes of a pack may answer over HTTP and say on a WebSocket, piece by piece."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from policies import safe_text
from runtime import wire
from sandbox.calls import SocketClosed
from sandbox.errors import ProtocolViolationError
from sandbox.messages.envelope import checked
from sandbox.strict import Strict

# Nothing that could begin another header or end the head: the value goes into a response of ours.
_HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$")]
_HeaderValue = Annotated[str, StringConstraints(pattern=r"^[\t -~\u00a0-\u00ff]*$", max_length=8192)]
_Base64 = Annotated[str, StringConstraints(max_length=2 * wire.HTTP_PIECE)]


class _HttpPiece(Strict):
    data: _Base64
    more: bool


class _HttpHead(_HttpPiece):
    status: Annotated[int, Field(ge=200, le=599)]
    headers: Annotated[
        list[Annotated[tuple[_HeaderName, _HeaderValue], Field(strict=False)]],
        Field(max_length=wire.HTTP_HEADERS),
    ]


class _SocketOpened(Strict):
    status: Annotated[int, Field(ge=100, le=599)]
    protocol: Annotated[str, StringConstraints(max_length=1024)] | None


class _SocketPiece(Strict):
    kind: Literal["text", "binary"]
    size: Annotated[int, Field(ge=0, le=wire.SOCKET_FROM_PACK)]
    data: _Base64
    more: bool


class _SocketEnd(Strict):
    kind: Literal["close"]
    code: Annotated[int, Field(ge=0, le=65535)]
    reason: Annotated[str, StringConstraints(max_length=wire.SOCKET_REASON)]


@dataclass(frozen=True, slots=True)
class HttpPiece:
    """A piece of a route's response."""

    data: bytes
    more: bool


@dataclass(frozen=True, slots=True)
class HttpHead:
    """The head of a route's response, and its first piece."""

    status: int
    headers: tuple[tuple[str, str], ...]
    first: HttpPiece


def http_head(result: Any, limit: int) -> HttpHead:
    """Raises: ProtocolViolationError when it is no head of a response whose first piece is at most ``limit`` bytes."""
    said = checked(_HttpHead, result, "HTTP response")
    if sum(len(name) + len(value) for name, value in said.headers) > wire.HTTP_HEADER_CHARACTERS:
        raise ProtocolViolationError("it sent a bad HTTP response: its headers are too long")
    return HttpHead(
        said.status,
        tuple((name.lower(), value) for name, value in said.headers),
        _http_piece(said.data, said.more, limit),
    )


def http_piece(result: Any, limit: int) -> HttpPiece:
    """Raises: ProtocolViolationError when it is no piece of a response of at most ``limit`` bytes."""
    said = checked(_HttpPiece, result, "piece of an HTTP response")
    return _http_piece(said.data, said.more, limit)


def _http_piece(text: str, more: bool, limit: int) -> HttpPiece:
    data = _bytes(text, "HTTP response")
    if len(data) > limit:
        raise ProtocolViolationError(
            f"it sent a piece of {len(data)} bytes of an HTTP response, {limit} were asked"
        )
    if more and not data:
        raise ProtocolViolationError("it sent an empty piece of an HTTP response that is not the last")
    return HttpPiece(data, more)


def _bytes(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text.encode("ascii"), validate=True)
    except ValueError:
        raise ProtocolViolationError(f"it sent a bad {what}: its data are not base64") from None


@dataclass(frozen=True, slots=True)
class SocketPiece:
    """A piece of a message on a WebSocket of a route."""

    kind: Literal["text", "binary"]
    size: int
    """Bytes of the whole message."""
    data: bytes
    more: bool


def socket_opened(result: Any, offered: Sequence[str]) -> tuple[int, str | None]:
    """With which status a route answered a request for a WebSocket, and the subprotocol it chose of those offered.

    Raises:
        ProtocolViolationError: it is no such answer.
    """
    said = checked(_SocketOpened, result, "answer to a WebSocket")
    if said.protocol is not None and said.protocol not in offered:
        raise ProtocolViolationError("it chose a subprotocol of a WebSocket that nobody offered")
    return said.status, said.protocol


def socket_said(result: Any, limit: int) -> SocketPiece | SocketClosed:
    """A piece of at most ``limit`` bytes of what a route says on a WebSocket, or that it said its last.

    Raises:
        ProtocolViolationError: it is neither.
    """
    if isinstance(result, dict) and result.get("kind") == "close":
        end = checked(_SocketEnd, result, "end of a WebSocket")
        return SocketClosed(end.code, safe_text(end.reason, wire.SOCKET_REASON))
    said = checked(_SocketPiece, result, "message on a WebSocket")
    data = _bytes(said.data, "message on a WebSocket")
    if len(data) > min(limit, said.size):
        raise ProtocolViolationError(
            f"it sent {len(data)} bytes of a message of {said.size} on a WebSocket, {limit} were asked"
        )
    if said.more and not data:
        raise ProtocolViolationError(
            "it sent an empty piece of a message on a WebSocket that is not the last"
        )
    return SocketPiece(said.kind, said.size, data, said.more)

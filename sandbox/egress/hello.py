"""What a TLS ClientHello says about whom it wants to reach. Pure, strict, bounded; decrypts nothing.

A tunnel is opened for one name. The server behind it may serve many and picks one by the name in the hello (SNI), so
that name has to be the allowed one. An encrypted inner hello (ECH) cannot be read here; its outer name must match.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_HELLO: Final = 16 * 1024
MAX_RECORDS: Final = 64
_RECORD_HEADER: Final = 5
_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_SERVER_NAME: Final = 0
_MAX_RECORD: Final = 16 * 1024


class NoHelloError(Exception):
    """These bytes are no acceptable ClientHello; the text says why."""


@dataclass(frozen=True, slots=True)
class ClientHello:
    """What matters of it."""

    server_name: str | None
    """Whom it asks for (SNI); None when it names nobody, as it must for an address."""


class HelloReader:
    """Collects the first bytes of a connection until they are a whole ClientHello."""

    def __init__(self) -> None:
        self.received = bytearray()
        """Everything so far, to be passed on when it was accepted."""
        self._message = bytearray()
        self._at = 0
        self._records = 0

    def feed(self, data: bytes) -> ClientHello | None:
        """Take more bytes; the hello once it is complete.

        Raises:
            NoHelloError: it can no longer become an acceptable one.
        """
        self.received += data
        if len(self.received) > MAX_HELLO + MAX_RECORDS * _RECORD_HEADER + _MAX_RECORD:
            raise NoHelloError(f"the first message is longer than {MAX_HELLO} bytes")
        while len(self.received) - self._at >= _RECORD_HEADER:
            kind, major, minor = self.received[self._at : self._at + 3]
            length = int.from_bytes(self.received[self._at + 3 : self._at + 5], "big")
            if kind != _HANDSHAKE or major != 3 or minor > 4:
                raise NoHelloError("it does not begin with a TLS handshake")
            if not 0 < length <= _MAX_RECORD:
                raise NoHelloError("a TLS record has an impossible length")
            if len(self.received) - self._at - _RECORD_HEADER < length:
                return None
            begin = self._at + _RECORD_HEADER
            self._message += self.received[begin : begin + length]
            self._at = begin + length
            self._records += 1
            if self._records > MAX_RECORDS:
                raise NoHelloError(f"the hello is in more than {MAX_RECORDS} pieces")
            if (found := self._whole()) is not None:
                return found
        return None

    def _whole(self) -> ClientHello | None:
        if self._message[0] != _CLIENT_HELLO:
            raise NoHelloError("the handshake does not begin with a ClientHello")
        if len(self._message) < 4:
            return None
        length = int.from_bytes(self._message[1:4], "big")
        if length > MAX_HELLO:
            raise NoHelloError(f"the first message is longer than {MAX_HELLO} bytes")
        if len(self._message) - 4 < length:
            return None
        if len(self._message) - 4 > length:
            raise NoHelloError("something follows the ClientHello in its record")
        return parse_hello(bytes(self._message[4:]))


class _Cursor:
    """Reads forward and never over the end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        if len(self._data) - self._at < count:
            raise NoHelloError("the ClientHello ends too early")
        piece = self._data[self._at : self._at + count]
        self._at += count
        return piece

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> bytes:
        return self.take(self.number(size))

    def is_done(self) -> bool:
        return self._at == len(self._data)


def parse_hello(body: bytes) -> ClientHello:
    """The body of a ClientHello message.

    Raises:
        NoHelloError: malformed, or with more than one name.
    """
    cursor = _Cursor(body)
    if cursor.number(2) not in (0x0301, 0x0302, 0x0303):
        raise NoHelloError("an unknown version of TLS")
    cursor.take(32)
    if len(cursor.vector(1)) > 32:
        raise NoHelloError("the session id is too long")
    suites = cursor.vector(2)
    if not suites or len(suites) % 2:
        raise NoHelloError("a broken list of cipher suites")
    if b"\0" not in cursor.vector(1):
        raise NoHelloError("a broken list of compressions")
    if cursor.is_done():
        return ClientHello(None)
    extensions = _Cursor(cursor.vector(2))
    if not cursor.is_done():
        raise NoHelloError("something follows the extensions")
    seen: dict[int, bytes] = {}
    while not extensions.is_done():
        kind = extensions.number(2)
        if kind in seen:
            raise NoHelloError("an extension is there twice")
        seen[kind] = extensions.vector(2)
    return ClientHello(_server_name(seen[_SERVER_NAME]) if _SERVER_NAME in seen else None)


def _server_name(data: bytes) -> str:
    outer = _Cursor(data)
    names = _Cursor(outer.vector(2))
    if not outer.is_done():
        raise NoHelloError("a broken server name")
    if names.number(1) != 0:
        raise NoHelloError("the server name is not a host name")
    name = names.vector(2)
    if not names.is_done():
        raise NoHelloError("it names more than one server")
    if not name or not name.isascii() or any(byte <= 32 or byte == 127 for byte in name):
        raise NoHelloError("the server name is not a host name")
    return name.decode("ascii")

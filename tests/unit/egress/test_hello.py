"""The name in a TLS ClientHello: real ones, hand-made broken ones, and random ones."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.egress.hello import MAX_HELLO, ClientHello, HelloReader, NoHelloError, parse_hello


def real_hello(name: str | None) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    out = ssl.MemoryBIO()
    connection = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
    return out.read()


def vector(size: int, data: bytes) -> bytes:
    return len(data).to_bytes(size, "big") + data


def extension(kind: int, data: bytes) -> bytes:
    return kind.to_bytes(2, "big") + vector(2, data)


def sni(*names: bytes, kind: int = 0) -> bytes:
    return extension(0, vector(2, b"".join(bytes([kind]) + vector(2, name) for name in names)))


def body(*extensions: bytes, tail: bytes = b"", session: bytes = b"") -> bytes:
    head = b"\x03\x03" + bytes(32) + vector(1, session) + vector(2, b"\x13\x01") + vector(1, b"\0")
    return head + vector(2, b"".join(extensions)) + tail


def message(content: bytes) -> bytes:
    return b"\x01" + vector(3, content)


def records(data: bytes, size: int = 16384) -> bytes:
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    return b"".join(b"\x16\x03\x01" + vector(2, piece) for piece in pieces)


def read(data: bytes, step: int = 100_000) -> ClientHello | None:
    reader = HelloReader()
    found = None
    for at in range(0, len(data), step):
        assert found is None
        found = reader.feed(data[at : at + step])
    return found


@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_a_real_hello_says_whom_it_asks_for_however_it_arrives(step: int) -> None:
    assert read(real_hello("api.example.com"), step) == ClientHello("api.example.com")
    assert read(real_hello(None), step) == ClientHello(None)


def test_a_hello_in_many_records_is_put_together() -> None:
    assert read(records(message(body(sni(b"a.com"))), 4)) == ClientHello("a.com")
    with pytest.raises(NoHelloError, match="pieces"):
        read(records(message(body(sni(b"a.com"), session=bytes(32))), 1))


def test_everything_that_was_read_can_be_passed_on() -> None:
    data = real_hello("a.com") + b"early data"
    reader = HelloReader()
    assert reader.feed(data)
    assert bytes(reader.received) == data


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "handshake"),
        (b"SSH-2.0-OpenSSH_9\r\n", "handshake"),
        (b"\x80\x2e\x01\x03\x01", "handshake"),  # SSL 2
        (b"\x16\x02\x00\x00\x05\x01", "handshake"),
        (b"\x16\x03\x01\x00\x00", "length"),
        (b"\x16\x03\x01\xff\xff", "length"),
        (records(b"\x02" + vector(3, body(sni(b"a.com")))), "ClientHello"),
        (records(message(body(sni(b"a.com"))) + b"\x14"), "follows"),
        (records(b"\x01\xff\xff\xff"), "longer"),
        (records(message(body(sni(b"a.com"), sni(b"b.com")))), "twice"),
        (records(message(body(sni(b"a.com", b"b.com")))), "more than one"),
        (records(message(body(sni(b"a.com", kind=1)))), "not a host name"),
        (records(message(body(sni(b"")))), "not a host name"),
        (records(message(body(sni("ä.com".encode())))), "not a host name"),
        (records(message(body(sni(b"a.com\0b.com")))), "not a host name"),
        (records(message(body(sni(b"a.com"), tail=b"x"))), "follows"),
        (records(message(body(sni(b"a.com"), session=bytes(33)))), "session"),
        (records(message(body(sni(b"a.com"))[:-3])), "too early"),
        (records(message(b"\x03\x04" + body(sni(b"a.com"))[2:])), "version"),
        (records(message(body(extension(0, b"\x00\x09\x00\x00\x05a.comx")))), "more than one"),
    ],
)
def test_what_is_no_proper_hello_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(NoHelloError, match=why):
        read(data)


def test_a_hello_that_never_ends_is_bounded() -> None:
    reader = HelloReader()
    reader.feed(records(b"\x01\x00\x3f\xff" + bytes(1000)))
    with pytest.raises(NoHelloError):
        reader.feed(records(bytes(20_000), 200))
    assert len(reader.received) < 4 * MAX_HELLO


def test_a_name_beside_an_encrypted_inner_hello_is_the_one_that_counts() -> None:
    ech = extension(0xFE0D, bytes(64))
    assert read(records(message(body(ech, sni(b"outer.example.com"))))) == ClientHello("outer.example.com")


@given(st.binary(max_size=400))
def test_random_bytes_are_refused_or_wait_and_never_crash(data: bytes) -> None:
    for attempt in (data, records(data) if data else b"", records(message(data))):
        try:
            read(attempt, 50)
        except NoHelloError:
            pass
        except AssertionError:
            raise


@given(st.binary(max_size=300))
def test_a_random_body_is_refused_or_has_a_printable_name(data: bytes) -> None:
    try:
        found = parse_hello(data)
    except NoHelloError:
        return
    assert found.server_name is None or found.server_name.isprintable()


@given(st.data())
def test_a_real_hello_with_a_broken_byte_is_refused_or_read(data: st.DataObject) -> None:
    good = bytearray(
        records(message(body(sni(b"a.example.com"), extension(16, vector(2, vector(1, b"h2"))))))
    )
    at = data.draw(st.integers(0, len(good) - 1))
    good[at] ^= data.draw(st.integers(1, 255))
    try:
        read(bytes(good))
    except NoHelloError:
        pass

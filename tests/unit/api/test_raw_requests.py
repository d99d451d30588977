"""What no client library sends, byte by byte on a real socket; and how many may send it at once."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
import httpx2
import pytest

from api.connections import ConnectionBook, Place, TenantRequests, TooManyRequestsError
from policies import TenantId
from tests.unit.api.conftest import Start, make_settings
from tests.unit.api.live import connected, serving, to_the_end

pytestmark = pytest.mark.anyio

GET = b"GET /prompt HTTP/1.1\r\nHost: 127.0.0.1\r\n"
POST = b"POST /prompt HTTP/1.1\r\nHost: 127.0.0.1\r\n"
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


async def said_to(url: str, raw: bytes) -> bytes:
    """All that is answered to ``raw``, after which the client has no more to say."""
    async with await connected(url) as stream:
        try:
            await stream.send(raw)
        except anyio.BrokenResourceError:
            pass  # hung up on before it was done
        with anyio.fail_after(30):
            said = bytearray()
            try:
                while b"\r\n\r\n" not in said:
                    said += await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass
        return bytes(said)


@asynccontextmanager
async def serving_with(start: Start, tmp_path: Path, **limits: object) -> AsyncIterator[str]:
    settings = make_settings(tmp_path, **limits)
    async with start(settings) as app, serving(app, settings) as url:
        yield url


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (GET + b"\r\n", 200),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 414),
        (b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 431),
        (GET + b"X-Long: " + b"a" * 40_000 + b"\r\n\r\n", 431),
        (GET + b"X-Long: " + b"a" * 400_000 + b"\r\n\r\n", 431),
        (GET + b"".join(b"X-%d: a\r\n" % n for n in range(200)) + b"\r\n", 431),
        (GET + b"a:\r\n" * 100_000 + b"\r\n", 431),
        (b"G" * 200_000, 431),
        (b"\r\n\r\n\r\n" * 1000, 400),
        (b"GET /prompt\r\n\r\n", 400),
        (b"GET  /prompt HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 400),
        (b"GET /prompt HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"G\x00T /prompt HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 400),
        (b"GET /pro\x00mpt HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 400),
        (b"GET /\xff\xfe HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 400),
        (b"GET /prompt HTTP/1.1\r\n\r\n", 400),
        (GET + b"Host: evil.example\r\n\r\n", 400),
        (GET + b"X-Nul: a\x00b\r\n\r\n", 400),
        (GET + b"X Space: a\r\n\r\n", 400),
        (GET + b"X-Space : a\r\n\r\n", 400),
        (GET + b": nameless\r\n\r\n", 400),
        (POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
        (POST + b"Content-Length: -1\r\n\r\n{}", 400),
        (POST + b"Content-Length: +2\r\n\r\n{}", 400),
        (POST + b"Content-Length: 0x2\r\n\r\n{}", 400),
        (POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n{}", 400),
        (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
        (POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ],
    ids=lambda value: str(value)[:80],
)  # fmt: skip
async def test_junk_gets_a_typed_error_and_nobody_else_notices(
    start: Start, tmp_path: Path, raw: bytes, status: int
) -> None:
    async with serving_with(start, tmp_path) as url:
        answer = await said_to(url, raw)
        assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:200]
        assert b"nosniff" in answer
        async with httpx2.AsyncClient(base_url=url, verify=False) as other:
            assert (await other.get("/prompt")).status_code == 200


@pytest.mark.parametrize(
    "smuggled",
    [
        b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Content-Length: 0\r\nContent-Length: 40\r\n\r\n",
        b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=str,
)
async def test_a_request_whose_end_could_be_taken_for_elsewhere_is_the_last_of_its_connection(
    start: Start, tmp_path: Path, smuggled: bytes
) -> None:
    async with serving_with(start, tmp_path) as url, await connected(url) as stream:
        await stream.send(POST + smuggled + b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        answer = await to_the_end(stream)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 "))


@pytest.mark.parametrize(
    "cut",
    [
        b"Content-Length: 50\r\n\r\n{",
        b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n" + b"X-A: b\r\n" * 20_000,
        b"Transfer-Encoding: chunked\r\n\r\n2;" + b"x" * 200_000,
    ],
    ids=["half a body", "endless trailers", "endless extension of a chunk"],
)
async def test_who_hangs_up_within_its_body_leaves_no_error_in_the_log(
    start: Start, tmp_path: Path, cut: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "api.guard")
    async with serving_with(start, tmp_path) as url:
        async with await connected(url) as stream:
            try:
                await stream.send(POST + cut)
            except anyio.BrokenResourceError:
                pass  # hung up on before it was done
        with anyio.fail_after(30):
            while "the client hung up before its body ended" not in caplog.text:
                await anyio.lowlevel.checkpoint()
    assert "Traceback" not in caplog.text
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


# -- how many ------------------------------------------------------------------------------------------------------


def test_one_address_has_a_part_of_the_connections_and_a_network_of_64_bits_is_one() -> None:
    book = ConnectionBook(10, 3)
    mine = [book.enter(("2001:db8::1:0", n)) for n in range(3)]
    assert all(isinstance(place, Place) for place in mine)
    assert book.enter(("2001:db8::2:0", 9)) == "address"
    assert isinstance(book.enter(("2001:db8:0:1::1", 9)), Place)
    assert isinstance(mine[0], Place)
    mine[0].leave()
    mine[0].leave()
    assert isinstance(book.enter(("2001:db8::2:0", 9)), Place)
    assert book.enter(("::ffff:127.0.0.1", 9)) != "address"


def test_a_trusted_proxy_speaks_for_many_and_the_server_is_full_for_all() -> None:
    book = ConnectionBook(4, 1, ("10.0.0.0/8",))
    assert all(isinstance(book.enter(("10.1.2.3", n)), Place) for n in range(3))
    assert isinstance(book.enter(("192.0.2.1", 1)), Place)
    assert book.enter(("192.0.2.2", 1)) == "server"
    assert book.enter(("10.1.2.3", 9)) == "server"


async def test_connections_of_one_address_are_capped_idle_ones_and_websockets_too(
    start: Start, tmp_path: Path
) -> None:
    async with (
        serving_with(start, tmp_path, max_connections=32, max_address_connections=4) as url,
        AsyncExitStack() as stack,
    ):
        held = [await stack.enter_async_context(await connected(url)) for _ in range(4)]
        await held[0].send(UPGRADE)
        assert (await held[0].receive()).startswith(b"HTTP/1.1 101 ")
        answer = await said_to(url, GET + b"\r\n")
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"this address has too many connections open" in answer
        await held.pop().aclose()
        with anyio.fail_after(60):
            while not (await said_to(url, GET + b"\r\n")).startswith(b"HTTP/1.1 200 "):
                await anyio.lowlevel.checkpoint()
        # A WebSocket that ends frees its place, too.
        await held[0].aclose()
        with anyio.fail_after(60):
            while not (await said_to(url, GET + b"\r\n")).startswith(b"HTTP/1.1 200 "):
                await anyio.lowlevel.checkpoint()


async def test_one_tenant_has_a_part_of_the_requests_under_way() -> None:
    requests = TenantRequests(2, "RINGFENCE_MAX_TENANT_REQUESTS")
    one, other = TenantId("one"), TenantId("other")
    with requests.one(one), requests.one(one):
        with pytest.raises(TooManyRequestsError, match=r"2 requests under way, at most 2 \(RINGFENCE_MAX"):
            requests.one(one).__enter__()
        with requests.one(other):
            pass
    with requests.one(one):
        pass


async def test_a_request_beyond_the_tenants_part_is_a_429_and_health_is_still_told(
    start: Start, tmp_path: Path
) -> None:
    async with serving_with(start, tmp_path, max_tenant_requests=2) as url, AsyncExitStack() as stack:
        for _ in range(2):
            stream = await stack.enter_async_context(await connected(url))
            await stream.send(UPGRADE)
            assert (await stream.receive()).startswith(b"HTTP/1.1 101 ")
        async with httpx2.AsyncClient(base_url=url, verify=False) as client:
            answer = await client.get("/prompt")
            assert answer.status_code == 429
            assert "2 requests under way, at most 2 (RINGFENCE_MAX_TENANT_REQUESTS)" in answer.text
            assert (await client.get("/healthz")).status_code == 200


# -- WebSockets ----------------------------------------------------------------------------------------------------


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
    """A client's frame; a mask of zeros is one."""
    return struct.pack("!BB4x", (0x80 if fin else 0) | opcode, 0x80 | len(payload)) + payload


TEXT, CONT, PING, PONG = 1, 0, 9, 10


@pytest.mark.parametrize(
    "flood",
    [
        frame(TEXT, b"{}") * 200,
        frame(TEXT, b"", fin=False) + frame(CONT, b"", fin=False) * 200,
        frame(PING, b"x" * 100) * 200,
        frame(PONG, b"x" * 100) * 200,
    ],
    ids=["messages", "empty parts", "pings", "pongs"],
)
async def test_a_websocket_that_floods_is_cut_off_and_told_why(
    start: Start, tmp_path: Path, flood: bytes
) -> None:
    async with (
        serving_with(start, tmp_path, max_websocket_messages=20) as url,
        await connected(url) as stream,
    ):
        await stream.send(UPGRADE)
        assert (await stream.receive()).startswith(b"HTTP/1.1 101 ")
        await stream.send(flood)
        ending = await to_the_end(stream)
        assert b"\x03\xf0more than 20 messages a second" in ending
        async with httpx2.AsyncClient(base_url=url, verify=False) as other:
            assert (await other.get("/prompt")).status_code == 200


async def test_a_websocket_within_the_measure_is_served(start: Start, tmp_path: Path) -> None:
    async with serving_with(start, tmp_path) as url, await connected(url) as stream:
        await stream.send(UPGRADE)
        said = bytearray(await stream.receive())
        await stream.send(frame(PING, b"are you there") * 3)
        with anyio.fail_after(30):
            while said.count(b"are you there") < 3:
                said += await stream.receive()


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff" * 100,
        struct.pack("!BBQ4x", 0x81, 0xFF, 1 << 62),
        struct.pack("!BB", 0x81, 0x02) + b"{}",  # not masked
        frame(3, b"reserved"),
        frame(PING, b"", fin=False),
    ],
    ids=["noise", "a frame of exabytes", "not masked", "a reserved opcode", "half a ping"],
)
async def test_a_websocket_that_is_none_ends_and_nobody_else_notices(
    start: Start, tmp_path: Path, raw: bytes
) -> None:
    async with serving_with(start, tmp_path) as url, await connected(url) as stream:
        await stream.send(UPGRADE)
        assert (await stream.receive()).startswith(b"HTTP/1.1 101 ")
        await stream.send(raw)
        await to_the_end(stream)
        async with httpx2.AsyncClient(base_url=url, verify=False) as other:
            assert (await other.get("/prompt")).status_code == 200

"""Clients that take their time, against a real server on a real socket: each ends, and everybody else is served."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import anyio.lowlevel
import httpx2
import pytest
from fastapi import FastAPI
from starlette.responses import StreamingResponse

from api.settings import Settings
from tests.unit.api.conftest import Start, make_settings
from tests.unit.api.live import connected, serving, to_the_end

pytestmark = pytest.mark.anyio

HEAD = b"POST /prompt HTTP/1.1\r\nHost: 127.0.0.1\r\n"
QUICK_S = 0.4


@pytest.fixture
def hasty(tmp_path: Path) -> Settings:
    """Deadlines that a test can wait for."""
    return make_settings(tmp_path, request_head_s=QUICK_S, slow_client_s=QUICK_S)


@pytest.fixture
def hasty_with_bodies(tmp_path: Path) -> Settings:
    """A head may take its time, as it does where this process waits for a processor."""
    return make_settings(tmp_path, slow_client_s=QUICK_S)


@pytest.mark.parametrize(
    "sent",
    [b"", b"P", HEAD, HEAD + b"X-Slow: a", b"GET /prompt HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nG"],
    ids=["nothing", "a byte", "no end", "half a header", "after a whole request"],
)
async def test_a_head_that_does_not_end_is_a_408(start: Start, hasty: Settings, sent: bytes) -> None:
    async with start(hasty) as app, serving(app, hasty) as url, await connected(url) as stream:
        if sent:
            await stream.send(sent)
        answer = await to_the_end(stream)
        assert b"HTTP/1.1 408 " in answer
        assert b"the head of the request did not end within 0.4 s" in answer
        assert b"nosniff" in answer


async def test_a_head_that_trickles_is_a_408_however_often_a_byte_comes(
    start: Start, hasty: Settings
) -> None:
    async with start(hasty) as app, serving(app, hasty) as url, await connected(url) as stream:

        async def trickle() -> None:
            try:
                for byte in HEAD * 1000:
                    await stream.send(bytes([byte]))
                    await anyio.sleep(QUICK_S / 10)
            except anyio.BrokenResourceError:
                pass

        await stream.send(b"GET ")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(trickle)
            assert b"HTTP/1.1 408 " in await to_the_end(stream)
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize("length", [b"Content-Length: 1000\r\n", b"Transfer-Encoding: chunked\r\n"])
async def test_a_body_that_trickles_is_a_408(
    start: Start, hasty_with_bodies: Settings, length: bytes
) -> None:
    async with (
        start(hasty_with_bodies) as app,
        serving(app, hasty_with_bodies) as url,
        await connected(url) as stream,
    ):
        await stream.send(HEAD + length + b"\r\n")
        answer = await to_the_end(stream)
        assert b"HTTP/1.1 408 " in answer
        assert b"500 are the least" in answer
        async with httpx2.AsyncClient(base_url=url, verify=False) as other:
            assert (await other.get("/prompt")).status_code == 200


async def test_a_reader_that_does_not_read_is_hung_up_on(hasty_with_bodies: Settings) -> None:
    ended = anyio.Event()

    async def without_end() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"\0" * 2**20
                await anyio.lowlevel.checkpoint()
        finally:
            ended.set()

    app = FastAPI()

    @app.get("/")
    async def endless() -> StreamingResponse:
        return StreamingResponse(without_end())

    async with serving(app, hasty_with_bodies) as url, await connected(url) as stream:
        await stream.send(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        with anyio.fail_after(30):
            await ended.wait()


async def test_a_connection_between_two_requests_is_not_late(start: Start, hasty: Settings) -> None:
    async with start(hasty) as app, serving(app, hasty) as url, await connected(url) as stream:
        for _ in range(2):
            await stream.send(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            with anyio.fail_after(30):
                assert b"HTTP/1.1 200 " in await stream.receive()
            with anyio.move_on_after(QUICK_S * 2) as quiet:
                await stream.receive()
            assert quiet.cancelled_caught


async def test_what_is_no_http_is_answered_as_every_other_error(start: Start, hasty: Settings) -> None:
    async with start(hasty) as app, serving(app, hasty) as url, await connected(url) as stream:
        await stream.send(b"\x16\x03\x01 hello\r\n\r\n")
        answer = await to_the_end(stream)
        assert b"HTTP/1.1 400 " in answer
        assert b'"invalid_request"' in answer
        assert b"nosniff" in answer


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"POST /prompt HTTP/1.1\r\nHost: evil.example\r\n", b" 403 "),
        (
            b"POST /upload/image HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data\r\n",
            b" 400 ",
        ),
        (b"POST /nowhere HTTP/1.1\r\nHost: 127.0.0.1\r\n", b" 404 "),
    ],
    ids=["by its Host", "by its form", "by its path"],
)
async def test_whoever_is_refused_while_it_sends_reads_the_answer_and_no_reset(
    start: Start, settings: Settings, line: bytes, said: bytes
) -> None:
    size = 200_000  # more than the server reads at once
    head = line + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % size
    async with start(settings) as app, serving(app, settings) as url, await connected(url) as stream:
        await stream.send(head + b"x" * size)
        answer = b""
        with contextlib.suppress(anyio.EndOfStream), anyio.fail_after(30):  # a reset would be another error
            while True:
                answer += await stream.receive()
        assert said in answer.split(b"\r\n")[0]


async def test_whoever_waits_to_be_told_to_go_on_is_refused_without_a_wait(
    start: Start, settings: Settings
) -> None:
    head = b"POST /prompt HTTP/1.1\r\nHost: evil.example\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n"
    async with start(settings) as app, serving(app, settings) as url, await connected(url) as stream:
        await stream.send(head)
        with anyio.fail_after(25):  # less than is waited for what still comes
            answer = await to_the_end(stream)
        assert answer.startswith(b"HTTP/1.1 403 ")

"""Heads that came before: a request that has one is the request that h11 would read, whatever else comes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import h11
import pytest
from anyio.abc import SocketStream

from api.known_heads import _KEPT, _LONGEST, _LONGEST_HEAD, HeadKeepingProtocol
from sandbox import FastPath, take_fast_paths
from tests.unit.api.conftest import Start, make_settings
from tests.unit.api.live import connected, serving

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("every_fast_path")]

_WITHOUT = frozenset(FastPath) - {FastPath.KNOWN_HEADS}


def _head(line: str, *headers: str) -> bytes:
    return "\r\n".join((line, *headers, "", "")).encode("latin-1")


def _post(body: bytes, *headers: str, length: str = "") -> bytes:
    return _head("POST /echo HTTP/1.1", "Host: h", f"Content-Length: {length or len(body)}", *headers) + body


_GO_ON = b"HTTP/1.1 100 Continue\r\n\r\n"
_GET = _head("GET /a%20b?c=%41 HTTP/1.1", "Host: h", "X-Two: 1", "x-two: 2")


class Echo:
    """Answers with all that it was asked; counts what h11 read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.read = 0
        """Heads that h11 read."""
        self.hold: anyio.Event | None = None
        process = h11.Connection._process_event

        def counted(conn: h11.Connection, role: Any, event: Any) -> Any:
            self.read += role is h11.CLIENT and isinstance(event, h11.Request)
            return process(conn, role, event)

        monkeypatch.setattr(h11.Connection, "_process_event", counted)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        shown = {
            name: value for name, value in scope.items() if name not in ("client", "server", "extensions")
        }
        self.asked.append((shown, body))
        if self.hold is not None:
            await self.hold.wait()
        text = repr((shown, body)).encode()
        headers = [(b"content-length", b"%d" % len(text)), (b"content-type", b"text/plain")]
        whole = scope.get("extensions", {}).get("ringfence.whole_answer")
        if whole is not None and whole(200, headers, text):
            return
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": text})


async def _answer(stream: SocketStream, count: int = 1) -> bytes:
    """So many answers, or all until the server hangs up."""
    said = b""
    with anyio.fail_after(60):
        try:
            while True:
                rest, whole = said, 0
                while (parts := rest.removeprefix(_GO_ON).partition(b"\r\n\r\n"))[1]:
                    length = int(parts[0].lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                    if len(parts[2]) < length:
                        break
                    rest, whole = parts[2][length:], whole + 1
                if whole >= count:
                    return said
                said += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return said


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> Echo:
    return Echo(monkeypatch)


async def _said(url: str, *pieces: bytes) -> list[bytes]:
    """What is answered to each piece, on one connection."""
    async with await connected(url) as stream:
        answers = []
        for piece in pieces:
            try:
                await stream.send(piece)
            except anyio.BrokenResourceError:
                break
            answers.append(_timeless(await _answer(stream)))
        return answers


def _timeless(said: bytes) -> bytes:
    return b"\r\n".join(line for line in said.split(b"\r\n") if not line.startswith(b"date: "))


@pytest.mark.parametrize("without", [None, FastPath.WHOLE_ANSWERS], ids=["in one write", "by h11"])
async def test_a_head_that_came_before_makes_the_same_request(
    echo: Echo, tmp_path: Path, without: FastPath | None
) -> None:
    take_fast_paths(frozenset(FastPath) - {without})
    settings = make_settings(tmp_path)
    async with serving(echo, settings) as url:
        said = await _said(
            url, _GET, _GET, _GET, _post(b"one"), _post(b"twelve"), _post(b""), _post(b"x", length="001")
        )
        fast, read = echo.asked, echo.read
        # Where h11 has to write the answer it is shown the request all the same.
        assert read == (2 if without is None else 7)
        take_fast_paths(_WITHOUT - {without})
        echo.asked, echo.read = [], 0
        assert said == await _said(
            url, _GET, _GET, _GET, _post(b"one"), _post(b"twelve"), _post(b""), _post(b"x", length="001")
        )
        assert (echo.asked, echo.read) == (fast, 7)
    assert [body for _, body in fast] == [b"", b"", b"", b"one", b"twelve", b"", b"x"]
    scopes = [scope for scope, _ in fast]
    assert (scopes[1]["path"], scopes[1]["query_string"]) == ("/a b", b"c=%41")
    # Nobody's changes to a request are in the next one.
    assert scopes[1]["headers"] is not scopes[2]["headers"]
    assert scopes[1]["state"] is not scopes[2]["state"]


_ODD = (
    _post(b"{}", "Expect: 100-continue"),
    _post(b"{}", "Connection: close"),
    _post(b"{}", "Connection: keep-alive, close"),
    _post(b"{}", "Connection: upgrade", "Upgrade: h2c"),
    _head("POST /echo HTTP/1.0", "Host: h", "Content-Length: 2") + b"{}",
    _head("POST /echo HTTP/1.1", "Host: h", "Transfer-Encoding: chunked") + b"2\r\n{}\r\n0\r\n\r\n",
    _head("POST /echo HTTP/1.1", "Host: h", "Content-Length: 2", "Content-Length: 2") + b"{}",
    _head("POST /echo HTTP/1.1", "Host: h", "Content-Length: 2, 2") + b"{}",
    _head("POST /echo HTTP/1.1", "Host: h", "X-Folded: a", " Content-Length: 9", "Content-Length: 2") + b"{}",
    _head("POST /echo HTTP/1.1", "Host: h", "Content-Length: 2").replace(b"\r\n", b"\n") + b"{}",
    _head("POST /echo HTTP/1.1", "Host: h", "Content-Length: 2").replace(b"h\r\n", b"h\n") + b"{}",
    _head("GET /echo HTTP/1.1", "Host: h", "X-Long: " + "a" * _LONGEST_HEAD),
    _post(b"a" * _LONGEST),
)


@pytest.mark.parametrize("odd", _ODD, ids=lambda raw: raw[:120])
async def test_what_h11_has_to_judge_is_read_by_it_each_time(echo: Echo, tmp_path: Path, odd: bytes) -> None:
    async with serving(echo, make_settings(tmp_path)) as url:
        said = await _said(url, odd, odd)
        read = echo.read
        take_fast_paths(_WITHOUT)
        echo.read = 0
        assert said == await _said(url, odd, odd)
        assert echo.read == read


_ALIKE = {
    "no number": _post(b"", length=" "),
    "a zero byte for the number": _post(b"", length="\0"),
    "a sign": _post(b"{}", length="+2"),
    "a number too long": _post(b"{}", length="00000002"),
    "more bytes than it says": _post(b"{}{}", length="2"),
    "fewer bytes than it says, and a request in their place": _post(b"", length="40") + _GET,
    "another request behind it": _post(b"{}") + _GET,
    "an empty line before it": b"\r\n" + _post(b"{}"),
    "another case of a name": _post(b"{}").replace(b"Host", b"hOst"),
    "a second number": _post(b"{}").replace(b"Host: h\r\n", b"Host: h\r\nContent-Length: 3\r\n"),
    "the number elsewhere": _post(b"{}").replace(b"Host: h", b"Host: h\r\nX: a\r\nContent-Length: 2"),
    "chunks as well": _post(b"0\r\n\r\n").replace(b"Host: h", b"Host: h\r\nTransfer-Encoding: chunked"),
    "a line end that is none": _post(b"{}").replace(b"Host: h\r\n", b"Host: h\n"),
}


@pytest.mark.parametrize("alike", _ALIKE.values(), ids=_ALIKE)
async def test_what_only_looks_like_a_known_head_is_read(echo: Echo, tmp_path: Path, alike: bytes) -> None:
    async with serving(echo, make_settings(tmp_path)) as url:
        said = await _said(url, _post(b"{}"), _post(b"{}"), alike, _GET)
        asked, echo.asked = echo.asked, []
        take_fast_paths(_WITHOUT)
        assert said == await _said(url, _post(b"{}"), _post(b"{}"), alike, _GET)
        assert echo.asked == asked


async def test_requests_behind_one_with_a_known_head_wait_their_turn(echo: Echo, tmp_path: Path) -> None:
    async with serving(echo, make_settings(tmp_path)) as url, await connected(url) as stream:
        await stream.send(_post(b"first"))
        await _answer(stream)
        echo.hold = anyio.Event()
        await stream.send(_post(b"second"))
        with anyio.fail_after(60):
            while len(echo.asked) < 2:
                await anyio.lowlevel.checkpoint()
        assert echo.read == 1
        await stream.send(_post(b"third") + _post(b"fourth"))
        with anyio.fail_after(60):
            while echo.read < 2:  # the second is shown to h11 now, since there is more to read
                await anyio.lowlevel.checkpoint()
        echo.hold.set()
        said = await _answer(stream, 3)
        await stream.send(_post(b"fifth"))
        said += await _answer(stream)
    assert said.count(b"HTTP/1.1 200 ") == 4
    assert [body for _, body in echo.asked] == [b"first", b"second", b"third", b"fourth", b"fifth"]


async def test_who_hangs_up_while_it_is_answered_leaves_nothing(
    echo: Echo, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(echo, make_settings(tmp_path)) as url:
        async with await connected(url) as stream:
            await stream.send(_GET)
            await _answer(stream)
            echo.hold = anyio.Event()
            await stream.send(_GET)
            with anyio.fail_after(60):
                while len(echo.asked) < 2:
                    await anyio.lowlevel.checkpoint()
        echo.hold.set()
        assert (await _said(url, _GET))[0].startswith(b"HTTP/1.1 200 ")
    assert [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")] == []


async def test_a_connection_keeps_few_heads_and_none_of_another(
    echo: Echo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []
    keep = HeadKeepingProtocol._keep

    def counted(self: HeadKeepingProtocol, *what: Any) -> None:
        keep(self, *what)
        kept.append(len(self._heads))

    monkeypatch.setattr(HeadKeepingProtocol, "_keep", counted)
    gets = [_head(f"GET /{n} HTTP/1.1", "Host: h") for n in range(9)]
    async with serving(echo, make_settings(tmp_path)) as url:
        await _said(url, *gets, gets[-1], gets[0])
        assert kept == [*range(1, _KEPT), *[_KEPT] * 7]
        await _said(url, gets[0])
        assert kept[-1] == 1


async def test_a_token_that_is_revoked_is_refused_though_its_head_is_known(
    start: Start, tmp_path: Path
) -> None:
    """The head is a way to read, and nothing of what it proves is kept."""
    settings = make_settings(tmp_path)
    async with start(settings) as app, serving(app, settings) as url, await connected(url) as stream:
        tenants = app.state.services.tenants
        tenant, token = await tenants.create("studio")
        ask = _head("GET /prompt HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {token}")
        said = []
        for _ in range(2):
            await stream.send(ask)
            said.append(await _answer(stream))
        await tenants.revoke_token(tenant.name, "main")
        await stream.send(ask)
        said.append(await _answer(stream))
    assert [answer[9:12] for answer in said] == [b"200", b"200", b"401"]


_CONNECT = _head("CONNECT h:1 HTTP/1.1", "Host: h")


async def _connect_twice(url: str) -> None:
    """On one connection, unless the server hangs up before."""
    async with await connected(url) as stream:
        for _ in range(2):
            try:
                await stream.send(_CONNECT)
            except anyio.BrokenResourceError:
                return
            await _answer(stream)


async def test_a_connect_is_read_each_time(echo: Echo, tmp_path: Path) -> None:
    async with serving(echo, make_settings(tmp_path)) as url:
        for _ in range(2):
            await _connect_twice(url)
        assert echo.read >= 2
        assert (await _said(url, _GET))[0].startswith(b"HTTP/1.1 200 ")


async def test_a_request_that_is_not_what_it_was_taken_for_ends_its_connection(
    echo: Echo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever came to be kept, nobody waits for h11 without end."""
    monkeypatch.setattr("api.known_heads._METHODS", frozenset({"CONNECT"}))
    take_fast_paths(frozenset(FastPath) - {FastPath.WHOLE_ANSWERS})
    async with serving(echo, make_settings(tmp_path)) as url:
        await _connect_twice(url)
        assert (await _said(url, _GET))[0].startswith(b"HTTP/1.1 200 ")

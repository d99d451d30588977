"""The plain routes and FastAPI's way to the same endpoints: the same answers, byte for byte."""

from __future__ import annotations

import inspect
import re
from functools import partial
from pathlib import Path

import anyio
import httpx2
import orjson
import pytest
from anyio.abc import SocketStream
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from api.app import create_app
from api.plain_routes import PLAIN, PlainRoutes
from api.settings import Settings
from benchmarks.counts import counted
from sandbox import FastPath, take_fast_paths
from tests.unit.api.conftest import Start, client_for, make_settings
from tests.unit.api.fakes import PROMPT, FakeEngine
from tests.unit.api.live import connected, serving, to_the_end

pytestmark = pytest.mark.usefixtures("every_fast_path")

_WAYS = {
    "shortly": frozenset(FastPath),
    "in parts": frozenset(FastPath) - {FastPath.WHOLE_ANSWERS},
    "by FastAPI": frozenset(FastPath) - {FastPath.PLAIN_ROUTES},
}
_ID = "11111111-2222-3333-4444-555555555555"


@pytest.fixture(params=_WAYS)
def way(request: pytest.FixtureRequest) -> str:
    take_fast_paths(_WAYS[request.param])
    return str(request.param)


def _post(path: str, body: bytes, *more: str) -> bytes:
    return _request("POST", path, f"Content-Length: {len(body)}", *more) + body


def _request(method: str, path: str, *more: str) -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *more, "", "")).encode()


_GOOD = orjson.dumps({"prompt": PROMPT, "client_id": "c", "prompt_id": _ID})
_ASKED = (
    _post("/prompt", _GOOD),
    _post("/prompt", _GOOD),  # once more: a 409
    _post("/api/prompt", orjson.dumps({"prompt": {}})),
    _post("/api/prompt", b"{"),
    _post("/prompt", b""),
    _post("/prompt", b"[" * 1000 + b"]" * 1000),
    _post("/prompt", b'{"prompt": {"1": {"class_type": "None of ours", "inputs": {}}}}'),
    _post("/prompt", b'{"prompt": null}'),
    _post("/prompt", b" " * 5000),  # over the limit, as announced
    _post("/prompt", _GOOD, "Sec-Fetch-Site: cross-site"),
    _post("/prompt", _GOOD, "Origin: http://evil.example"),
    _post("/prompt", _GOOD, "X-Ringfence-Tenant: other"),
    _post("/prompt", _GOOD, "Origin: https://friend.example", "Sec-Fetch-Site: cross-site"),
    _post("/prompt", _GOOD, "Connection: close"),
    _post("/prompt", _GOOD, "Connection: Upgrade", "Upgrade: h2c"),
    _post("/prompt", b"{}", "Expect: 100-continue"),
    b"GET /queue HTTP/1.0\r\nHost: 127.0.0.1\r\nConnection: keep-alive\r\n\r\n",
    _request("GET", "/queue", "Content-Length: 3") + b"abc",
    _post("/interrupt", b" " * 4000 + b"{}"),
    _request("POST", "/prompt", "Transfer-Encoding: chunked") + b"2\r\n{}\r\n0\r\n\r\n",
    _request("GET", "/prompt"),
    _request("GET", "/api/prompt?x=y"),
    _request("GET", "/prompt", "Origin: https://friend.example"),
    _request("HEAD", "/prompt"),
    _request("HEAD", "/queue"),
    _request("HEAD", f"/history/{_ID}"),
    _request("OPTIONS", "/prompt"),
    _request("DELETE", "/prompt"),
    _request("PUT", "/api/queue"),
    _request("GET", "/prompt/"),
    _request("GET", "//prompt"),
    _request("GET", "/%70rompt"),
    _request("GET", "/queue"),
    _post("/queue", b"[]"),
    _post("/queue", b'{"delete": 1}'),
    _post("/queue", orjson.dumps({"delete": [_ID]})),
    _post("/api/interrupt", b"nonsense"),
    _post("/interrupt", b""),
    _request("GET", "/history"),
    _request("GET", "/history/"),
    _request("GET", "/history/none"),
    _request("GET", "/history/a%2Fb"),
    _request("GET", "/history/a%0A"),
    _request("GET", "/api/history/none/more"),
    _request("POST", "/history/none"),
)


async def _answer(url: str, raw: bytes) -> bytes:
    """All that is answered, until the connection is over or nothing more can come."""
    async with await connected(url) as stream:
        await stream.send(raw)
        return _without_times(await _one_answer(stream, raw))


async def _one_answer(stream: SocketStream, raw: bytes) -> bytes:
    said = bytearray()
    with anyio.fail_after(60):
        try:
            while not _is_whole(bytes(said), raw):
                said += await stream.receive()
        except anyio.EndOfStream:
            pass
    return bytes(said)


def _without_times(said: bytes) -> bytes:
    said = re.sub(rb"date: [^\r]+", b"date: now", said)
    return re.sub(rb'"create_time":\d+', b'"create_time":0', said)


def _is_whole(said: bytes, raw: bytes) -> bool:
    head, end, body = said.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").partition(b"\r\n\r\n")
    if not end:
        return False
    length = re.search(rb"content-length: (\d+)", head)
    return raw.startswith(b"HEAD") or (length is not None and len(body) >= int(length[1]))


async def _answers(settings: Settings, start: Start) -> list[bytes]:
    async with start(settings) as app, serving(app, settings) as url:
        return [await _answer(url, raw) for raw in _ASKED]


@pytest.mark.anyio
async def test_each_request_gets_the_same_bytes_either_way(tmp_path: Path, start: Start) -> None:
    said = {}
    for name, way in _WAYS.items():
        take_fast_paths(way)
        settings = make_settings(
            tmp_path / name, max_json_bytes=4096, allowed_origins=("https://friend.example",)
        )
        said[name] = await _answers(settings, start)
    for asked, short, parts, long in zip(_ASKED, *said.values(), strict=True):
        assert short.startswith(b"HTTP/1.1 "), asked
        assert short == parts == long, asked


_IN_A_ROW = (
    *(_request("GET", path) for path in ("/queue", "/prompt", "/features", "/nowhere", "/history/x")),
    _post("/prompt", b"{"),
    _request("HEAD", "/prompt"),
    _request("GET", "/queue"),
    _post("/prompt", _GOOD),
    _request("GET", "/history/y", "Connection: close"),
)


@pytest.mark.anyio
@pytest.mark.parametrize("together", [False, True], ids=["one by one", "all at once"])
async def test_a_connection_goes_on_after_each_answer(tmp_path: Path, start: Start, together: bool) -> None:
    said = {}
    for name, way in _WAYS.items():
        take_fast_paths(way)
        settings = make_settings(tmp_path / name)
        async with start(settings) as app, serving(app, settings) as url, await connected(url) as stream:
            answers: list[bytes] = []
            if together:
                await stream.send(b"".join(_IN_A_ROW))
                answers.append(await to_the_end(stream))
            else:
                for raw in _IN_A_ROW:
                    await stream.send(raw)
                    answers.append(await _one_answer(stream, raw))
        said[name] = [_without_times(answer) for answer in answers]
    assert sum(answer.count(b"HTTP/1.1 ") for answer in said["shortly"]) == len(_IN_A_ROW)
    assert said["shortly"] == said["in parts"] == said["by FastAPI"]


@pytest.mark.anyio
async def test_what_answers_is_counted_under_the_same_route(client: httpx2.AsyncClient, way: str) -> None:
    def count(text: str) -> dict[str, float]:
        return {
            line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if line.startswith("ringfence_http_requests_total")
        }

    before = count((await client.get("/metrics")).text)
    await client.get("/history/some-prompt")
    await client.get("/api/history/some-prompt")
    await client.post("/api/prompt", content=b"{")
    after = count((await client.get("/metrics")).text)
    for method, route, status, more in (
        ("GET", "/history/{prompt_id}", 200, 2),
        ("POST", "/prompt", 400, 1),
    ):
        label = f'ringfence_http_requests_total{{method="{method}",route="{route}",status="{status}"}}'
        assert after[label] == before.get(label, 0) + more, (way, label)


@pytest.mark.anyio
async def test_an_unforeseen_error_of_a_plain_route_shows_nothing(
    client: httpx2.AsyncClient, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    async def explode(*_: object, **__: object) -> None:
        raise ValueError("/var/lib/ringfence/secret")

    monkeypatch.setattr(engine, "submit", explode)
    answer = await client.post("/prompt", json={"prompt": PROMPT})
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "internal_error"), way
    assert "secret" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.anyio
async def test_an_unforeseen_error_of_the_guard_shows_nothing(
    app: FastAPI, client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    async def explode(*_: object) -> None:
        raise ValueError("/var/lib/ringfence/secret")

    monkeypatch.setattr(type(app.state.services.quotas), "take_request", explode)
    for path in ("/prompt", "/api/queue", "/features"):
        answer = await client.get(path)
        assert (answer.status_code, answer.json()["error"]["type"]) == (500, "internal_error"), way
        assert "secret" not in answer.text


@pytest.mark.anyio
async def test_tenants_and_their_tokens_are_told_apart(
    app: FastAPI, studio: tuple[httpx2.AsyncClient, httpx2.AsyncClient], way: str
) -> None:
    first, second = studio
    prompt_id = (await first.post("/prompt", json={"prompt": PROMPT})).json()["prompt_id"]
    assert (await second.get("/queue")).json() == {"queue_running": [], "queue_pending": []}
    assert (await first.get("/queue")).json()["queue_pending"][0][1] == prompt_id, way
    async with client_for(app) as nobody:
        for method, path in (("POST", "/prompt"), ("GET", "/queue"), ("GET", "/history/x")):
            assert (await nobody.request(method, path)).status_code == 401


@pytest.fixture
def made(tmp_path: Path) -> FastAPI:
    return create_app(make_settings(tmp_path))


def test_the_table_chooses_as_fastapi_does_and_has_all_plain_endpoints(made: FastAPI) -> None:
    plain = PlainRoutes(made)
    paths = {"/prompt", "/queue", "/interrupt", "/history/x"}
    asked = 0
    for path in [*paths, *(f"/api{path}" for path in paths), "/history", "/history/", "/free", "/api"]:
        for method in ("GET", "POST", "HEAD", "OPTIONS", "DELETE", "PUT", "PATCH"):
            scope = {"type": "http", "method": method, "path": path, "headers": [], "root_path": ""}
            if not plain.has(scope):
                continue
            asked += 1
            # In order: FastAPI asks the first that fits in full.
            first = next(
                context.original_route
                for context in iter_route_contexts(made.router.routes)
                if method in (context.methods or ()) and context.path_regex.match(path)
            )
            assert plain._find(method, path)[0] is first
    assert asked == 2 * len(PLAIN)


@pytest.mark.parametrize("endpoint", PLAIN, ids=lambda endpoint: endpoint.__name__)
def test_a_plain_endpoint_asks_for_nothing_that_the_table_does_not_give(endpoint: object) -> None:
    names = list(inspect.signature(endpoint).parameters)  # type: ignore[arg-type]
    assert names[0] == "request"
    assert len(names) <= 2


def test_plain_routes_stand_in_the_description_of_the_api(tmp_path: Path) -> None:
    paths = create_app(make_settings(tmp_path)).openapi()["paths"]
    assert {"get", "post"} <= set(paths["/prompt"])
    assert {"get", "post"} <= set(paths["/queue"])
    assert "get" in paths["/history/{prompt_id}"]


@pytest.mark.anyio
async def test_the_short_way_is_less_than_half_as_long(
    app: FastAPI, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def remaining(*_: object) -> int:
        return 0

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(_: object) -> None:
        """Whatever is answered."""

    monkeypatch.setattr(engine, "remaining", remaining)

    async def calls() -> int:
        """Of functions, for one request; the least of some, for now and then something is read anew."""
        found = []
        for _ in range(10):
            scope = {
                "type": "http",
                "http_version": "1.1",
                "method": "GET",
                "path": "/prompt",
                "query_string": b"",
                "headers": [(b"host", b"127.0.0.1"), (b"user-agent", b"test")],
                "client": ("127.0.0.1", 1),
                "scheme": "http",
                "root_path": "",
            }
            found.append(await counted(partial(app, scope, receive, send)))  # type: ignore[arg-type]
        return min(found)

    least = {}
    for name, way in _WAYS.items():
        take_fast_paths(way)
        least[name] = await calls()
    assert least["in parts"] * 2 < least["by FastAPI"], least

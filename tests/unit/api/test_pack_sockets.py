"""WebSockets on routes of packs, over a real socket and with real clients: who may open one, and how each end ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import aiohttp
import anyio
import anyio.to_thread
import httpx2
import pytest
from fastapi import FastAPI
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from api import pack_sockets
from api.pack_sockets import PackSockets
from api.settings import Settings
from api.websocket_clients import Connections
from engine import Scope
from policies import ExtensionName, TenantId
from sandbox import (
    MESSAGE_TO_PACK,
    CallTimeoutError,
    EndedError,
    NodeRaisedError,
    ProtocolViolationError,
    QuotaError,
    RouteBusyError,
    RouteRefusedError,
    RouteTimeoutError,
    SocketClosed,
    StartError,
)
from tests.unit.api.conftest import OPERATOR_TOKEN
from tests.unit.api.fake_sockets import FakePackSocket, FakeSockets
from tests.unit.api.fakes import FakeEngine
from tests.unit.api.live import serving

pytestmark = pytest.mark.anyio
OWN = "/ringfence/v1/extensions/blur/routes"
LIVE = f"{OWN}/blur/live"


@pytest.fixture
async def url(app: FastAPI, settings: Settings) -> AsyncIterator[str]:
    async with serving(app, settings) as url:
        yield url.replace("http", "ws")


@pytest.fixture
def blur(engine: FakeEngine) -> FakeSockets:
    for path in ("/blur/live", "/blur/{name}/live", "/queue"):
        engine.extensions.sites.add("blur", "GET", path)
    engine.extensions.sites.add("blur", "POST", "/blur/post")
    return engine.sockets


def opened(url: str, path: str = "/blur/live", **more: Any) -> AbstractAsyncContextManager[ClientConnection]:
    return connect(f"{url}{path}", **more)


async def refusal(url: str, path: str, **more: Any) -> tuple[int, bytes]:
    with pytest.raises(InvalidStatus) as caught:
        await connect(f"{url}{path}", **more)
    return caught.value.response.status_code, bytes(caught.value.response.body or b"")


async def end_of(socket: ClientConnection) -> tuple[int | None, str | None]:
    with anyio.fail_after(60):
        try:
            while True:
                await socket.recv()
        except ConnectionClosed:
            return socket.close_code, socket.close_reason


async def left(socket: FakePackSocket) -> SocketClosed:
    with anyio.fail_after(60):
        await socket.left.wait()
    return socket.farewell


async def test_a_socket_is_opened_by_the_path_that_the_pack_registered(url: str, blur: FakeSockets) -> None:
    asked = [
        ("/blur/live?radius=2&x=%26", "/blur/live?radius=2&x=%26"),
        ("/api/blur/live", "/blur/live"),
        ("/blur/a%2520b/live", "/blur/a%2520b/live"),
        (f"{LIVE}?x=1", "/blur/live?x=1"),
        (f"{OWN}/anything/a%2Fb", "/anything/a%2Fb"),
    ]
    for path, target in asked:
        async with opened(url, path) as socket:
            assert socket.response is not None
            assert socket.response.headers["x-ringfence-extension"] == "blur"
        tenant, extension, request = blur.asked[-1]
        assert (tenant, extension, request.target) == ("local", "blur", target)


async def test_messages_of_both_kinds_go_both_ways_with_the_clients_that_people_use(
    url: str, blur: FakeSockets
) -> None:
    async with opened(url) as socket:
        for message in ("text", b"\x00bytes", "", b""):
            await socket.send(message)
            assert await socket.recv() == message
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{url}/api/blur/live") as other:
        await other.send_json({"a": 1})
        assert await other.receive_json(timeout=60) == {"a": 1}
        await other.send_bytes(b"x")
        assert await other.receive_bytes(timeout=60) == b"x"
        blur.sockets[1].say(SocketClosed(4001, "enough"))
        end = await other.receive(timeout=60)
        assert (end.type, end.data, end.extra) == (aiohttp.WSMsgType.CLOSE, 4001, "enough")


async def test_nothing_that_proves_who_asks_reaches_the_pack_and_protocols_do(
    url: str, blur: FakeSockets
) -> None:
    blur.protocol = "v2"
    secret = {"Authorization": f"Bearer {OPERATOR_TOKEN}", "Cookie": "s=1", "X-Ringfence-Tenant": "local"}
    told = {"User-Agent": "test", "Comfy-User": "default"}
    origin = url.replace("ws", "http")
    more = {**secret, "Origin": origin, "Referer": "http://x/", "Accept-Language": "de"}
    async with connect(
        f"{url}/blur/live",
        additional_headers={**more, "Comfy-User": "default"},
        user_agent_header="test",
        subprotocols=["v1", "v2"],  # type: ignore[list-item]
    ) as socket:
        assert socket.subprotocol == "v2"
    ((_, _, request),) = blur.asked
    assert request.protocols == ("v1", "v2")
    assert {name.title(): value for name, value in request.headers} == {**told, "Accept-Language": "de"}


async def test_what_is_no_subprotocol_is_not_offered_to_the_pack(url: str, blur: FakeSockets) -> None:
    header = {"Sec-WebSocket-Protocol": f"fine, {'a' * 201}"}
    async with opened(url, additional_headers=header):
        pass
    assert blur.asked[0][2].protocols == ("fine",)


async def test_a_socket_is_nobodys_where_this_server_has_a_route_or_no_pack_has_one(
    url: str, blur: FakeSockets
) -> None:
    for path in ("/queue", "/api/queue", "/blur/post", "/blur", "/other", "/ringfence/v1/blur/live"):
        status, _ = await refusal(url, path)
        assert status in (403, 404)
    assert blur.asked == []


async def test_an_extension_that_is_unknown_or_may_not_is_refused(
    url: str, blur: FakeSockets, engine: FakeEngine
) -> None:
    assert (await refusal(url, LIVE.replace("blur/routes", "other/routes")))[0] == 404
    assert (await refusal(url, LIVE.replace("blur/routes", "no%20name/routes")))[0] == 400
    engine.extensions.sites.off.add(ExtensionName("blur"))
    status, body = await refusal(url, LIVE)
    assert (status, b"routes-off" in body) == (403, True)
    assert blur.asked == []


async def test_other_sites_and_strangers_get_no_socket(url: str, blur: FakeSockets, app: FastAPI) -> None:
    hostile: tuple[dict[str, str], ...] = (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
    )
    for path in ("/blur/live", LIVE):
        for headers in hostile:
            assert (await refusal(url, path, additional_headers=headers))[0] == 403
    await app.state.services.tenants.create("a")
    for path in ("/blur/live", LIVE):
        assert (await refusal(url, path))[0] == 403
    assert blur.asked == []


async def test_a_tenants_sockets_are_nobody_elses(url: str, engine: FakeEngine, app: FastAPI) -> None:
    tokens = [(await app.state.services.tenants.create(name))[1] for name in ("a", "b")]
    mine, other = ({"additional_headers": {"Authorization": f"Bearer {token}"}} for token in tokens)
    engine.extensions.sites.add("blur", "GET", "/blur/live", tenant="a")
    for path in ("/blur/live", LIVE):
        async with opened(url, path, **mine) as socket:
            await socket.send("x")
            assert await socket.recv() == "x"
    assert [tenant for tenant, *_ in engine.sockets.asked] == ["a", "a"]
    theirs = await refusal(url, LIVE, **other)
    nobodys = await refusal(url, LIVE.replace("blur/routes", "nope/routes"), **other)
    assert theirs == (nobodys[0], nobodys[1].replace(b"nope", b"blur"))
    assert await refusal(url, "/blur/live", **other) == await refusal(url, "/nope/live", **other)


async def test_a_route_that_does_not_accept_is_an_http_answer(url: str, blur: FakeSockets) -> None:
    answers: list[tuple[Exception, int]] = [
        (RouteRefusedError("it answered 401", status=401), 401),
        (RouteRefusedError("it answered 200", status=200), 400),
        (RouteBusyError("32 are open"), 503),
        (RouteTimeoutError("too slow"), 504),
        (StartError("no memory"), 502),
        (NodeRaisedError("no aiohttp", exception_type="ImportError"), 502),
    ]
    for error, status in answers:
        blur.refusal = error
        said, body = await refusal(url, "/blur/live")
        assert (said, str(error).encode() in body) == (status, True)


def ended(limit: str) -> EndedError:
    return EndedError(f"ended: {limit}", limit=limit)


async def test_what_ends_a_route_closes_the_client_with_a_code_that_says_so(
    url: str, blur: FakeSockets
) -> None:
    ends: list[tuple[SocketClosed | Exception, tuple[int, str]]] = [
        (SocketClosed(1000, "done"), (1000, "done")),
        (SocketClosed(4321, "own"), (4321, "own")),
        (SocketClosed(1005), (1000, "")),
        (SocketClosed(1006), (1011, "the route broke off")),
        (SocketClosed(1015), (1011, "the route broke off")),
        (SocketClosed(0), (1011, "the route broke off")),
        (SocketClosed(2999), (1011, "the route broke off")),
        (SocketClosed(4000, "ü" * 100), (4000, "ü" * 61)),
        (ended("memory"), (1011, "ended: memory")),
        (ended("stopped"), (1012, "ended: stopped")),
        (CallTimeoutError("too long", limit="time"), (1011, "too long")),
        (ProtocolViolationError("it lied"), (1011, "it lied")),
        (QuotaError("too large"), (1009, "too large")),
    ]
    for how, expected in ends:
        async with opened(url) as socket:
            blur.sockets[-1].say(how)
            assert await end_of(socket) == expected


async def test_a_sandbox_that_goes_or_takes_no_message_ends_the_client(url: str, blur: FakeSockets) -> None:
    async with opened(url) as socket:
        blur.sockets[0].ends = ended("stopped")
        blur.sockets[0].ending.set()
        assert (await end_of(socket))[0] == 1012
    async with opened(url) as socket:
        blur.sockets[1].takes = RouteTimeoutError("did not take a message")
        await socket.send("x")
        assert await end_of(socket) == (1011, "did not take a message")


async def test_how_a_client_leaves_is_told_to_the_route(url: str, blur: FakeSockets) -> None:
    async with opened(url) as socket:
        await socket.close(4001, "bye")
    async with opened(url) as socket:
        await socket.close()
    async with opened(url) as socket:
        socket.transport.abort()
    ends = [await left(socket) for socket in blur.sockets]
    assert ends == [SocketClosed(4001, "bye"), SocketClosed(1000, ""), SocketClosed(1006, "")]


async def test_a_message_may_be_large_here_and_nowhere_else_and_not_larger(
    url: str, blur: FakeSockets
) -> None:
    large = b"x" * MESSAGE_TO_PACK
    async with opened(url, max_size=None) as socket:
        await socket.send(large)
        assert await socket.recv() == large
        await socket.send(large + b"x")
        assert (await end_of(socket))[0] == 1009
    assert (await left(blur.sockets[0])).code == 1009
    async with connect(f"{url}/ws") as events:
        await events.send("x" * 100_000)
        assert (await end_of(events))[0] == 1009


async def test_a_message_without_an_end_is_cut_off_at_the_limit(url: str, blur: FakeSockets) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65_536

    async with opened(url) as socket:
        with pytest.raises(ConnectionClosed):
            await socket.send(endless())
        assert socket.close_code == 1009
    assert blur.sockets[0].heard == []


HANDSHAKE = (
    b"GET /blur/live HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@asynccontextmanager
async def raw(url: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection that has asked for a WebSocket and does as a test pleases."""
    host, port = url.removeprefix("ws://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
    try:
        writer.write(HANDSHAKE)
        yield reader, writer
    finally:
        writer.close()


async def test_a_client_that_does_not_read_is_dropped(
    url: str, blur: FakeSockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack_sockets, "SEND_S", 0.2)
    async with raw(url) as (reader, _):
        assert b"101" in await reader.readline()
        blur.sockets[0].say(b"x" * 16_000_000)  # one is enough: nothing is left lying in the server
        assert await left(blur.sockets[0]) == SocketClosed(1006)


async def test_a_client_that_leaves_before_it_is_accepted_is_not_waited_for(
    url: str, blur: FakeSockets, app: FastAPI
) -> None:
    blur.door = anyio.Event()
    async with raw(url):
        await opening(blur)
    await given_up(app)
    blur.door.set()
    async with opened(url):
        assert len(blur.sockets) == 1  # the first was never opened


async def opening(blur: FakeSockets) -> None:
    with anyio.fail_after(60):
        while not blur.asked:  # noqa: ASYNC110 - the fake has no event for it
            await anyio.sleep(0.01)


async def given_up(app: FastAPI) -> None:
    with anyio.fail_after(60):
        while app.state.connections.open_of(TenantId("local")):  # noqa: ASYNC110 - nothing says so
            await anyio.sleep(0.01)


async def test_before_it_is_accepted_a_client_may_send_little_and_had_better_not(
    url: str, blur: FakeSockets, app: FastAPI
) -> None:
    blur.door = anyio.Event()
    for size, answer in ((10, b"HTTP/1.1 400"), (100_000, b"")):
        async with raw(url) as (reader, writer):
            await opening(blur)
            writer.write(b"\x82\xff" + size.to_bytes(8, "big") + bytes(4) + bytes(size))
            await given_up(app)
            with contextlib.suppress(ConnectionResetError):
                assert (await reader.read(12)) == answer
        blur.asked.clear()
    assert blur.sockets == []


async def test_a_tenant_has_so_many_sockets_and_no_more_with_its_others(
    url: str, blur: FakeSockets, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack_sockets, "MAX_OF_TENANT", 2)
    connections = app.state.connections
    async with opened(url), opened(url) as second:
        assert connections.open_of(TenantId("local")) == 2
        status, body = await refusal(url, "/blur/live")
        assert (status, b"too many WebSockets" in body) == (429, True)
        await second.close()
        await left(blur.sockets[1])
        monkeypatch.setattr(connections, "_limit", 1)
        assert (await refusal(url, "/blur/live"))[0] == 429
    await left(blur.sockets[0])
    monkeypatch.setattr(connections, "_limit", 64)
    async with opened(url), connect(f"{url}/ws"):
        assert connections.open_of(TenantId("local")) == 2


async def test_a_token_without_the_scope_opens_none(url: str, app: FastAPI, engine: FakeEngine) -> None:
    tenants = app.state.services.tenants
    await tenants.create("a")
    engine.extensions.sites.add("blur", "GET", "/blur/live", tenant="a")
    for scope, may in ((Scope.RUN, True), (Scope.UPLOAD, False), (Scope.ADMIN, False)):
        _, token = await tenants.create_token(TenantId("a"), str(scope), frozenset((scope,)))
        headers = {"Authorization": f"Bearer {token}"}
        for path in ("/blur/live", "/api/blur/live", LIVE):
            if may:
                async with opened(url, path, additional_headers=headers):
                    pass
            else:
                assert (await refusal(url, path, additional_headers=headers))[0] == 403
    assert len(engine.sockets.asked) == 3


async def test_a_socket_ends_with_the_token_that_opened_it(
    url: str, app: FastAPI, engine: FakeEngine
) -> None:
    tenants = app.state.services.tenants
    _, token = await tenants.create("a")
    engine.extensions.sites.add("blur", "GET", "/blur/live", tenant="a")
    async with opened(url, additional_headers={"Authorization": f"Bearer {token}"}) as socket:
        await tenants.rotate_token("a")
        assert await end_of(socket) == (1008, "the log-in has ended")
    assert (await left(engine.sockets.sockets[0])).code == 1001


async def test_a_socket_ends_when_the_policy_no_longer_allows_routes(
    url: str, blur: FakeSockets, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack_sockets, "RECHECK_S", 0.05)
    async with opened(url) as socket:
        await socket.send("x")
        assert await socket.recv() == "x"
        engine.extensions.sites.off.add(ExtensionName("blur"))
        assert await end_of(socket) == (1008, "its policy does not allow them")
    assert (await left(blur.sockets[0])).code == 1001


async def test_a_server_that_stops_says_so_to_both_ends(
    app: FastAPI, settings: Settings, blur: FakeSockets
) -> None:
    async with serving(app, settings) as url:
        socket = await connect(f"{url.replace('http', 'ws')}/blur/live")
    assert (await end_of(socket))[0] == 1012
    assert (await left(blur.sockets[0])).code == 1012


async def test_opening_a_socket_is_recorded_at_once_and_only_once(
    url: str, blur: FakeSockets, app: FastAPI, client: httpx2.AsyncClient
) -> None:
    async def records() -> list[dict[str, Any]]:
        assert await anyio.to_thread.run_sync(app.state.services.audit.flush)
        answer = await client.get("/ringfence/v1/audit")
        return [record for record in answer.json()["records"] if record.get("extensions") == ["blur"]]

    async with opened(url):
        (record,) = await records()
        assert (record["event"], record["details"]["status"]) == ("route-called", 101)
        assert record["details"]["request"] == "WEBSOCKET /blur/live"
    await left(blur.sockets[0])
    assert len(await records()) == 1


async def test_a_tenant_that_says_much_is_read_more_slowly_and_nobody_else_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(anyio, "sleep", sleep)
    monkeypatch.setattr("sandbox.rates.time.monotonic", lambda: 0.0)
    sockets, loud, quiet = PackSockets(Connections(1)), TenantId("loud"), TenantId("quiet")
    for _ in range(2 * pack_sockets.MESSAGES_PER_S):
        await sockets.keep_pace(loud, 0)
    assert slept == []
    await sockets.keep_pace(loud, 0)
    await sockets.keep_pace(loud, MESSAGE_TO_PACK)
    await sockets.keep_pace(quiet, 0)
    assert slept == [0.001, pytest.approx(0.258)]

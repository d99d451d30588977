"""WebSockets on routes of a pack, answered by a real worker: as a plain process and in a container."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
import orjson
import pytest

from runtime import wire
from sandbox import (
    EndedError,
    HttpRequest,
    PackSocket,
    QuotaError,
    RouteBusyError,
    RouteRefusedError,
    RouteTimeoutError,
    Session,
    SocketClosed,
    SocketRequest,
)
from sandbox.sockets import MAX_SOCKETS
from sandbox.testing import UnconfinedLauncher
from tests.contract.kit import PACKS, MakeLauncher, World, call, ignore, in_docker, world

pytestmark = pytest.mark.anyio
POLICY = "timeouts: {call: 60s, grace: 1s}\nmemory: 1GiB\nroutes: true\n"
KINDS: dict[str, MakeLauncher] = {"plain": lambda places, _: UnconfinedLauncher(places), "docker": in_docker}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(
    scope="module",
    params=["plain", pytest.param("docker", marks=[pytest.mark.docker])],
)
async def at(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[World]:
    directory = tmp_path_factory.mktemp("sockets")
    policies = {
        "routes": POLICY,
        "mortal": POLICY,
        "idle": POLICY.replace("call: 60s", "call: 60s, idle: 1s"),
    }
    async with world(directory, KINDS[request.param], policies=policies) as made:
        for name in policies:
            made.shelf.add(PACKS / "routes", name)
        yield made


@pytest.fixture
async def session(at: World) -> Session:
    return await at.session("routes")


def opened(
    session: Session, query: str = "", protocols: tuple[str, ...] = (), **headers: str
) -> AbstractAsyncContextManager[PackSocket]:
    given = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return session.socket(SocketRequest(f"/rf/socket{query}", given, protocols))


async def told(socket: PackSocket) -> Any:
    with anyio.fail_after(30):
        return await socket.receive()


async def asked(socket: PackSocket, text: str) -> Any:
    await socket.send(text)
    return await told(socket)


async def greeting(socket: PackSocket) -> Any:
    return orjson.loads(await told(socket))


def heard(at: World, who: str) -> list[Any]:
    """What the handler of one socket has told in events."""
    said = [event.data for _, _, event in at.events if event.event == "rf.socket"]
    return [data for data in said if data["who"] == who]


async def until(condition: Callable[[], bool]) -> None:
    """A bounded poll: what is waited for happens in another process."""
    with anyio.fail_after(60):
        while not condition():  # noqa: ASYNC110 - it becomes true in another process
            await anyio.sleep(0.01)


async def test_a_handler_gets_the_request_and_messages_of_both_kinds_go_both_ways(session: Session) -> None:
    async with opened(session, "?a=%26b", user_agent="test") as socket:
        said = await greeting(socket)
        assert said["path"] == "/rf/socket?a=%26b"
        assert "user-agent: test" in said["headers"]
        assert socket.protocol is said["protocol"] is None
        await socket.send("hällo")
        await socket.send(b"\x00\xff")
        assert [await told(socket), await told(socket)] == ["HÄLLO", b"\xff\x00"]
        await socket.send("")
        await socket.send(b"")
        assert [await told(socket), await told(socket)] == ["", b""]


async def test_a_handler_may_wait_for_single_messages(session: Session) -> None:
    async with opened(session) as socket:
        await greeting(socket)
        await socket.send("ask")
        assert await told(socket) == "which?"
        await socket.send('{"a": [1]}')
        await socket.send("words")
        assert orjson.loads(await told(socket)) == {"json": {"a": [1]}, "text": "words"}


async def test_a_subprotocol_is_agreed_upon(session: Session) -> None:
    async with opened(session, protocols=("other", "rf.v1", "rf.v2")) as socket:
        assert socket.protocol == (await greeting(socket))["protocol"] == "rf.v1"


async def test_a_route_that_does_not_accept_is_refused_with_its_status(session: Session) -> None:
    with pytest.raises(RouteRefusedError, match=r"WebSocket '/rf/socket' of extension 'routes'") as caught:
        async with opened(session, "?refuse"):
            pytest.fail("it was refused")
    assert caught.value.status == 403
    for target, status in (("/rf/hello", 200), ("/rf/raises", 500)):
        with pytest.raises(RouteRefusedError) as caught:
            async with session.socket(SocketRequest(target, ())):
                pytest.fail("it is no WebSocket")
        assert caught.value.status == status
    assert session.is_alive


async def test_a_large_message_comes_whole_both_ways_and_one_over_the_limit_ends_it(session: Session) -> None:
    async with opened(session) as socket:
        await greeting(socket)
        data = bytes(range(256)) * (wire.SOCKET_TO_PACK // 256 - 1)
        await socket.send(data)
        assert await told(socket) == data[::-1]
        await socket.send(f"large {wire.SOCKET_FROM_PACK}")
        assert await told(socket) == "x" * wire.SOCKET_FROM_PACK
        with pytest.raises(QuotaError, match="4194305 bytes is too large"):
            await socket.send(b"x" * (wire.SOCKET_TO_PACK + 1))
        await socket.send(f"large {wire.SOCKET_FROM_PACK + 1}")
        end = await told(socket)
        assert end.code == 1009
        assert "exceeds limit" in end.reason or "size" in end.reason
    assert session.is_alive


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("close", SocketClosed(4321, "as you wish")),
        ("leave", SocketClosed(1000)),
        ("raise", SocketClosed(1006)),
    ],
)
async def test_the_end_of_a_handler_is_told(session: Session, said: str, expected: SocketClosed) -> None:
    async with opened(session) as socket:
        await greeting(socket)
        await socket.send(said)
        assert await told(socket) == expected
        await socket.send("nobody hears this")
    assert session.is_alive


@pytest.mark.parametrize(
    ("farewell", "expected"),
    [(SocketClosed(4000, "bye"), 4000), (None, 1001), (SocketClosed(1006), 1006)],
)
async def test_a_client_that_leaves_ends_the_handlers_loop(
    at: World, session: Session, farewell: SocketClosed | None, expected: int
) -> None:
    who = f"leaver{expected}"
    async with opened(session, f"?who={who}") as socket:
        await greeting(socket)
        if farewell is not None:
            socket.leave(farewell)
    await until(lambda: bool(heard(at, who)))
    (end,) = heard(at, who)
    assert (end["code"], end["closed"]) == (expected, True)


async def test_a_handler_that_sends_faster_than_the_client_reads_has_to_wait(
    at: World, session: Session
) -> None:
    count = 300_000
    async with opened(session, "?who=flood") as socket:
        await greeting(socket)
        await socket.send(f"flood {count}")
        first = [await told(socket) for _ in range(100)]
        assert first == [str(number) for number in range(100)]
        assert (await session.execute(call("RFRoutes", {"text": "meanwhile"}), ignore)).ui is not None
        assert not heard(at, "flood")  # not all sent: what nobody fetched is not in the host either


async def test_too_many_are_refused_until_one_is_closed(session: Session) -> None:
    async with anyio.create_task_group() as group:
        enough, done = anyio.Event(), anyio.Event()
        count = 0

        async def hold() -> None:
            nonlocal count
            async with opened(session) as socket:
                await greeting(socket)
                count += 1
                if count == MAX_SOCKETS:
                    enough.set()
                await done.wait()

        for _ in range(MAX_SOCKETS):
            group.start_soon(hold)
        with anyio.fail_after(60):
            await enough.wait()
        with pytest.raises(RouteBusyError, match=f"{MAX_SOCKETS} WebSockets"):
            async with opened(session):
                pytest.fail("there are too many")
        done.set()
    async with opened(session) as socket:
        await greeting(socket)


async def test_a_client_that_sends_faster_than_the_handler_reads_has_to_wait(
    at: World, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = 0

    async def pour(socket: PackSocket) -> None:
        nonlocal sent
        for _ in range(100):
            await socket.send(b"x" * 1_000_000)
            sent += 1

    async with opened(session, "?who=sleeper") as socket:
        await greeting(socket)
        await socket.send("sleep")
        await until(lambda: bool(heard(at, "sleeper")))
        monkeypatch.setattr("sandbox.sockets.TAKE_S", 2.0)
        with pytest.raises(RouteTimeoutError, match="did not take a message"):
            await pour(socket)
        assert sent < 20
    assert session.is_alive


async def test_routes_that_come_later_are_served_beside_the_sockets_that_are_open(session: Session) -> None:
    async def late() -> bytes:
        async with session.http(HttpRequest("GET", "/rf/late", ()), _nothing()) as response:
            return b"".join([piece async for piece in response.body])

    with anyio.fail_after(30):
        assert await late() == b"everything"
        async with opened(session) as before:
            await greeting(before)
            assert await asked(before, "late") == "registered"
            assert b"hello" in await late()
            assert await asked(before, "still here") == "STILL HERE"
            async with opened(session) as after:
                await greeting(after)
                assert await asked(after, "new here") == "NEW HERE"


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""


async def test_a_sandbox_that_dies_ends_its_sockets_with_the_reason(at: World) -> None:
    session = await at.session("mortal")
    async with opened(session) as socket, opened(session) as other:
        await greeting(socket)
        await greeting(other)
        with pytest.raises(EndedError, match="status 3"):
            await asked(socket, "exit")
        with pytest.raises(EndedError, match="status 3"), anyio.fail_after(30):
            await other.watch()


async def test_a_silent_socket_keeps_its_sandbox_for_the_idle_time_and_ends_with_it(at: World) -> None:
    session = await at.session("idle")
    async with opened(session) as socket:
        await greeting(socket)
        with pytest.raises(EndedError, match="idle for 1 s"), anyio.fail_after(30):
            await socket.watch()
    assert not session.is_alive


async def test_sockets_of_a_sandbox_whose_code_has_changed_end_at_once(at: World) -> None:
    before = await at.session("mortal")
    async with opened(before) as socket:
        await greeting(socket)
        at.shelf.add(PACKS / "routes", "mortal")  # a copy has a hash of its own
        after = await at.session("mortal")
        assert after is not before
        with pytest.raises(EndedError, match="has changed") as caught, anyio.fail_after(30):
            await socket.watch()
        assert caught.value.limit == "stopped"
        assert before.is_alive  # it waits for what is open, and this is left now
    await until(lambda: not before.is_alive)

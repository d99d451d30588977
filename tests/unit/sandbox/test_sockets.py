"""WebSockets on routes of workers that say what they like."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from runtime import wire
from sandbox import (
    EndedError,
    HttpRequest,
    NodeRaisedError,
    PackSocket,
    ProtocolViolationError,
    RouteBusyError,
    RouteTimeoutError,
    Session,
    SocketClosed,
    SocketRequest,
    messages,
)
from sandbox import sockets as sockets_module
from sandbox.testing import HELLO, LOADED, FakeLauncher, FakeWorker, Script
from tests.contract.kit import World, world

pytestmark = pytest.mark.anyio
ASK = SocketRequest("/x?y=1", (("accept", "*/*"),), ("one", "two"))
OPENED = {"status": 101, "protocol": None}


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def piece(data: bytes, size: int | None = None, *, more: bool = False, **changes: Any) -> dict[str, Any]:
    size = len(data) if size is None else size
    return {"kind": "binary", "size": size, "data": text(data), "more": more, **changes}


def serving(**answers: Any) -> Script:
    """A worker that answers ``socket/...`` from a table."""
    table = {
        wire.SOCKET_OPEN: OPENED,
        wire.PROMPT_HOOK: {"body": {}},
        **{f"socket/{name}": answer for name, answer in answers.items()},
    }

    async def script(worker: FakeWorker) -> None:
        await worker.serve(table)

    return script


def saying(*answers: Any) -> Callable[[Any], Any]:
    """One answer after the other, the last for ever."""
    left = list(answers)
    return lambda _params: left.pop(0) if len(left) > 1 else left[0]


@asynccontextmanager
async def at(tmp_path: Path, script: Script, *, call: str = "60s") -> AsyncIterator[Session]:
    made: World
    policies = {"pack": f"timeouts: {{call: {call}, grace: 250ms}}\n"}
    async with world(tmp_path, lambda places, _: FakeLauncher(places, script), policies=policies) as made:
        made.shelf.write("pack", "")
        with anyio.fail_after(50):
            yield await made.session("pack")


async def first(session: Session) -> str | bytes | SocketClosed:
    async with session.socket(ASK) as socket:
        return await socket.receive()


async def test_what_is_asked_sent_and_fetched_goes_out_as_the_protocol_has_it(tmp_path: Path) -> None:
    said: list[dict[str, Any]] = []

    async def script(worker: FakeWorker) -> None:
        answers = {
            wire.SOCKET_OPEN: {"status": 101, "protocol": "two"},
            wire.SOCKET_SEND: {},
            wire.SOCKET_RECEIVE: piece("grüß".encode(), kind="text"),
            wire.HELLO: HELLO,
            wire.LOAD: LOADED,
        }
        while True:
            request = await worker.receive()
            if request["method"].startswith("socket/"):
                said.append({"method": request["method"], **request["params"]})
            if "id" in request:
                await worker.answer(request, answers[request["method"]])
            else:
                told.set()

    told = anyio.Event()
    async with at(tmp_path, script) as session:
        async with session.socket(ASK) as socket:
            assert socket.protocol == "two"
            await socket.send("ä")
            await socket.send(b"x" * (wire.HTTP_PIECE + 1))
            assert await socket.receive() == "grüß"
            socket.leave(SocketClosed(4000, "enough"))
        await told.wait()
    base = {"socket": 1}
    assert said == [
        {
            "method": "socket/open", **base, "name": "pack", "target": "/x?y=1", "headers": [["accept", "*/*"]],
            "protocols": ["one", "two"],
        },
        {"method": "socket/send", **base, "kind": "text", "data": text("ä".encode()), "more": False},
        {"method": "socket/send", **base, "kind": "binary", "data": text(b"x" * wire.HTTP_PIECE), "more": True},
        {"method": "socket/send", **base, "kind": "binary", "data": text(b"x"), "more": False},
        {"method": "socket/receive", **base, "limit": wire.HTTP_PIECE},
        {"method": "socket/close", **base, "code": 4000, "reason": "enough"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    "answer",
    [
        {},
        [],
        None,
        {"status": 99, "protocol": None},
        {"status": "101", "protocol": None},
        {"status": 101},
        {"status": 101, "protocol": "three"},
        {"status": 101, "protocol": None, "more": True},
    ],
)
def test_what_is_no_answer_to_an_opening_is_a_violation(answer: Any) -> None:
    with pytest.raises(ProtocolViolationError, match="WebSocket"):
        messages.socket_opened(answer, ("one", "two"))


@pytest.mark.parametrize(
    "answer",
    [
        {},
        [],
        {"kind": "ping"},
        {"kind": "close", "code": 1000},
        {"kind": "close", "code": 70_000, "reason": ""},
        {"kind": "close", "code": True, "reason": ""},
        {"kind": "close", "code": 1000, "reason": "x" * 124},
        {**piece(b"x"), "data": "*"},
        piece(b"xy", 1),
        piece(b"", 1, more=True),
        piece(b"x" * 1001),
        piece(b"x", -1),
        piece(b"x", wire.SOCKET_FROM_PACK + 1, more=True),
    ],
)
def test_what_is_nothing_that_a_route_may_say_is_a_violation(answer: Any) -> None:
    with pytest.raises(ProtocolViolationError, match="WebSocket"):
        messages.socket_said(answer, 1000)


def test_a_reason_is_shown_without_what_a_terminal_would_obey() -> None:
    said = messages.socket_said({"kind": "close", "code": 4000, "reason": "\x1b[2Jgone"}, 1000)
    assert isinstance(said, SocketClosed)
    assert "\x1b" not in said.reason


@pytest.mark.parametrize(
    "answers",
    [
        [piece(b"x", 2)],
        [piece(b"\xff", kind="text")],
        [piece(b"x", 3, more=True), piece(b"y", 3)],
        [piece(b"x", 3, more=True), piece(b"yz", 3, more=True)],
        [piece(b"x", 3, more=True), piece(b"yz", 4, more=True)],
        [piece(b"x", 3, more=True), piece(b"yzz", 3)],
        [piece(b"x", 3, more=True), piece(b"yz", 3, kind="text")],
        [piece(b"x", 3, more=True), {"kind": "close", "code": 1000, "reason": ""}],
    ],
)
async def test_a_worker_whose_message_is_not_what_it_began_as_is_ended(
    tmp_path: Path, answers: list[Any]
) -> None:
    async with at(tmp_path, serving(receive=saying(*answers))) as session:
        with pytest.raises(ProtocolViolationError, match="WebSocket"):
            await first(session)
        assert not session.is_alive


async def test_a_message_without_end_stops_at_the_size_that_it_announced(tmp_path: Path) -> None:
    asked = 0

    def receive(_: Any) -> dict[str, Any]:
        nonlocal asked
        asked += 1
        return piece(b"x" * wire.HTTP_PIECE, 4 * wire.HTTP_PIECE, more=True)

    async with at(tmp_path, serving(receive=receive)) as session:
        with pytest.raises(ProtocolViolationError, match="do not make up its size"):
            await first(session)
        assert asked == 4


@pytest.mark.parametrize(
    "message",
    [
        {"id": 99_999, "result": piece(b"unasked")},
        {"method": wire.SOCKET_OPEN, "params": {"socket": 7}},
        {"id": 7, "method": wire.SOCKET_RECEIVE, "params": {"socket": 7, "limit": 1}},
        {"method": wire.SOCKET_SEND, "params": {"socket": 1, "kind": "text", "data": "", "more": False}},
    ],
)
async def test_a_worker_that_sends_what_nobody_asked_for_is_ended(
    tmp_path: Path, message: dict[str, Any]
) -> None:
    async def script(worker: FakeWorker) -> None:
        async def receive(_: Any) -> None:
            await worker.send(message)

        await worker.serve({wire.SOCKET_OPEN: OPENED, wire.SOCKET_RECEIVE: receive})

    async with at(tmp_path, script) as session:
        with pytest.raises(ProtocolViolationError, match=r"nobody made|which a worker may not"):
            await first(session)
        assert not session.is_alive


async def test_a_flood_is_fetched_one_by_one_and_never_unasked(tmp_path: Path) -> None:
    asked = 0

    def receive(_: Any) -> dict[str, Any]:
        nonlocal asked
        asked += 1
        return piece(b"again")

    async with at(tmp_path, serving(receive=receive)) as session, session.socket(ASK) as socket:
        for _ in range(3):
            assert await socket.receive() == b"again"
        await session.hook_prompt({}, 5)  # the worker has had time for more
        assert asked == 3


async def test_a_worker_that_never_opens_costs_its_time_and_counts_until_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets_module, "MAX_SOCKETS", 1)
    async with at(tmp_path, serving(open=lambda _params: None), call="1s") as session:
        with pytest.raises(RouteTimeoutError, match="WebSocket '/x' of extension 'pack'"):
            await first(session)
        assert session.is_alive
        with pytest.raises(RouteBusyError, match="1 WebSockets"):
            await first(session)


async def test_a_worker_that_takes_no_message_is_given_up_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets_module, "TAKE_S", 0.2)
    async with (
        at(tmp_path, serving(send=lambda _params: None)) as session,
        session.socket(ASK) as socket,
    ):
        with pytest.raises(RouteTimeoutError, match="did not take a message"):
            await socket.send("x")
        assert session.is_alive


async def test_a_worker_that_leaves_a_large_message_unfinished_holds_up_nobody_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets_module, "LARGE_AT_ONCE", 1)
    begun = piece(b"x", 9, more=True)
    async with at(tmp_path, serving(receive=saying(begun, None, begun, None)), call="1s") as session:
        for _ in range(2):  # the second finds the place for a large message free again
            with pytest.raises(RouteTimeoutError, match="did not answer in time"):
                await first(session)


async def test_an_error_of_the_worker_is_the_packs(tmp_path: Path) -> None:
    async def script(worker: FakeWorker) -> None:
        while True:
            request = await worker.receive()
            if request.get("method") == wire.SOCKET_OPEN:
                await worker.refuse(request, wire.NODE_RAISED, "no \x1b[31maiohttp")
            elif "id" in request:
                await worker.answer(request, HELLO if request["method"] == wire.HELLO else LOADED)

    async with at(tmp_path, script) as session:
        with pytest.raises(NodeRaisedError, match="aiohttp") as caught:
            await first(session)
        assert "\x1b" not in caught.value.message
        assert session.is_alive


async def test_a_worker_that_hangs_up_fails_its_sockets(tmp_path: Path) -> None:
    async def script(worker: FakeWorker) -> None:
        async def leave(_: Any) -> None:
            worker.stream.close()

        await worker.serve({wire.SOCKET_OPEN: OPENED, wire.SOCKET_RECEIVE: leave})

    async with at(tmp_path, script) as session:
        with pytest.raises(EndedError):
            await first(session)


async def test_a_socket_on_which_nothing_is_said_lets_go_of_its_sandbox_until_something_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with at(tmp_path, serving()) as session:
        sandbox = session._sandbox  # type: ignore[attr-defined]
        timeouts = sandbox.policy.timeouts
        monkeypatch.setattr(
            sandbox,
            "policy",
            sandbox.policy.model_copy(update={"timeouts": timeouts.model_copy(update={"idle_s": 0.1})}),
        )
        async with session.socket(ASK) as socket, anyio.create_task_group() as group:
            assert sandbox.in_use
            group.start_soon(socket.watch)
            await sandbox.quiet()
            await _say(socket, sandbox)
            group.cancel_scope.cancel()
        assert not sandbox.in_use


async def _say(socket: PackSocket, sandbox: Any) -> None:
    await socket.send("x")
    assert (sandbox.in_use, sandbox.calls) == (True, 0)  # its disk is that of the calls beside it


async def test_members_of_a_group_share_a_worker_and_no_number(tmp_path: Path) -> None:
    numbers: list[int] = []

    def opened(params: dict[str, Any]) -> dict[str, Any]:
        numbers.append(params["socket"])
        return OPENED

    def requested(params: dict[str, Any]) -> dict[str, Any]:
        numbers.append(params["exchange"])
        return {"status": 200, "headers": [], "data": "", "more": False}

    policies = {"one": "group: g\n", "two": "group: g\n"}

    async def both(worker: FakeWorker) -> None:
        await worker.serve({wire.SOCKET_OPEN: opened, wire.HTTP_REQUEST: requested})

    async with world(tmp_path, lambda places, _: FakeLauncher(places, both), policies=policies) as made:
        made.shelf.groups["g"] = (made.shelf.write("one", ""), made.shelf.write("two", ""))
        for name in ("one", "two"):
            session = await made.session(name)
            async with session.socket(ASK), session.http(HttpRequest("GET", "/x", ()), _nothing()):
                pass
    assert len(set(numbers)) == len(numbers) == 4


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""

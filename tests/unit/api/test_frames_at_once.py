"""What a client is told in one go is handed to its connection in one step, unless something is in its way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace

import pytest
from fastapi import FastAPI
from websockets.asyncio.client import connect
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from api.gathered import MOST, GatheringProtocol
from api.messages import Binary, Message
from api.settings import Settings
from engine.events import PackMessage
from policies import LOCAL_TENANT
from tests.unit.api.fakes import FakeEngine
from tests.unit.api.live import serving
from tests.unit.api.test_websocket import receive

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("every_fast_path")]


@pytest.fixture
async def url(every_fast_path: None, app: FastAPI, settings: Settings) -> AsyncIterator[str]:
    async with serving(app, settings) as url:
        yield url.replace("http", "ws")


@pytest.fixture
def handed_over(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """How many frames each time, and whether they were taken."""
    calls: list[tuple[int, bool]] = []
    send = GatheringProtocol.send_at_once

    def seen(self: GatheringProtocol, messages: Sequence[Message]) -> int:
        taken = send(self, messages)
        calls.append((len(messages), taken == len(messages)))
        return taken

    monkeypatch.setattr(GatheringProtocol, "send_at_once", seen)
    return calls


def said(engine: FakeEngine, number: int, text: str) -> None:
    engine.say(PackMessage(LOCAL_TENANT, "me", "told", {"number": number, "text": text}, None))


async def test_frames_large_and_small_come_in_their_order(
    url: str, engine: FakeEngine, handed_over: list[tuple[int, bool]]
) -> None:
    sizes = [10, 20, MOST + 1, 5, 5, 5, 3 * MOST, 1]
    async with connect(f"{url}/ws?clientId=me", max_size=None) as socket:
        await receive(socket)
        told = []
        for number, size in enumerate(sizes):
            said(engine, number, "é" * size)
            if number % 3 == 2:
                told.append(await receive(socket))
        told += [await receive(socket) for _ in range(len(sizes) - len(told))]
    assert [frame["data"]["number"] for frame in told] == list(range(len(sizes)))
    assert [len(frame["data"]["text"]) for frame in told] == sizes
    assert {taken for _, taken in handed_over} == {True, False}


async def test_what_happens_together_is_one_step(
    url: str, engine: FakeEngine, handed_over: list[tuple[int, bool]]
) -> None:
    async with connect(f"{url}/ws?clientId=me") as socket:
        await receive(socket)
        for number in range(20):
            said(engine, number, "x")
        assert [(await receive(socket))["data"]["number"] for _ in range(20)] == list(range(20))
    assert all(taken for _, taken in handed_over)
    assert max(count for count, _ in handed_over) > 1


async def test_a_socket_that_was_closed_takes_nothing(
    url: str, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocols: list[GatheringProtocol] = []
    run = GatheringProtocol.run_asgi

    async def remembered(self: GatheringProtocol) -> None:
        protocols.append(self)
        assert not self.send_at_once([b"too early"])
        await run(self)

    monkeypatch.setattr(GatheringProtocol, "run_asgi", remembered)
    async with connect(f"{url}/ws?clientId=me") as socket:
        await receive(socket)
        (protocol,) = protocols
        protocol.writable.clear()  # as for a client that reads slowly
        assert not protocol.send_at_once([b"too much"])
        protocol.writable.set()
        await protocol.send({"type": "websocket.close", "code": 1000})
        assert not protocol.send_at_once([b"too late"])


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65_534, MOST])
@pytest.mark.parametrize("kind", [bytes, Binary])
def test_a_frame_is_written_as_the_library_writes_it(length: int, kind: type[bytes]) -> None:
    told: list[bytes] = []
    connection = ServerProtocol()
    connection._state = State.OPEN
    protocol = SimpleNamespace(
        handshake_complete=True,
        close_sent=False,
        initial_response=None,
        disconnected=False,
        writable=SimpleNamespace(is_set=lambda: True),
        conn=connection,
        _gathering=SimpleNamespace(is_closing=lambda: False, write_now=told.append),
    )
    payload = kind(b"x" * length)
    connection.send_pong(b"still there")  # goes first
    pong = Frame(Opcode.PONG, b"still there").serialize(mask=False)
    assert GatheringProtocol.send_at_once(protocol, [payload]) == 1  # type: ignore[arg-type]
    opcode = Opcode.BINARY if kind is Binary else Opcode.TEXT
    assert told == [pong + Frame(opcode, payload).serialize(mask=False)]
    assert connection.data_to_send() == []


async def test_more_than_is_handed_over_in_one_step_goes_in_several(
    url: str, engine: FakeEngine, handed_over: list[tuple[int, bool]]
) -> None:
    async with connect(f"{url}/ws?clientId=me", max_size=None) as socket:
        await receive(socket)
        said(engine, 0, "x")
        for number in range(1, 20):
            said(engine, number, "x" * (MOST // 4))
        assert [(await receive(socket))["data"]["number"] for _ in range(20)] == list(range(20))
    assert max(count for count, _ in handed_over) > 4
    assert not all(taken for _, taken in handed_over)

"""The host's end of one conversation: what an end does to the calls that wait."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import pytest

from runtime import wire
from sandbox.errors import ProtocolViolationError
from sandbox.peer import ConversationEndedError, Peer, PendingCall
from sandbox.streams import EndOfStreamError, SocketStream

pytestmark = pytest.mark.anyio


class Line:
    """Says ``frames`` in one piece, without a pause, and is closed then."""

    def __init__(self) -> None:
        self.data = b""

    def take(self, count: int) -> bytes | None:
        if len(self.data) < count:
            return None
        piece, self.data = self.data[:count], self.data[count:]
        return piece

    def on_arrival(self, look: Callable[[bytes], int]) -> None:
        """Nothing arrives: all is there."""

    async def read_exactly(self, count: int) -> bytes:
        raise EndOfStreamError

    async def write(self, _: bytes) -> None:
        """Read by nobody."""

    def write_at_once(self, _: bytes) -> bool:
        return True

    def close(self) -> None:
        """Nothing was open."""


async def test_an_answer_that_came_before_the_end_is_an_answer() -> None:
    async def nobody(*_: Any) -> None:
        return None

    line = Line()
    peer = Peer(line, on_request=nobody, on_notification=nobody)
    call, lost = await peer.start("node/execute", {}), await peer.start("node/execute", {})
    body = json.dumps({"jsonrpc": "2.0", "id": call.id, "result": "the last words"}).encode()
    line.data = len(body).to_bytes(4, "big") + body
    found: list[Any] = []

    async def wait() -> None:
        found.append(await call.wait())

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await anyio.lowlevel.checkpoint()
        # Answer and end are read in one go, before whoever waits has had a turn.
        with pytest.raises(EndOfStreamError):
            await peer.run()
    assert found == ["the last words"]
    assert await call.wait() == "the last words"
    with pytest.raises(ConversationEndedError):
        await lost.wait()


@asynccontextmanager
async def conversation(
    on_notification: Callable[[str, dict[str, Any]], Awaitable[None]],
) -> AsyncIterator[tuple[Peer, socket.socket]]:
    """A peer that reads from a real socket, and the worker's end of it."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    async def nobody(*_: Any) -> None:
        return None

    peer = Peer(await SocketStream.of(ours), on_request=nobody, on_notification=on_notification)
    async with anyio.create_task_group() as group:

        async def read() -> None:
            with suppress(EndOfStreamError):
                await peer.run()

        group.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        with theirs:
            yield peer, theirs
        group.cancel_scope.cancel()


def answer(identity: int, result: Any) -> bytes:
    return wire.encode_frame({"jsonrpc": "2.0", "id": identity, "result": result})


@pytest.mark.usefixtures("every_fast_path")
async def test_a_short_answer_needs_no_turn_of_the_reader_and_what_came_before_it_is_heard_before() -> None:
    heard: list[Any] = []

    async def note(_: str, params: dict[str, Any]) -> None:
        heard.append(params["number"])

    async with conversation(note) as (peer, theirs):
        calls = [await peer.start("node/execute", {}) for _ in range(4)]
        reads = 0
        read = peer._read

        async def counted() -> Any:
            nonlocal reads
            reads += 1
            return await read()

        peer._read = counted  # type: ignore[method-assign]
        theirs.sendall(answer(calls[0].id, "one") + answer(calls[1].id, "two"))
        assert [await call.wait(60) for call in calls[:2]] == ["one", "two"]
        assert reads == 0
        note_it = wire.encode_frame({"jsonrpc": "2.0", "method": "node/text", "params": {"number": 1}})
        theirs.sendall(answer(calls[2].id, "three") + note_it + answer(calls[3].id, "four"))
        assert await calls[3].wait(60) == "four"
        assert (await calls[2].wait(60), heard) == ("three", [1])
        assert reads > 0


@pytest.mark.usefixtures("every_fast_path")
async def test_an_answer_in_pieces_and_a_long_one_come_by_the_reader() -> None:
    async def nobody(*_: Any) -> None:
        return None

    async with conversation(nobody) as (peer, theirs):
        first, second = await peer.start("node/execute", {}), await peer.start("node/execute", {})
        whole = answer(first.id, "in pieces")
        for start in range(0, len(whole), 7):
            theirs.sendall(whole[start : start + 7])
            await anyio.wait_all_tasks_blocked()
        assert await first.wait(60) == "in pieces"
        theirs.sendall(answer(second.id, "x" * 60_000))
        assert await second.wait(60) == "x" * 60_000


@pytest.mark.usefixtures("every_fast_path")
@pytest.mark.parametrize(
    "said",
    [
        pytest.param(answer(99, None), id="nobody asked"),
        pytest.param(answer(1, None) * 2, id="answered twice"),
        pytest.param(wire.HEADER.pack(2**31), id="no length"),
        pytest.param(wire.HEADER.pack(50) + b'{"jsonrpc":"2.0","id":1,"result":'.ljust(50), id="no JSON"),
        pytest.param(
            wire.HEADER.pack(46) + b'{"jsonrpc":"2.0","id":1,"result":1,"result":2}', id="two results"
        ),
    ],
)
async def test_what_breaks_the_protocol_ends_the_conversation_also_where_the_reader_waits(
    said: bytes,
) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    async def nobody(*_: Any) -> None:
        return None

    peer = Peer(await SocketStream.of(ours), on_request=nobody, on_notification=nobody)
    await peer.start("node/execute", {})
    with theirs:
        async with anyio.create_task_group() as group:

            async def read() -> None:
                with pytest.raises(ProtocolViolationError):
                    await peer.run()
                group.cancel_scope.cancel()

            group.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            theirs.sendall(said)


@pytest.mark.usefixtures("every_fast_path")
async def test_a_worker_that_has_used_up_its_second_is_read_by_the_reader_and_so_more_slowly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def nobody(*_: Any) -> None:
        return None

    pauses: list[float] = []

    async def pause(delay: float) -> None:
        pauses.append(delay)

    async with conversation(nobody) as (peer, theirs):
        monkeypatch.setattr("sandbox.peer.anyio.sleep", pause)
        call = await peer.start("node/execute", {})
        peer._frames.borrow(1e9)
        theirs.sendall(answer(call.id, "late"))
        assert await call.wait(60) == "late"
        assert pauses[:1] > [1.0]


@pytest.mark.usefixtures("every_fast_path")
async def test_many_calls_share_one_timer_and_each_has_its_own_deadline() -> None:
    async def nobody(*_: Any) -> None:
        return None

    async with conversation(nobody) as (peer, theirs):
        timers = 0
        loop = asyncio.get_running_loop()
        call_at = loop.call_at

        def counted(*args: Any, **rest: Any) -> Any:
            nonlocal timers
            timers += 1
            return call_at(*args, **rest)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "call_at", counted)
            for _ in range(20):
                call = await peer.start("node/execute", {})
                theirs.sendall(answer(call.id, "in time"))
                assert await call.wait(600) == "in time"
                call.close()
        assert timers == 1
        late, later = await peer.start("node/execute", {}), await peer.start("node/execute", {})
        async with anyio.create_task_group() as group:
            ended: list[str] = []

            async def wait(call: PendingCall, limit_s: float, name: str) -> None:
                with suppress(TimeoutError):
                    await call.wait(limit_s)
                    name += " answered"
                ended.append(name)

            group.start_soon(wait, later, 600.0, "later")
            group.start_soon(wait, late, 0.01, "late")  # its deadline comes before the one that is set
            with anyio.fail_after(60):
                while not ended:
                    await anyio.lowlevel.checkpoint()
            assert ended == ["late"]
            theirs.sendall(answer(later.id, None))
        assert ended == ["late", "later answered"]


async def test_a_deadline_that_passed_while_the_timer_was_anothers_is_still_kept() -> None:
    async def nobody(*_: Any) -> None:
        return None

    async with conversation(nobody) as (peer, theirs):
        first = await peer.start("node/execute", {})
        theirs.sendall(answer(first.id, 1))
        assert await first.wait(0.05) == 1  # leaves its timer behind
        second = await peer.start("node/execute", {})
        with anyio.fail_after(60), pytest.raises(TimeoutError):
            await second.wait(0.1)


async def test_no_timer_outlives_the_conversation() -> None:
    async def nobody(*_: Any) -> None:
        return None

    async with conversation(nobody) as (peer, theirs):
        call = await peer.start("node/execute", {})
        theirs.sendall(answer(call.id, 1))
        assert await call.wait(600) == 1
        assert peer.deadlines.is_set
        peer.hang_up()
        assert not peer.deadlines.is_set

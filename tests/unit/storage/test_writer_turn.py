"""One writer at a time, in the order of asking, whoever stops waiting."""

from __future__ import annotations

import asyncio

import anyio
import pytest
from anyio.lowlevel import checkpoint

from engine.writer_turn import WriterTurn

pytestmark = pytest.mark.anyio


async def test_turns_come_in_the_order_of_asking_whichever_way_one_asks() -> None:
    turn, came = WriterTurn(), list[str]()

    async def wait(name: str) -> None:
        async with turn:
            came.append(name)
            await checkpoint()

    turn.ask(lambda: came.append("first"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait, "second")
        await checkpoint()
        turn.ask(lambda: (came.append("third"), turn.pass_on()))  # type: ignore[arg-type, return-value]
        tasks.start_soon(wait, "fourth")
        await checkpoint()
        assert came == ["first"]
        turn.pass_on()
    assert came == ["first", "second", "third", "fourth"]
    turn.ask(lambda: came.append("free again"))
    assert came[-1] == "free again"


@pytest.mark.parametrize("has_come", [False, True])
async def test_whoever_stops_waiting_keeps_nobody_from_the_turn(has_come: bool) -> None:
    turn, came = WriterTurn(), list[str]()

    async def wait() -> None:
        async with turn:
            came.append("gave up")

    turn.ask(lambda: None)
    task = asyncio.create_task(wait())
    await checkpoint()
    turn.ask(lambda: came.append("next"))
    if has_come:
        turn.pass_on()  # it is told, and ended before it can look
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    if not has_come:
        turn.pass_on()
    assert came == ["next"]


async def test_thousands_who_stopped_waiting_are_passed_over() -> None:
    turn, came = WriterTurn(), list[str]()

    async def wait() -> None:
        async with turn:
            came.append("gave up")

    turn.ask(lambda: None)
    tasks = [asyncio.create_task(wait()) for _ in range(5_000)]
    await checkpoint()
    turn.ask(lambda: came.append("next"))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    turn.pass_on()
    assert came == ["next"]

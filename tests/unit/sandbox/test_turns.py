"""Whose turn it is: one at a time, in the order in which they came, whoever gives up meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from sandbox.turns import Turn

pytestmark = pytest.mark.anyio


async def waiting(turn: Turn, name: str, had: list[str], until: asyncio.Event | None = None) -> None:
    await turn.wait()
    had.append(name)
    if until is not None:
        await until.wait()
    turn.leave()


async def started(*tasks: asyncio.Task[None]) -> None:
    for _ in tasks:
        await asyncio.sleep(0)


async def test_it_is_taken_at_once_where_nobody_has_it_and_by_nobody_else() -> None:
    turn = Turn()
    assert turn.take()
    assert not turn.take()
    turn.leave()
    await turn.wait()
    assert not turn.take()


async def test_it_goes_to_those_who_wait_in_their_order_and_nobody_overtakes_them() -> None:
    turn, had = Turn(), []
    assert turn.take()
    tasks = [asyncio.create_task(waiting(turn, name, had)) for name in "abc"]
    await started(*tasks)
    turn.leave()
    assert not turn.take()
    await asyncio.gather(*tasks)
    assert had == ["a", "b", "c"]
    assert turn.take()


async def test_who_gives_up_while_waiting_is_passed_over() -> None:
    turn, had = Turn(), []
    assert turn.take()
    first, second = (asyncio.create_task(waiting(turn, name, had)) for name in "ab")
    await started(first, second)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    turn.leave()
    await second
    assert had == ["b"]
    assert turn.take()


async def test_who_gives_up_before_hearing_of_it_hands_it_on() -> None:
    turn, had = Turn(), []
    assert turn.take()
    first, second = (asyncio.create_task(waiting(turn, name, had)) for name in "ab")
    await started(first, second)
    turn.leave()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await second
    assert had == ["b"]
    assert turn.take()


async def test_it_is_free_when_all_who_waited_gave_up() -> None:
    turn = Turn()
    assert turn.take()
    task = asyncio.create_task(turn.wait())
    await started(task)
    task.cancel()
    turn.leave()  # before the task knows
    with pytest.raises(asyncio.CancelledError):
        await task
    assert turn.take()

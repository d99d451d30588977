"""Idle sandboxes' disks are looked at together; what happens to one is nothing to the others."""

from __future__ import annotations

import threading

import anyio
import anyio.to_thread
import pytest

from sandbox import idle_looks
from sandbox.disk_watch import DiskWatch, Found
from sandbox.idle_looks import due, look_together

pytestmark = pytest.mark.anyio


class Disk(DiskWatch):
    """One that tells where it was looked at, and waits or fails there if it is to."""

    def __init__(self, nbytes: int = 0, error: Exception | None = None, until: threading.Event | None = None):
        super().__init__([], uid=1, most_files=1)
        self.answer, self.error, self.until = Found(bytes=nbytes), error, until
        self.begun = threading.Event()

    def look(self) -> Found:
        self.begun.set()
        if self.until is not None:
            self.until.wait(60)
        if self.error is not None:
            raise self.error
        return self.answer


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of a thread: how many disks were looked at in each."""
    seen: list[int] = []
    real = idle_looks._look

    def look(together: list[idle_looks._Asked]) -> None:
        seen.append(len(together))
        real(together)

    monkeypatch.setattr(idle_looks, "_look", look)
    return seen


async def gather(disks: list[Disk]) -> list[int | str]:
    answers: list[int | str] = [""] * len(disks)

    async def one(at: int) -> None:
        try:
            answers[at] = (await look_together(disks[at])).bytes
        except OSError as error:
            answers[at] = str(error)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for at in range(len(disks)):
                tasks.start_soon(one, at)
    return answers


async def test_those_that_ask_at_once_take_one_turn_of_a_thread(turns: list[int]) -> None:
    assert await gather([Disk(number) for number in range(9)]) == list(range(9))
    assert turns == [9]
    assert await gather([Disk(5)]) == [5]
    assert turns == [9, 1]


async def test_many_take_several_turns(turns: list[int]) -> None:
    assert await gather([Disk(number) for number in range(40)]) == list(range(40))
    assert turns == [16, 16, 8]


async def test_a_disk_that_cannot_be_read_is_nobody_elses_error() -> None:
    assert await gather([Disk(1), Disk(error=OSError("broken")), Disk(3)]) == [1, "broken", 3]


async def test_a_look_that_did_not_come_about_is_an_error_and_no_empty_disk() -> None:
    disks = [Disk(1), Disk(error=ZeroDivisionError()), Disk(3)]
    answers: dict[int, object] = {}

    async def one(at: int) -> None:
        try:
            answers[at] = (await look_together(disks[at])).bytes
        except (ZeroDivisionError, RuntimeError) as error:
            answers[at] = type(error)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for at in range(3):
                tasks.start_soon(one, at)
    assert answers == {0: ZeroDivisionError, 1: RuntimeError, 2: RuntimeError}


async def test_those_that_come_while_others_are_looked_at_are_looked_at_next(turns: list[int]) -> None:
    until = threading.Event()
    slow = Disk(1, until=until)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(look_together, slow)
            await anyio.to_thread.run_sync(slow.begun.wait, 60)
            tasks.start_soon(look_together, Disk(2))
            await anyio.sleep(0.05)
            until.set()
    assert turns == [1, 1]


@pytest.mark.parametrize("ended", [0, 1, 2])
async def test_one_that_ends_meanwhile_keeps_nobody_from_the_answer(ended: int) -> None:
    until = threading.Event()
    disks = [Disk(number, until=until) for number in range(3)]
    scopes = [anyio.CancelScope() for _ in disks]
    answers: dict[int, int] = {}

    async def one(at: int) -> None:
        with scopes[at]:
            answers[at] = (await look_together(disks[at])).bytes

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for at in range(3):
                tasks.start_soon(one, at)
            await anyio.to_thread.run_sync(disks[0].begun.wait, 60)
            scopes[ended].cancel()
            until.set()
    assert {at: answers.get(at) for at in range(3) if at != ended} == {
        at: at for at in range(3) if at != ended
    }


@pytest.mark.parametrize(("at", "expected"), [(10.0, 10.0), (10.01, 10.5), (10.5, 10.5), (10.74, 11.0)])
def test_looks_are_due_at_common_moments(at: float, expected: float) -> None:
    assert due(at) == expected

"""Which prompt is next and which run is known in memory; the table is right whenever it is looked at."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import anyio
import pytest
import sqlalchemy as sa

from engine import claims, crowds
from engine.crowds import Crowd, Room, Waiting
from engine.database import Database, DatabaseError
from engine.memory_storage import MemoryStorage
from engine.queue import SqlStorage
from engine.storage import QueuedPrompt
from engine.tables import queue_table
from tests.unit.storage.test_queue import SECRET, A, B, entry, new

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("every_fast_path")]

_q = queue_table.c


@pytest.fixture
async def storage(every_fast_path: None, database: Database) -> SqlStorage:
    return SqlStorage(database)


class Counted:
    """A database whose transactions are counted, and fail on demand, before or after they are done."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.fails: Callable[[], str] = lambda: ""
        transact = database.transact

        async def counted(work: Any, **how_to: bool) -> Any:
            self.count += 1
            how = self.fails()
            if how == "before":
                raise DatabaseError("the disk is full")
            result = await transact(work, **how_to)
            if how == "after":
                raise DatabaseError("the answer was lost")
            return result

        monkeypatch.setattr(database, "transact", counted)


def name(row: QueuedPrompt | None) -> str | None:
    return None if row is None else row.prompt_id


async def noted(database: Database) -> list[str]:
    async with database.read() as connection:
        query = sa.select(_q.prompt_id).where(_q.claimed.is_not(None)).order_by(_q.claimed)
        return list((await connection.execute(query)).scalars())


async def test_a_prompt_costs_two_transactions_and_looking_for_the_next_none(
    storage: SqlStorage, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await storage.pending_count(A) == 0
    transactions = Counted(database, monkeypatch)
    await storage.enqueue(new("p0", secrets={"k": SECRET}), limit=10)
    await storage.enqueue(new("p1"), limit=10)
    claimed = await storage.claim_next(A)
    assert claimed == await_of(new("p0", secrets={"k": SECRET}), number=0)
    for _ in range(3):
        assert await storage.claim_next(A, {"c"}) is None  # p1 is of a client that has one running
    await storage.finish(A, "p0", entry("p0"))
    assert transactions.count == 3


def await_of(wanted: Any, number: float) -> QueuedPrompt:
    return QueuedPrompt(
        wanted.tenant, wanted.prompt_id, number, wanted.prompt, wanted.extra_data, ("1",), wanted.secrets
    )


async def test_what_is_too_large_to_keep_is_read_when_its_turn_comes(
    storage: SqlStorage, monkeypatch: pytest.MonkeyPatch, database: Database
) -> None:
    monkeypatch.setattr(crowds, "KEPT_DOCUMENT", 200)
    large = new("p0", prompt={"1": {"class_type": "X", "inputs": {"text": "x" * 300}}}, secrets={"k": SECRET})
    await storage.enqueue(large, limit=10)
    transactions = Counted(database, monkeypatch)
    transactions.fails = iter(["before", "after", ""]).__next__
    for _ in range(2):  # it waits again, whatever went wrong
        with pytest.raises(DatabaseError):
            await storage.claim_next(A)
        transactions.fails = lambda: ""
        assert (await storage.pending_count(A), await storage.remaining(A)) == (1, 1)
        assert [row.prompt_id for row in await storage.pending(A)] == ["p0"]
        transactions.fails = lambda: "after"
    transactions.fails = lambda: ""
    assert await storage.claim_next(A) == await_of(large, number=0)
    assert [name(row) for row in await storage.running(A)] == ["p0"]


async def test_what_somebody_deleted_from_under_the_line_is_passed_over(
    storage: SqlStorage, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crowds, "KEPT_DOCUMENT", 0)
    for number in range(2):
        await storage.enqueue(new(f"p{number}"), limit=10)
    async with database.write() as connection:
        await connection.execute(sa.delete(queue_table).where(_q.prompt_id == "p0"))
    assert name(await storage.claim_next(A)) == "p1"
    assert (await storage.pending_count(A), await storage.remaining(A)) == (0, 1)


async def test_what_runs_for_a_while_is_noted_in_the_table(
    storage: SqlStorage, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "NOTE_S", 0.0)
    for number in range(2):
        await storage.enqueue(new(f"p{number}"), limit=10)
        await storage.claim_next(A)
    with anyio.fail_after(60):
        while await noted(database) != ["p0", "p1"]:
            pass
    assert await SqlStorage(database).requeue_running() == 2


async def test_a_note_that_fails_is_made_by_the_next(
    storage: SqlStorage, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        await storage.enqueue(new(f"p{number}"), limit=10)
        await storage.claim_next(A)
    transactions = Counted(database, monkeypatch)
    transactions.fails = lambda: "before"
    with pytest.raises(DatabaseError):
        await storage.running(A)
    transactions.fails = lambda: ""
    await storage.finish(A, "p1", entry("p1"))
    assert [row.prompt_id for row in await storage.running(A)] == ["p0", "p2"]
    assert await noted(database) == ["p0", "p2"]


async def test_who_asks_while_a_note_is_being_written_sees_what_it_says(storage: SqlStorage) -> None:
    await storage.enqueue(new("p0"), limit=10)
    await storage.claim_next(A)
    answers: list[list[str | None]] = []

    async def ask() -> None:
        answers.append([name(row) for row in await storage.running(A)])

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(ask)
    assert answers == [["p0"]] * 5


async def test_a_prompt_is_removed_or_claimed_and_never_both(storage: SqlStorage) -> None:
    claimed: list[str] = []
    removed: list[str] = []

    async def claim() -> None:
        row = await storage.claim_next(A)
        if row is not None:
            claimed.append(row.prompt_id)

    async def remove(prompt_id: str) -> None:
        removed.extend(await storage.remove(A, [prompt_id]))

    for number in range(40):
        await storage.enqueue(new(f"p{number:02}"), limit=100)
    async with anyio.create_task_group() as group:
        for number in range(40):
            group.start_soon(remove, f"p{number:02}")
            group.start_soon(claim)
    while (row := await storage.claim_next(A)) is not None:
        claimed.append(row.prompt_id)
    assert sorted(claimed + removed) == [f"p{number:02}" for number in range(40)]
    assert claimed
    assert removed
    assert sorted(row.prompt_id for row in await storage.running(A)) == sorted(claimed)


async def test_a_claim_that_was_noted_and_given_up_waits_again(
    storage: SqlStorage, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crowds, "KEPT_DOCUMENT", 0)
    for number in range(2):
        await storage.enqueue(new(f"p{number}"), limit=10)

    async def noted_and_lost(row: int) -> None:
        await storage.note_running()
        raise DatabaseError(f"row {row} cannot be read")

    with monkeypatch.context() as broken:
        broken.setattr(storage, "_content", noted_and_lost)
        with pytest.raises(DatabaseError):
            await storage.claim_next(A)
    assert await noted(database) == ["p0"]
    assert [row.prompt_id for row in await storage.pending(A)] == ["p0", "p1"]
    assert await storage.running(A) == []
    assert (await storage.pending_count(A), await storage.remaining(A)) == (2, 2)
    assert [name(await storage.claim_next(A)) for _ in range(2)] == ["p0", "p1"]


@pytest.mark.parametrize("seed", range(4))
async def test_the_line_is_the_tables_whatever_fails(
    storage: SqlStorage, database: Database, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Transactions fail before or after they are done; what can be seen is right all the same, and so is the order."""
    random = Random(seed)
    transactions = Counted(database, monkeypatch)
    monkeypatch.setattr(crowds, "KEPT_DOCUMENT", 200 if seed % 2 else 0)
    for step in range(150):
        tenant = random.choice((A, B))
        before = [row.prompt_id for row in await storage.pending(tenant)]
        ran = [row.prompt_id for row in await storage.running(tenant)]
        action = random.choice(("put", "put", "claim", "finish", "remove"))
        transactions.fails = lambda: random.choice(("before", "after", "", "", ""))
        try:
            if action == "put":
                number = random.choice((None, float(step)))
                extra = {"client_id": random.choice(("x", "y"))}
                await storage.enqueue(
                    new(f"p{step:03}", tenant, number=number, front=step % 3 == 0, extra_data=extra),
                    limit=100,
                )
            elif action == "claim":
                row = await storage.claim_next(tenant)
                assert name(row) == (before[0] if before else None)
            elif action == "finish" and ran:
                await storage.finish(tenant, ran[0], entry(ran[0]))
            elif action == "remove":
                await storage.remove(tenant, random.sample(before, len(before) // 3))
        except DatabaseError:
            pass
        transactions.fails = lambda: ""
        pending = [row.prompt_id for row in await storage.pending(tenant)]
        running = [row.prompt_id for row in await storage.running(tenant)]
        assert await storage.pending_count(tenant) == len(pending)
        assert await storage.remaining(tenant) == len(pending) + len(running)
        assert not set(pending) & set(running)
    for tenant in (A, B):
        left = [row.prompt_id for row in await storage.pending(tenant)]
        assert [name(await storage.claim_next(tenant)) for _ in left] == left


async def test_a_queue_that_was_there_before_is_claimed_in_the_order_that_memory_knows(
    storage: SqlStorage, database: Database
) -> None:
    memory = MemoryStorage()
    for each in (storage, memory):
        for number in range(6):
            extra = {"client_id": f"c{number % 2}"}
            await each.enqueue(new(f"p{number}", front=number % 3 == 0, extra_data=extra), limit=10)
    await storage.claim_next(A)
    await storage.note_running()
    await memory.claim_next(A)
    again = SqlStorage(database)
    assert await again.requeue_running() == await memory.requeue_running() == 1
    for busy in ({"c0"}, set(), {"c1"}, set(), {"c0", "c1"}, set()):
        assert name(await again.claim_next(A, busy)) == name(await memory.claim_next(A, busy))
    assert await again.running(A) == await memory.running(A)


def test_documents_are_kept_within_one_measure_for_all_tenants() -> None:
    room = Room(100)
    one, other = Crowd(room=room), Crowd(room=room)
    assert one.keeps(b"x" * 60, None)
    assert not other.keeps(b"x" * 30, b"x" * 11)
    assert other.keeps(b"x" * 30, b"x" * 10)
    waiting = Waiting(0, "p", 1, None, True, 60, False, 0, b"x" * 60)
    one.join(waiting)
    one.leave(waiting)
    assert room.left == 60
    assert one.first(()) is None

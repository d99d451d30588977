"""Whole transactions in the writer's thread: together on the disk, apart in what fails."""

from __future__ import annotations

import asyncio
import resource
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest
import sqlalchemy as sa
from anyio.lowlevel import checkpoint
from sqlalchemy.exc import IntegrityError

from engine import queue
from engine.database import Database, DatabaseError, sqlite_url
from engine.errors import QueueFullError
from engine.prepared import Prepared
from engine.queue import SqlStorage
from engine.tables import counters_table
from policies import TenantId
from sandbox import FastPath, take_fast_paths
from tests.unit.storage.test_queue import A, B, new

pytestmark = pytest.mark.anyio

WITHOUT = [
    pytest.param(set(), id="all"),
    pytest.param({FastPath.ONE_STEP_COMMITS}, id="committed by a statement"),
    pytest.param({FastPath.PLAIN_STATEMENTS}, id="by SQLAlchemy"),
]
"""Ways that are not taken."""


def add(tenant: str, number: int = 1) -> sa.Insert:
    return sa.insert(counters_table).values(tenant=tenant, next_number=number)


async def tenants(database: Database) -> set[str]:
    async with database.read() as connection:
        return set((await connection.execute(sa.select(counters_table.c.tenant))).scalars())


@pytest.mark.usefixtures("every_fast_path")
async def test_what_waits_while_a_commit_is_under_way_goes_together_and_one_failure_takes_nobody_along(
    database: Database,
) -> None:
    failed: list[type[BaseException]] = []
    seen: list[object] = []  # kept, so that no two have one identity

    async def one(name: str, statements: list[sa.Insert]) -> None:
        def work(connection: sa.Connection) -> None:
            for statement in statements:
                connection.execute(statement)
            seen.append(connection.get_transaction())

        try:
            await database.transact(work)
        except IntegrityError as error:
            failed.append(type(error))

    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(one, f"t{number}", [add(f"t{number}")])
        group.start_soon(one, "twice", [add("half"), add("t0")])
    assert failed == [IntegrityError]
    assert await tenants(database) == {f"t{number}" for number in range(20)}
    assert len({id(each) for each in seen}) < 20, "each of them went to the disk alone"


async def test_a_transaction_alone_is_rolled_back_whole(database: Database) -> None:
    def work(connection: sa.Connection) -> None:
        connection.execute(add("half"))
        raise LookupError("on purpose")

    with pytest.raises(LookupError, match="on purpose"):
        await database.transact(work)
    assert await tenants(database) == set()
    await database.transact(lambda connection: connection.execute(add("next")))
    assert await tenants(database) == {"next"}


async def test_only_what_may_be_lost_in_a_power_cut_does_not_wait_for_the_disk(database: Database) -> None:
    def level(connection: sa.Connection) -> int:
        return int(connection.exec_driver_sql("PRAGMA synchronous").scalar_one())

    full, normal = 2, 1
    assert await database.transact(level) == full
    assert await database.transact(level, durable=False) == normal
    assert await database.transact(level) == full


async def test_whoever_is_cancelled_waits_until_it_is_known_whether_it_was_stored(database: Database) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await database.transact(lambda connection: connection.execute(add("stored")))
    assert await tenants(database) == {"stored"}


async def test_whoever_is_cancelled_meanwhile_hears_the_outcome_and_then_stops(database: Database) -> None:
    begun, go_on = threading.Event(), threading.Event()
    heard: list[object] = []

    def work(connection: sa.Connection) -> str:
        begun.set()
        assert go_on.wait(60)
        connection.execute(add("stored"))
        return "stored"

    async def wait() -> None:
        heard.append(await database.transact(work))
        await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.to_thread.run_sync(begun.wait, 60)
        tasks.cancel_scope.cancel()
        asyncio.get_running_loop().call_soon(go_on.set)
    assert heard == ["stored"]
    assert await tenants(database) == {"stored"}


async def test_a_task_that_is_ended_hears_nothing_and_what_it_asked_for_is_done(database: Database) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work(connection: sa.Connection) -> None:
        begun.set()
        assert go_on.wait(60)
        connection.execute(add("stored"))

    task = asyncio.create_task(database.transact(work))
    await anyio.to_thread.run_sync(begun.wait, 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    await database.transact(lambda connection: connection.execute(add("next")))
    assert await tenants(database) == {"stored", "next"}


@pytest.mark.usefixtures("every_fast_path")
@pytest.mark.parametrize("without", WITHOUT)
async def test_statements_of_both_ways_are_one_transaction(
    database: Database, without: set[FastPath]
) -> None:
    take_fast_paths(set(FastPath) - without)
    insert = Prepared(sa.insert(counters_table), columns=("tenant", "next_number"))

    def both(connection: sa.Connection, name: str) -> None:
        insert.change(connection, tenant=f"{name} by the driver", next_number=1)
        connection.execute(add(f"{name} by SQLAlchemy"))

    def fails(connection: sa.Connection) -> None:
        both(connection, "undone")
        raise LookupError

    with pytest.raises(LookupError):
        await database.transact(fails)
    await database.transact(lambda connection: both(connection, "alone"))
    assert await tenants(database) == {"alone by the driver", "alone by SQLAlchemy"}

    async def fail() -> None:
        with pytest.raises(LookupError):
            await database.transact(fails)

    async with anyio.create_task_group() as tasks:
        for number in range(6):
            tasks.start_soon(
                database.transact, lambda connection, number=number: both(connection, f"{number}")
            )
            tasks.start_soon(fail)
    assert len(await tenants(database)) == 14


@pytest.mark.usefixtures("every_fast_path")
@pytest.mark.parametrize("without", WITHOUT)
async def test_a_full_disk_costs_the_transaction_that_met_it_and_no_other(
    database: Database, without: set[FastPath]
) -> None:
    take_fast_paths(set(FastPath) - without)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def meets_it(connection: sa.Connection) -> None:
        connection.execute(add("lost"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))  # what is written is written by the COMMIT

    try:
        with pytest.raises(DatabaseError):
            await database.transact(meets_it)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    await database.transact(lambda connection: connection.execute(add("next")))
    assert await tenants(database) == {"next"}


async def test_closing_does_not_wait_for_ever_for_somebody_who_does_not_end(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.database.CLOSE_S", 0.01)
    database = Database(url)
    await database.__aenter__()
    turn = database._writer
    assert turn is not None
    async with turn:
        asked = asyncio.create_task(database.transact(lambda connection: None))
        await checkpoint()
        with anyio.fail_after(60):
            await database.__aexit__(None, None, None)
    with pytest.raises(RuntimeError, match="closed"):
        await asked


async def test_a_process_that_may_have_no_more_threads_says_so_to_those_who_wait(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with anyio.fail_after(60), pytest.raises(RuntimeError, match="new thread"):
            await database.transact(lambda connection: None)
    await database.transact(lambda connection: connection.execute(add("next")))
    assert await tenants(database) == {"next"}


async def test_what_was_asked_for_before_the_end_is_done(url: str) -> None:
    async with Database(url) as database:
        asked = [
            asyncio.create_task(
                database.transact(lambda connection, number=number: connection.execute(add(f"t{number}")))
            )
            for number in range(100)
        ]
        await checkpoint()
    assert all(task.done() for task in asked)
    async with Database(url) as database:
        assert len(await tenants(database)) == 100


async def test_a_database_that_is_closed_says_so(url: str) -> None:
    async with Database(url) as database:
        pass
    with pytest.raises(DatabaseError, match="closed"):
        await database.transact(lambda connection: None)


async def test_writers_of_both_kinds_take_turns(database: Database) -> None:
    async def by_statement(name: str) -> None:
        async with database.write() as connection:
            await connection.execute(add(name))

    async def whole(name: str) -> None:
        await database.transact(lambda connection: connection.execute(add(name)))

    async with anyio.create_task_group() as group:
        for number in range(10):
            group.start_soon(by_statement, f"s{number}")
            group.start_soon(whole, f"w{number}")
    assert len(await tenants(database)) == 20


# -- and the queue that counts in memory what it stores so -----------------------------------------------------------


async def test_of_many_that_arrive_together_no_more_are_queued_than_may_wait(storage: SqlStorage) -> None:
    refused = []

    async def send(number: int) -> None:
        try:
            await storage.enqueue(new(f"p{number}"), limit=5)
        except QueueFullError:
            refused.append(number)

    async with anyio.create_task_group() as group:
        for number in range(12):
            group.start_soon(send, number)
    assert len(refused) == 7
    assert len(await storage.pending(A)) == await storage.pending_count(A) == 5


@pytest.mark.parametrize("step", ["claim_next", "finish", "remove"])
async def test_the_counts_are_the_databases_after_an_answer_of_it_is_lost(
    database: Database, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    if step == "claim_next":  # remembered, it asks nothing
        monkeypatch.setattr(queue, "takes", lambda path: False)
    storage = SqlStorage(database)
    for number in range(3):
        await storage.enqueue(new(f"p{number}"), limit=10)
    await storage.claim_next(A)
    transact = database.transact

    async def stored_and_not_heard_of(work: Any, **how: bool) -> Any:
        monkeypatch.undo()
        await transact(work, **how)
        raise TimeoutError

    monkeypatch.setattr(database, "transact", stored_and_not_heard_of)
    steps = {
        "claim_next": lambda: storage.claim_next(A),
        "finish": lambda: storage.finish(A, "p0", {"prompt": [0, "p0", {}, {}, []]}),
        "remove": lambda: storage.remove(A, None),
    }
    with pytest.raises(TimeoutError):
        await steps[step]()
    pending, running = len(await storage.pending(A)), len(await storage.running(A))
    assert (pending, running) == {"claim_next": (1, 2), "finish": (2, 0), "remove": (0, 1)}[step]
    assert await storage.pending_count(A) == pending
    assert await storage.remaining(A) == pending + running


async def test_the_counts_follow_the_rows_through_a_prompts_whole_life(storage: SqlStorage) -> None:
    async def counted(tenant: TenantId) -> tuple[int, int]:
        pending, running = len(await storage.pending(tenant)), len(await storage.running(tenant))
        assert await storage.pending_count(tenant) == pending
        assert await storage.remaining(tenant) == pending + running
        assert (tenant in await storage.waiting_tenants()) is (pending > 0)
        return pending, running

    for number in range(4):
        await storage.enqueue(new(f"p{number}"), limit=10)
    assert (await counted(A), await counted(B)) == ((4, 0), (0, 0))
    await storage.claim_next(A)
    assert await counted(A) == (3, 1)
    await storage.finish(A, "p0", {"outputs": {}})
    assert await counted(A) == (3, 0)
    await storage.remove(A, ["p2"])
    assert await counted(A) == (2, 0)
    await storage.claim_next(A)
    assert await storage.requeue_running() == 1
    assert await counted(A) == (2, 0)
    await storage.remove(A, None)
    assert await counted(A) == (0, 0)


async def test_a_commit_that_fails_leaves_counts_that_the_next_look_corrects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Database(sqlite_url(tmp_path / "ringfence.db")) as database:
        storage = SqlStorage(database)
        await storage.enqueue(new("p0"), limit=10)

        async def broken(work: object, **how: bool) -> None:
            raise DatabaseError("the disk is full")

        with monkeypatch.context() as patch:
            patch.setattr(database, "transact", broken)
            with pytest.raises(DatabaseError):
                await storage.enqueue(new("p1"), limit=10)
        assert await storage.pending_count(A) == len(await storage.pending(A)) == 1

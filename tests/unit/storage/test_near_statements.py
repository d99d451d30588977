"""Short transactions: their statements on the event loop, their commit in the writer's thread."""

from __future__ import annotations

import resource
import sqlite3
import threading
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from engine import group_commit, history
from engine.database import Database, DatabaseError
from engine.group_commit import MOST_SHORT, SHORT_BYTES
from engine.prepared import Prepared
from engine.queue import SqlStorage
from engine.tables import counters_table
from engine.writer_connection import WriterConnection
from sandbox import FastPath, take_fast_paths
from tests.unit.storage.test_group_commit import add, tenants
from tests.unit.storage.test_queue import A, new

pytestmark = pytest.mark.anyio

INSERT = Prepared(sa.insert(counters_table), columns=("tenant", "next_number"))


@pytest.fixture
async def near(database: Database, every_fast_path: None) -> Database:
    """A database whose writer is there: the first transaction opens it, off the event loop."""
    await database.transact(lambda _: None)
    return database


def short(database: Database, work: Any) -> Any:
    return database.transact(work, is_short=True)


async def thread_of(database: Database, *, is_short: bool) -> int:
    return await database.transact(lambda _: threading.get_ident(), is_short=is_short)


async def test_a_short_one_is_run_where_it_is_asked_for_and_a_long_one_is_not(near: Database) -> None:
    here = threading.get_ident()
    assert await thread_of(near, is_short=True) == here
    assert await thread_of(near, is_short=False) != here


async def test_the_commit_is_the_threads(near: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    commit, seen = WriterConnection.commit, []

    def noticed(writer: WriterConnection, outcomes: list[Any]) -> list[Any]:
        seen.append(threading.get_ident())
        return commit(writer, outcomes)

    monkeypatch.setattr(WriterConnection, "commit", noticed)
    await short(near, lambda connection: INSERT.change(connection, tenant="a", next_number=1))
    assert len(seen) == 1
    assert seen[0] != threading.get_ident()
    assert await tenants(near) == {"a"}


@pytest.mark.usefixtures("every_fast_path")
@pytest.mark.parametrize("left_out", [FastPath.NEAR_STATEMENTS, FastPath.PLAIN_STATEMENTS])
async def test_without_it_everything_is_the_threads(database: Database, left_out: FastPath) -> None:
    take_fast_paths(set(FastPath) - {left_out})
    await database.transact(lambda _: None)
    assert await thread_of(database, is_short=True) != threading.get_ident()


async def test_what_fails_takes_nothing_else_with_it(near: Database) -> None:
    failed = []

    async def one(name: str, *, twice: bool = False) -> None:
        def work(connection: sa.Connection) -> None:
            INSERT.change(connection, tenant=name, next_number=1)
            if twice:
                connection.execute(add("t0"))

        try:
            await short(near, work)
        except IntegrityError:
            failed.append(name)

    async with anyio.create_task_group() as group:
        for number in range(2 * MOST_SHORT + 3):
            group.start_soon(one, f"t{number}")
        group.start_soon(lambda: one("half", twice=True))
    assert failed == ["half"]
    assert await tenants(near) == {f"t{number}" for number in range(2 * MOST_SHORT + 3)}


async def test_alone_it_is_rolled_back_whole_and_the_next_is_a_transaction_of_its_own(near: Database) -> None:
    def work(connection: sa.Connection) -> None:
        connection.execute(add("half"))
        raise LookupError("on purpose")

    with pytest.raises(LookupError, match="on purpose"):
        await short(near, work)
    await short(near, lambda connection: connection.execute(add("next")))
    assert await tenants(near) == {"next"}


async def test_short_and_long_ones_are_done_in_the_order_of_asking(near: Database) -> None:
    done: list[int] = []
    async with anyio.create_task_group() as group:
        for number in range(12):
            group.start_soon(
                lambda number=number: near.transact(
                    lambda _: done.append(number), is_short=number % 3 != 0, durable=number % 2 == 0
                )
            )
    assert done == list(range(12))


async def test_each_waits_for_the_disk_that_is_to_whatever_was_before(near: Database) -> None:
    def level(connection: sa.Connection) -> int:
        return int(connection.exec_driver_sql("PRAGMA synchronous").scalar_one())

    full, normal = 2, 1
    assert await near.transact(level, durable=False) == normal
    assert await short(near, level) == full
    assert await near.transact(level, durable=False, is_short=True) == normal
    assert await near.transact(level) == full


async def test_a_full_disk_costs_what_met_it_and_no_other(near: Database) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def meets_it(connection: sa.Connection) -> None:
        INSERT.change(connection, tenant="lost", next_number=1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))  # what is written is written by the COMMIT

    try:
        with pytest.raises(DatabaseError):
            await short(near, meets_it)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    await short(near, lambda connection: INSERT.change(connection, tenant="next", next_number=1))
    assert await tenants(near) == {"next"}


async def test_another_process_that_writes_is_waited_for_but_not_by_the_event_loop(
    near: Database, url: str
) -> None:
    other = sqlite3.connect(Path(url.partition("///")[2]), isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    here, where = threading.get_ident(), []
    served = 0
    async with anyio.create_task_group() as group:
        group.start_soon(
            short,
            near,
            lambda connection: (
                where.append(threading.get_ident()),
                INSERT.change(connection, tenant="a", next_number=1),
            ),
        )
        for _ in range(20):  # the loop goes on
            await anyio.lowlevel.checkpoint()
            served += 1
        assert not where
        await anyio.to_thread.run_sync(other.rollback)
    assert served == 20
    assert where[0] != here
    assert await tenants(near) == {"a"}
    await short(near, lambda connection: where.append(threading.get_ident()))
    assert where[1] == here
    other.close()


# -- which of the queue's are short ----------------------------------------------------------------------------------


async def run(storage: SqlStorage, prompt_id: str, *, nbytes: int = 0, entry_bytes: int = 0) -> list[bool]:
    """A prompt's whole life; whether its transactions were short."""
    database, seen = storage._database, []
    transact = database.transact

    async def noticed(work: Any, **how_to: bool) -> Any:
        seen.append(how_to.get("is_short", False))
        return await transact(work, **how_to)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "transact", noticed)
        asked = new(prompt_id, A)
        asked.prompt["1"] = {"class_type": "X", "inputs": {"text": "x" * nbytes}}
        await storage.enqueue(asked, limit=10)
        assert await storage.claim_next(A) is not None
        await storage.finish(A, prompt_id, {"outputs": {}, "text": "x" * entry_bytes})
    return seen


@pytest.fixture
async def stored(near: Database) -> SqlStorage:
    storage = SqlStorage(near, history_limit=200)
    await run(storage, "first")  # the history is counted
    return storage


async def test_a_small_prompt_is_short_on_both_its_ways(stored: SqlStorage) -> None:
    assert await run(stored, "small") == [True, True]


async def test_a_large_document_is_not(stored: SqlStorage) -> None:
    assert await run(stored, "large", nbytes=SHORT_BYTES) == [False, False, False]  # it is read again to run
    assert await run(stored, "much to say", entry_bytes=SHORT_BYTES) == [True, False]


async def test_replacing_a_large_entry_is_not(stored: SqlStorage) -> None:
    await run(stored, "again", entry_bytes=2 * SHORT_BYTES)
    assert await run(stored, "again") == [True, True, False], "it was tried, and then done the long way"
    assert await run(stored, "again") == [True, True]
    assert (await stored.history_entry(A, "again"))["text"] == ""
    assert await stored.remaining(A) == 0


async def test_a_full_history_drops_a_hundredth_more_than_need_be_at_once(stored: SqlStorage) -> None:
    long_ways = 0
    for number in range(206):
        long_ways += [*await run(stored, f"p{number}")][1] is False
        assert len(await stored.history(A)) <= 200
    assert long_ways == 3  # with the 201st, the 204th and the 207th
    assert list(await stored.history(A))[-1] == "p205"


async def test_what_has_to_go_for_several_that_end_together_goes_in_the_thread(
    near: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, places = SqlStorage(near, history_limit=4), []
    await run(storage, "first")
    for number in range(4):
        await storage.enqueue(new(f"p{number}", A), limit=10)
        assert await storage.claim_next(A) is not None
    change = history._FORGET_UNTIL.change

    def noticed(connection: sa.Connection, **values: Any) -> int:
        places.append(threading.get_ident())
        return change(connection, **values)

    monkeypatch.setattr(history._FORGET_UNTIL, "change", noticed)
    turn = near._writer
    assert turn is not None
    async with anyio.create_task_group() as group, turn:  # each of them finds that it still fits
        for number in range(4):
            group.start_soon(storage.finish, A, f"p{number}", {"outputs": {}})
        await anyio.wait_all_tasks_blocked()
    assert len(places) == 1
    assert threading.get_ident() not in places
    assert list(await storage.history(A)) == ["p0", "p1", "p2", "p3"]
    assert await storage.remaining(A) == 0


async def test_numbers_go_on_after_a_failure_and_begin_again_for_a_tenant_that_is_new(
    stored: SqlStorage, near: Database
) -> None:
    async def number(prompt_id: str) -> float:
        queued = await stored.enqueue(new(prompt_id, A), limit=10)
        await stored.remove(A, None)
        return queued.number

    assert [await number("a"), await number("b")] == [1, 2]
    async with near.write() as connection:  # as when the tenant is removed
        await connection.execute(sa.delete(counters_table))
    assert [await number("a"), await number("b")] == [0, 1]


def test_what_short_ones_of_a_batch_change_fits_what_sqlite_keeps_before_it_writes() -> None:
    assert group_commit.MOST_SHORT * group_commit.SHORT_BYTES <= 1024 * 1024

"""Statements that go to SQLite's driver as they are say and do what they do by SQLAlchemy."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from engine import history, queue
from engine.database import Database, DatabaseError
from engine.prepared import PLAIN, Prepared, commit_plainly, run_plainly
from engine.queue import SqlStorage
from engine.tables import queue_table
from sandbox import FastPath, take_fast_paths
from tests.unit.storage.test_queue import A, B, new

pytestmark = pytest.mark.anyio

_q = queue_table.c
ADD = Prepared(
    sa.insert(queue_table),
    columns=("tenant", "prompt_id", "number", "counted", "created_ms", "document", "secrets"),
)
FIND = Prepared(
    sa.select(_q.tenant, _q.number, _q.counted, _q.claimed, _q.document, _q.secrets)
    .where(_q.prompt_id == sa.bindparam("named"))
    .limit(1)
)
CLAIM = Prepared(
    sa.update(queue_table).where(_q.prompt_id == sa.bindparam("named")).values(claimed=sa.bindparam("place"))
)
ROW = {"tenant": "a", "prompt_id": "p", "number": -1.5, "counted": True, "created_ms": 7, "secrets": None}


def ways() -> list[Any]:
    return [
        pytest.param(frozenset(FastPath), id="plainly"),
        pytest.param(frozenset(FastPath) - {FastPath.ONE_STEP_COMMITS}, id="committed by a statement"),
        pytest.param(frozenset(FastPath) - {FastPath.PLAIN_STATEMENTS}, id="by SQLAlchemy"),
    ]


@pytest.mark.usefixtures("every_fast_path")
@pytest.mark.parametrize("way", ways())
async def test_what_is_put_in_comes_out_and_changes_are_counted(
    database: Database, way: frozenset[FastPath]
) -> None:
    take_fast_paths(way)

    def work(connection: sa.Connection) -> tuple[Any, ...]:
        added = ADD.change(connection, document=b"\x00\xff", **ROW)
        changed = CLAIM.change(connection, named="p", place=2**40)
        missed = CLAIM.change(connection, named="x", place=1)
        found = FIND.first(connection, named="p")
        assert FIND.first(connection, named="x") is None
        return (
            added,
            changed,
            missed,
            tuple(found or ()),
            [tuple(row) for row in FIND.all(connection, named="p")],
        )

    added, changed, missed, found, every = await database.transact(work)
    assert (added, changed, missed) == (1, 1, 0)
    assert found == ("a", -1.5, True, 2**40, b"\x00\xff", None)
    assert every == [found]


@pytest.mark.usefixtures("every_fast_path")
@pytest.mark.parametrize("way", ways())
async def test_errors_are_the_same_and_no_value_stands_in_one(
    database: Database, way: frozenset[FastPath]
) -> None:
    take_fast_paths(way)
    await database.transact(lambda connection: ADD.change(connection, document=b"", **ROW))
    secret = {**ROW, "secrets": b"hush"}
    with pytest.raises(sa.exc.IntegrityError):
        await database.transact(lambda connection: ADD.change(connection, document=b"", **secret))
    if FastPath.PLAIN_STATEMENTS in way:
        with pytest.raises(sa.exc.IntegrityError) as caught:
            await database.transact(lambda connection: ADD.change(connection, document=b"", **secret))
        assert "hush" not in str(caught.value)
    gone = Prepared(sa.text("select 1 from gone"))
    with pytest.raises(DatabaseError):
        await database.transact(lambda connection: gone.all(connection))


async def test_a_history_is_counted_only_when_it_may_be_full(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = 0
    size = history.size

    def count(connection: sa.Connection, tenant: Any) -> tuple[int, int]:
        nonlocal counted
        counted += 1
        return size(connection, tenant)

    monkeypatch.setattr(history, "size", count)
    storage = SqlStorage(database, history_limit=20)
    for number in range(15):
        await storage.finish(A, f"p{number}", {})
    assert counted == 1
    await storage.delete_history(A, [f"p{number}" for number in range(10)])
    for number in range(15, 40):
        await storage.finish(A, f"p{number}", {})
    await storage.finish(A, "p39", {"again": True})
    assert list(await storage.history(A)) == [f"p{number}" for number in range(20, 40)]
    assert counted < 20


async def test_what_was_dropped_by_an_end_that_was_not_stored_is_counted_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = SqlStorage(database, history_bytes=lambda _: 5000)
    for number in range(4):
        await storage.finish(A, f"p{number}", {"text": "x" * 1000})
    append = history.append

    def fail(*arguments: Any, **named: Any) -> tuple[int, int]:
        append(*arguments, **named)
        raise sa.exc.OperationalError("", None, OSError("the disk is full"))

    with monkeypatch.context() as broken:
        broken.setattr(history, "append", fail)
        with pytest.raises(DatabaseError):
            await storage.finish(A, "large", {"text": "x" * 4900})  # drops all others, and is undone
    await storage.finish(A, "p4", {"text": "x" * 1000})
    assert list(await storage.history(A)) == ["p1", "p2", "p3", "p4"]


async def test_places_of_claims_go_on_where_another_left_them(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "takes", lambda path: False)  # two that share a database remember nothing
    first, second = SqlStorage(database), SqlStorage(database)
    for number in range(4):
        await first.enqueue(new(f"p{number}", A if number % 2 else B), limit=10)
    await first.claim_next(A)
    await second.claim_next(B)
    await second.claim_next(A)
    assert [row.prompt_id for row in await second.running(A)] == ["p1", "p3"]
    async with database.read() as connection:
        places = (await connection.execute(sa.select(_q.claimed).where(_q.claimed.is_not(None)))).scalars()
        assert sorted(places) == [1, 2, 3]


def test_a_commit_that_fails_raises_what_sqlalchemy_would(tmp_path: Path) -> None:
    raw = sqlite3.connect(tmp_path / "x.db")
    raw.executescript(
        "PRAGMA foreign_keys=ON; CREATE TABLE a (n INTEGER PRIMARY KEY);"
        "CREATE TABLE b (n INTEGER REFERENCES a DEFERRABLE INITIALLY DEFERRED);"
    )
    with sa.create_engine("sqlite://").connect() as bare:
        connection = bare.execution_options(**{PLAIN: raw})
        run_plainly(connection, "BEGIN IMMEDIATE")
        run_plainly(connection, "INSERT INTO b VALUES (7)")
        with pytest.raises(sa.exc.IntegrityError, match="FOREIGN KEY"):
            commit_plainly(connection)
        assert raw.in_transaction
        run_plainly(connection, "INSERT INTO a VALUES (7)")
        commit_plainly(connection)
    assert not raw.in_transaction
    assert raw.execute("SELECT n FROM b").fetchall() == [(7,)]
    raw.close()

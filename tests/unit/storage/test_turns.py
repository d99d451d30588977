"""Claiming while some clients are busy: the database and the memory decide alike."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from random import Random

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine

import engine.database
from engine.database import Database
from engine.queue import SqlStorage
from engine.storage import NewPrompt, QueuedPrompt, Storage
from engine.testing import MemoryStorage
from policies import TenantId

pytestmark = pytest.mark.anyio

A, B = TenantId("a"), TenantId("b")
ODD = ("c" * 256, "C" * 256, "\ud800", "nul\0", "%", "' or 1=1 --", "é", "e\u0301", " ", "None")


@pytest.fixture(params=["database", "memory"])
def any_storage(request: pytest.FixtureRequest, storage: SqlStorage) -> Storage:
    return storage if request.param == "database" else MemoryStorage()


async def put(storage: Storage, prompt_id: str, client: str | None, number: float | None = None) -> None:
    extra = {} if client is None else {"client_id": client}
    await storage.enqueue(NewPrompt(A, prompt_id, {}, extra, [], number), limit=1000)


def name(row: QueuedPrompt | None) -> str | None:
    return None if row is None else row.prompt_id


async def test_prompts_of_busy_clients_are_passed_over_and_the_first_of_the_rest_is_taken(
    any_storage: Storage,
) -> None:
    for prompt_id, client in (("p0", "x"), ("p1", "y"), ("p2", "x"), ("p3", None), ("p4", "z")):
        await put(any_storage, prompt_id, client)
    assert name(await any_storage.claim_next(A, {"x", "y"})) == "p3"
    assert name(await any_storage.claim_next(A, {"x", "y"})) == "p4"
    assert await any_storage.claim_next(A, {"x", "y"}) is None
    assert name(await any_storage.claim_next(A, {"x"})) == "p1"
    assert name(await any_storage.claim_next(A)) == "p0"
    assert [row.prompt_id for row in await any_storage.pending(A)] == ["p2"]


async def test_a_number_goes_before_the_order_of_arrival_among_those_that_may_run(
    any_storage: Storage,
) -> None:
    await put(any_storage, "late", "x", 9.0)
    await put(any_storage, "busy", "y", -9.0)
    await put(any_storage, "soon", "x", 1.0)
    assert name(await any_storage.claim_next(A, ["y"])) == "soon"


async def test_any_text_is_a_client_id_and_no_two_are_the_same(any_storage: Storage) -> None:
    for place, client in enumerate(ODD):
        await put(any_storage, f"p{place}", client)
    for place, client in enumerate(ODD):
        assert name(await any_storage.claim_next(A, set(ODD) - {client})) == f"p{place}"


async def test_what_was_claimed_says_whose_it_is(any_storage: Storage) -> None:
    for prompt_id, client in (("p0", "x"), ("p1", None), ("p2", "")):
        await put(any_storage, prompt_id, client)
    rows = [await any_storage.claim_next(A) for _ in range(3)]
    assert [row.client_id for row in rows if row] == ["x", None, None]


@pytest.mark.parametrize("seed", range(3))
async def test_database_and_memory_claim_the_same_whatever_happens(storage: SqlStorage, seed: int) -> None:
    random, memory = Random(seed), MemoryStorage()
    clients = ("x", "y", None, "\ud800")
    for step in range(120):
        action = random.choice(("put", "put", "claim", "claim", "finish", "remove", "again"))
        tenant, client = random.choice((A, B)), random.choice(clients)
        number = random.choice((None, None, 0.5, float(step)))
        busy = [one for one in clients if one is not None and random.random() < 0.4]
        answers = []
        for one in (storage, memory):
            if action == "put":
                extra = {"client_id": client}
                new = NewPrompt(tenant, f"p{step:03}", {}, extra, [], number, front=step % 5 == 0)
                answers.append(name(await one.enqueue(new, limit=1000)))
            elif action == "claim":
                answers.append(name(await one.claim_next(tenant, busy)))
            elif action == "finish":
                running = await one.running(tenant)
                for row in running[:1]:
                    await one.finish(tenant, row.prompt_id, {})
                answers.append(running)
            elif action == "remove":
                answers.append(await one.remove(tenant, [f"p{step - 3:03}"]))
            elif step % 10 == 0:
                answers.append(await one.requeue_running())
        assert not answers or answers[0] == answers[1], (step, action)
        for owner in (A, B):
            assert await storage.pending(owner) == await memory.pending(owner)


async def test_the_index_finds_the_next_prompt_without_sorting(
    database: Database, storage: SqlStorage, tmp_path: Path
) -> None:
    for number in range(3):
        await put(storage, f"p{number}", "x")
    with sqlite3.connect(tmp_path / "data" / "ringfence.db") as connection:
        plan = connection.execute(
            "EXPLAIN QUERY PLAN SELECT sequence, document FROM queue WHERE tenant = 'a' AND claimed IS NULL "
            "AND (client_sha256 IS NULL OR client_sha256 NOT IN ('0', '1')) ORDER BY number, prompt_id LIMIT 1"
        ).fetchall()
    connection.close()
    assert [row[3] for row in plan] == ["SEARCH queue USING INDEX queue_order (tenant=? AND claimed=?)"]


async def test_what_waited_before_the_upgrade_waits_for_nobody(url: str, tmp_path: Path) -> None:
    path = tmp_path / "data" / "ringfence.db"
    path.parent.mkdir()
    old = create_engine(f"sqlite:///{path}")
    config = Config()
    config.set_main_option("script_location", str(Path(engine.database.__file__).parent / "migrations"))
    with old.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0003")
        for number in range(2):
            connection.exec_driver_sql(
                "INSERT INTO queue (tenant, prompt_id, number, counted, created_ms, document) "
                f"VALUES ('a', 'p{number}', {number}, 1, 1, '[{{}}, {{\"client_id\": \"x\"}}, []]')"
            )
    old.dispose()
    async with Database(url) as database:
        storage = SqlStorage(database)
        assert [name(await storage.claim_next(A, {"x"})) for _ in range(2)] == ["p0", "p1"]

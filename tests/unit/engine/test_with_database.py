"""The engine over the real queue and history: what was accepted runs, also after a restart."""

from __future__ import annotations

import anyio
import pytest

from engine import Database, DuplicatePromptError, EngineLimits, SqlStorage
from engine.testing import until_ended
from policies import LOCAL_TENANT, TenantId
from tests.unit.engine.scene import Stage, prompt
from tests.unit.engine.test_engine import Gate, named

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def blocking_calls_fail():
    """Off: the database migrates on a loop of its own in a thread, where blocking is fine."""


async def test_accepted_prompts_survive_a_restart(tmp_path):
    url = f"sqlite+aiosqlite:///{tmp_path}/queue.db"
    gate = Gate()
    async with Database(url) as database:
        stage = Stage(gate.node, storage=SqlStorage(database), limits=EngineLimits(concurrency=1))
        async with stage:
            done = await stage.run(prompt(s=("Show", {"x": 1})), extra_data={"api_key_comfy_org": "secret"})
            running, pending = await stage.submit(named("running")), await stage.submit(named("pending"))
            with pytest.raises(DuplicatePromptError):
                await stage.submit(named("again"), prompt_id=running.prompt_id)
            await gate.until(1)
            snapshot = await stage.engine.queue(LOCAL_TENANT)
            assert [item.prompt_id for item in snapshot.running] == [running.prompt_id]
            assert [item.prompt_id for item in snapshot.pending] == [pending.prompt_id]
    gate.open.set()
    async with Database(url) as database:
        stage = Stage(gate.node, storage=SqlStorage(database))
        async with stage:
            for submitted in (running, pending):
                entry = await until_ended(stage.engine, LOCAL_TENANT, submitted.prompt_id)
                assert entry["status"]["completed"]
            history = await stage.engine.history(LOCAL_TENANT)
            assert next(iter(history)) == done["prompt"][1]
            assert history[done["prompt"][1]] == done
            assert "secret" not in str(history)
            assert (await stage.engine.queue(LOCAL_TENANT)).remaining == 0


async def test_prompts_of_one_client_still_run_one_after_another_when_the_host_comes_back(tmp_path):
    url, gate = f"sqlite+aiosqlite:///{tmp_path}/queue.db", Gate()
    async with Database(url) as database, Stage(gate.node, storage=SqlStorage(database)) as stage:
        for name, client in (("a0", "a"), ("a1", "a"), ("b0", "b"), ("a2", "a")):
            await stage.submit(named(name), client_id=client)
        await gate.until(2)
        assert sorted(gate.entered) == ["a0", "b0"]
    gate.entered.clear()
    async with Database(url) as database, Stage(gate.node, storage=SqlStorage(database)) as stage:
        await gate.until(2)
        assert sorted(gate.entered) == ["a0", "b0"]
        waiting = (await stage.engine.queue(LOCAL_TENANT)).pending
        gate.open.set()
        for item in waiting:
            await until_ended(stage.engine, LOCAL_TENANT, item.prompt_id)
        assert [name for name in gate.entered if name != "b0"] == ["a0", "a1", "a2"]


async def test_a_prompt_that_is_not_in_the_queue_is_in_the_history_whenever_somebody_looks(tmp_path):
    """Clients look into the queue, then into the history, and call what is in neither lost."""
    url = f"sqlite+aiosqlite:///{tmp_path}/queue.db"
    async with (
        Database(url) as database,
        Stage(storage=SqlStorage(database), limits=EngineLimits(concurrency=3)) as stage,
    ):
        left: set[str] = set()
        is_sent = False

        async def look():
            while left or not is_sent:
                known = sorted(left)
                snapshot = await stage.engine.queue(LOCAL_TENANT)
                queued = [item.prompt_id for item in (*snapshot.running, *snapshot.pending)]
                assert len(queued) == len(set(queued))
                for prompt_id in known:
                    if prompt_id not in queued:
                        assert await stage.engine.history_entry(LOCAL_TENANT, prompt_id) is not None
                        left.discard(prompt_id)

        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(look)
                for number in range(15):
                    left.add((await stage.submit(prompt(s=("Show", {"x": number})))).prompt_id)
                is_sent = True


async def test_many_prompts_of_two_tenants(tmp_path):
    async with Database(f"sqlite+aiosqlite:///{tmp_path}/queue.db") as database:
        stage = Stage(storage=SqlStorage(database))
        async with stage:
            entries = {}

            async def one(tenant, number):
                entries[tenant, number] = await stage.run(prompt(s=("Show", {"x": number})), tenant)

            async with anyio.create_task_group() as tasks:
                for number in range(10):
                    for tenant in ("a", "b"):
                        tasks.start_soon(one, TenantId(tenant), number)
            assert {key: entry["outputs"]["s"]["x"] for key, entry in entries.items()} == {
                (tenant, number): [number] for tenant in ("a", "b") for number in range(10)
            }

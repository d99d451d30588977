"""Queue, turns, interruption, restart: what ``Engine`` decides by itself."""

from __future__ import annotations

from contextlib import asynccontextmanager

import anyio
import pytest

from engine import DuplicatePromptError, EngineClosedError, EngineLimits, QueueFullError
from engine import events as ev
from engine.extension_errors import UpdateFailedError
from engine.testing import FakeNode, MemoryStorage, until_ended
from policies import LOCAL_TENANT, TenantId
from sandbox.calls import PackEvent
from tests.unit.engine.scene import Stage, prompt

pytestmark = pytest.mark.anyio

GATED = prompt(g=("Gate", {"name": "x"}), s=("Sink", {"x": ["g", 0]}))


class Gate:
    """A node that waits for the test, and says when it got there."""

    def __init__(self, extension="gate"):
        self.entered: list[str] = []
        self.open = anyio.Event()
        self.changed = anyio.Event()
        self.stopped: list[str] = []
        self.node = FakeNode(
            "Gate", self.wait, {"name": ["STRING", {}]}, extension=extension, not_idempotent=True
        )

    async def wait(self, name):
        self.entered.append(name)
        self.changed.set()
        try:
            await self.open.wait()
        except BaseException:
            self.stopped.append(name)
            raise
        return (name,)

    async def until(self, count):
        with anyio.fail_after(60):
            while len(self.entered) < count:
                self.changed = anyio.Event()
                await self.changed.wait()


@asynccontextmanager
async def gated(**fields):
    gate = Gate()
    async with Stage(gate.node, **fields) as stage:
        yield gate, stage
        gate.open.set()


def named(name):
    return prompt(g=("Gate", {"name": name}), s=("Sink", {"x": ["g", 0]}))


async def test_numbers():
    async with gated(limits=EngineLimits(concurrency=1)) as (gate, stage):
        assert (await stage.submit(GATED)).number == 0
        await gate.until(1)
        assert (await stage.submit(GATED)).number == 1
        assert (await stage.submit(GATED, front=True)).number == -2
        assert (await stage.submit(GATED, number=0.5)).number == 0.5
        assert (await stage.submit(GATED)).number == 3
        snapshot = await stage.engine.queue(LOCAL_TENANT)
        assert [item.number for item in snapshot.pending] == [-2, 0.5, 1, 3]
        assert [item.number for item in snapshot.running] == [0]
        assert snapshot.remaining == 5
        await stage.engine.clear_pending(LOCAL_TENANT)


async def test_prompts_start_in_order():
    async with gated(limits=EngineLimits(concurrency=1)) as (gate, stage):
        gate.open.set()
        ids = [(await stage.submit(named(str(number)))).prompt_id for number in range(5)]
        for prompt_id in ids:
            await until_ended(stage.engine, LOCAL_TENANT, prompt_id)
        assert gate.entered == ["0", "1", "2", "3", "4"]
        assert list(await stage.engine.history(LOCAL_TENANT)) == ids


async def test_several_prompts_run_at_once_and_no_more():
    async with gated(limits=EngineLimits(concurrency=2)) as (gate, stage):
        for number in range(3):
            await stage.submit(named(str(number)), client_id=None)
        await gate.until(2)
        assert (await stage.engine.queue(LOCAL_TENANT)).remaining == 3
        assert gate.entered == ["0", "1"]


async def test_tenants_take_turns():
    async with gated(limits=EngineLimits(concurrency=1)) as (gate, stage):
        many, few = TenantId("many"), TenantId("few")
        await stage.submit(named("m0"), many)
        await gate.until(1)
        last = [await stage.submit(named(f"m{number}"), many) for number in range(1, 5)][-1]
        for number in range(2):
            await stage.submit(named(f"f{number}"), few)
        gate.open.set()
        await until_ended(stage.engine, many, last.prompt_id)
        assert gate.entered == ["m0", "f0", "m1", "f1", "m2", "m3", "m4"]


async def test_one_tenant_cannot_take_all_places():
    async with gated(limits=EngineLimits(concurrency=3, tenant_concurrency=1)) as (gate, stage):
        for number in range(2):
            for tenant in ("a", "b"):
                await stage.submit(named(f"{tenant}{number}"), TenantId(tenant))
        await gate.until(2)
        assert sorted(gate.entered) == ["a0", "b0"]


async def test_a_full_queue_and_a_duplicate_are_refused():
    async with gated(limits=EngineLimits(concurrency=1, pending=1)) as (gate, stage):
        await stage.submit(GATED, prompt_id="p")
        await gate.until(1)
        with pytest.raises(DuplicatePromptError):
            await stage.submit(GATED, prompt_id="p")
        await stage.submit(GATED)
        with pytest.raises(QueueFullError, match="1 pending"):
            await stage.submit(GATED)
        await stage.submit(prompt(s=("Sink", {"x": 1})), TenantId("other"))


async def test_pending_prompts_can_be_removed_and_leave_no_history():
    async with gated(limits=EngineLimits(concurrency=1)) as (gate, stage):
        first = await stage.submit(GATED)
        await gate.until(1)
        second, third = await stage.submit(GATED), await stage.submit(GATED)
        engine = stage.engine
        assert await engine.delete_pending(LOCAL_TENANT, [second.prompt_id, first.prompt_id, "unknown"]) == 1
        assert await engine.delete_pending(TenantId("other"), [third.prompt_id]) == 0
        assert await engine.clear_pending(LOCAL_TENANT) == 1
        assert (await engine.queue(LOCAL_TENANT)).remaining == 1
        assert await engine.history(LOCAL_TENANT) == {}


async def interrupted(stage, prompt_id):
    entry = await until_ended(stage.engine, LOCAL_TENANT, prompt_id, timeout_s=60)
    assert entry["status"]["status_str"] == "error"
    assert entry["status"]["completed"] is False
    name, data = entry["status"]["messages"][-1]
    assert name == "execution_interrupted"
    return data


async def test_interrupting_stops_the_node_that_runs_and_the_next_prompt_works():
    async with gated() as (gate, stage):
        submitted = await stage.submit(named("first"))
        await gate.until(1)
        assert await stage.engine.interrupt(LOCAL_TENANT)
        data = await interrupted(stage, submitted.prompt_id)
        assert (data["node_id"], data["node_type"], data["executed"]) == ("g", "Gate", [])
        assert gate.stopped == ["first"]
        gate.open.set()
        assert (await stage.run(named("second")))["status"]["completed"]


async def test_interrupting_one_prompt_leaves_the_others():
    async with gated() as (gate, stage):
        one = await stage.submit(named("one"), client_id="first")
        two = await stage.submit(named("two"), client_id="second")
        await gate.until(2)
        assert not await stage.engine.interrupt(TenantId("other"), one.prompt_id)
        assert await stage.engine.interrupt(LOCAL_TENANT, one.prompt_id)
        await interrupted(stage, one.prompt_id)
        assert gate.stopped == ["one"]
        gate.open.set()
        assert (await until_ended(stage.engine, LOCAL_TENANT, two.prompt_id))["status"]["completed"]


async def test_interrupting_an_idle_engine_does_nothing():
    async with Stage() as stage:
        assert not await stage.engine.interrupt(LOCAL_TENANT)
        assert (await stage.run(prompt(s=("Sink", {"x": 1}))))["status"]["completed"]


async def test_interrupting_while_is_changed_is_asked():
    asked = anyio.Event()

    async def never(v):
        asked.set()
        await anyio.sleep_forever()

    node = FakeNode("Watch", lambda v: (v,), {"v": ["INT", {}]}, fingerprint=never)
    async with Stage(node) as stage:
        submitted = await stage.submit(prompt(w=("Watch", {"v": 1}), s=("Sink", {"x": ["w", 0]})))
        with anyio.fail_after(60):
            await asked.wait()
        assert await stage.engine.interrupt(LOCAL_TENANT)
        await interrupted(stage, submitted.prompt_id)
        assert stage.sessions.calls == []


async def test_cancel():
    async with gated(limits=EngineLimits(concurrency=1)) as (gate, stage):
        running, pending = await stage.submit(GATED), await stage.submit(GATED)
        await gate.until(1)
        cancel = stage.engine.cancel
        assert not await cancel(TenantId("other"), running.prompt_id)
        assert await cancel(LOCAL_TENANT, pending.prompt_id)
        assert await cancel(LOCAL_TENANT, running.prompt_id)
        await interrupted(stage, running.prompt_id)
        assert not await cancel(LOCAL_TENANT, running.prompt_id)
        assert await stage.engine.history_entry(LOCAL_TENANT, pending.prompt_id) is None


async def test_a_failure_stops_what_runs_beside_it():
    gate = Gate()

    def boom():
        raise ValueError("boom")

    async with Stage(gate.node, FakeNode("Boom", boom, extension="other")) as stage:
        graph = prompt(
            g=("Gate", {"name": "x"}), s=("Sink", {"x": ["g", 0]}), b=("Boom",), t=("Sink", {"x": ["b", 0]})
        )
        error = await stage.error(graph)
        assert error["node_id"] == "b"
        assert gate.stopped == gate.entered


async def test_what_ran_when_the_host_stopped_runs_again():
    storage = MemoryStorage()
    gate = Gate()
    async with Stage(gate.node, storage=storage, limits=EngineLimits(concurrency=1)) as stage:
        running, pending = await stage.submit(named("running")), await stage.submit(named("pending"))
        await gate.until(1)
    assert gate.stopped == ["running"]
    gate.open.set()
    async with Stage(gate.node, storage=storage) as stage:
        for submitted in (running, pending):
            entry = await until_ended(stage.engine, LOCAL_TENANT, submitted.prompt_id)
            assert entry["status"]["completed"]
    assert gate.entered == ["running", "running", "pending"]


async def test_a_closed_engine_takes_nothing():
    stage = Stage()
    async with stage:
        pass
    with pytest.raises(EngineClosedError):
        await stage.submit(prompt(s=("Sink", {"x": 1})))


async def test_a_queued_prompt_whose_extension_was_removed_ends_with_an_error():
    async with gated(limits=EngineLimits(concurrency=1)) as (gate, stage):
        await stage.submit(GATED)
        await gate.until(1)
        late = await stage.submit(prompt(s=("Show", {"x": 1})))
        del stage.sessions.nodes["Show"]
        gate.open.set()
        entry = await until_ended(stage.engine, LOCAL_TENANT, late.prompt_id)
        name, data = entry["status"]["messages"][-1]
        assert name == "execution_error"
        assert data["exception_type"] == "ringfence.NodeTypeGoneError"
        assert "Show" in data["exception_message"]


async def test_what_the_queue_shows_has_no_secrets_and_has_the_time():
    async with gated(limits=EngineLimits(concurrency=1)) as (gate, stage):
        await stage.submit(GATED, extra_data={"api_key_comfy_org": "secret", "k": 1})
        await gate.until(1)
        (item,) = (await stage.engine.queue(LOCAL_TENANT)).running
        assert item.extra_data == {"k": 1, "client_id": "client", "create_time": 0}
        assert item.outputs == ("s",)


async def test_a_prompt_claimed_while_the_queue_is_read_is_seen_once():
    class ClaimedBetweenReads(MemoryStorage):
        armed = False

        async def pending(self, tenant):
            return await self.then_claim(await super().pending(tenant), tenant)

        async def running(self, tenant):
            return await self.then_claim(await super().running(tenant), tenant)

        async def then_claim(self, rows, tenant):
            if self.armed:
                self.armed = False
                await self.claim_next(tenant)
            return rows

    gate, storage = Gate(), ClaimedBetweenReads()
    async with Stage(gate.node, storage=storage, limits=EngineLimits(concurrency=1)) as stage:
        await stage.submit(GATED)
        await gate.until(1)
        late = await stage.submit(GATED)
        storage.armed = True
        seen = await stage.engine.queue(LOCAL_TENANT)
        assert [item.prompt_id for item in (*seen.running, *seen.pending)].count(late.prompt_id) == 1
        assert len(seen.running) == 2
        gate.open.set()


async def test_the_running_node_of_a_client():
    async with gated() as (gate, stage):
        await stage.submit(named("x"), client_id="me")
        await gate.until(1)
        assert stage.engine.running_node(LOCAL_TENANT, "me") == "g"
        assert stage.engine.running_node(LOCAL_TENANT, "you") is None
        assert stage.engine.running_node(TenantId("other"), "me") is None


async def test_a_pack_speaks_to_its_own_tenant():
    other = TenantId("other")
    async with Stage() as stage:
        engine = stage.engine
        async with engine.subscribe(LOCAL_TENANT) as mine, engine.subscribe(other) as others:
            engine.hear_pack(other, "pack", PackEvent("hello", {"a": 1}, None))
            engine.hear_pack(LOCAL_TENANT, "pack", PackEvent("hi", {}, "sid"))
            assert await anext(others) == ev.PackMessage(other, None, "hello", {"a": 1})
            assert await anext(mine) == ev.PackMessage(LOCAL_TENANT, "sid", "hi", {})


async def test_object_info():
    async with Stage() as stage:
        info = await stage.engine.object_info(LOCAL_TENANT)
        assert info["Const"]["python_module"] == "custom_nodes.fake"
        assert list(await stage.engine.object_info(LOCAL_TENANT, "Add")) == ["Add"]
        assert await stage.engine.object_info(LOCAL_TENANT, "Nope") == {}


async def test_a_storage_that_fails_now_and_then_loses_nothing(monkeypatch):
    monkeypatch.setattr("engine.dispatcher.RETRY_S", 0)
    fails = {"claim_next": 2, "finish": 2}

    class Flaky(MemoryStorage):
        async def claim_next(self, tenant, busy=()):
            self.fail("claim_next")
            return await super().claim_next(tenant, busy)

        async def finish(self, tenant, prompt_id, entry):
            self.fail("finish")
            await super().finish(tenant, prompt_id, entry)

        def fail(self, name):
            if fails[name]:
                fails[name] -= 1
                raise OSError("the disk is full")

    async with Stage(storage=Flaky()) as stage:
        assert (await stage.run(prompt(s=("Show", {"x": 1}))))["status"]["completed"]
    assert fails == {"claim_next": 0, "finish": 0}


async def test_a_prompt_whose_extension_cannot_be_brought_up_to_date_ends_with_the_reason():
    async with Stage() as stage:
        asked = []

        async def make_current(tenant, class_types):
            asked.append((tenant, sorted(class_types)))
            raise UpdateFailedError("extension 'x' could not be brought up to date", hint="reload it")

        stage.sessions.make_current = make_current
        stage.sessions.is_current = lambda tenant, class_types: False
        details = await stage.error(prompt(c=("Const", {"v": 1}), s=("Show", {"x": ["c", 0]})))
        assert details["exception_type"] == "ringfence.UpdateFailedError"
        assert "reload it" in details["exception_message"]
        assert asked == [(LOCAL_TENANT, ["Const", "Show"])]
        del stage.sessions.make_current, stage.sessions.is_current
        assert (await stage.run(prompt(c=("Const", {"v": 1}), s=("Show", {"x": ["c", 0]}))))["status"][
            "completed"
        ]


async def test_a_prompt_that_waits_for_an_outdated_extension_can_be_interrupted():
    async with Stage() as stage:
        waiting = anyio.Event()

        async def make_current(tenant, class_types):
            waiting.set()
            await anyio.sleep_forever()

        stage.sessions.make_current = make_current
        stage.sessions.is_current = lambda tenant, class_types: False
        submitted = await stage.submit(prompt(c=("Const", {"v": 1}), s=("Show", {"x": ["c", 0]})))
        with anyio.fail_after(60):
            await waiting.wait()
        assert await stage.engine.interrupt(LOCAL_TENANT)
        await interrupted(stage, submitted.prompt_id)

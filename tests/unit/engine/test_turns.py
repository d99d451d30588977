"""Whose prompt runs when: of one client one at a time, as ComfyUI's clients expect, of others many."""

from __future__ import annotations

from collections import Counter
from random import Random

import anyio
import pytest

from engine import EngineLimits
from engine.testing import FakeNode, until_ended
from policies import LOCAL_TENANT, TenantId
from tests.unit.engine.scene import Stage, prompt
from tests.unit.engine.test_engine import gated, named

pytestmark = pytest.mark.anyio

OTHER = TenantId("other")


async def test_prompts_of_one_client_run_one_after_another_by_their_numbers():
    async with gated(limits=EngineLimits(concurrency=4)) as (gate, stage):
        await stage.submit(named("first"), client_id="me")
        await gate.until(1)
        ends = [
            await stage.submit(named(name), client_id="me", **fields)
            for name, fields in {
                "second": {},
                "third": {},
                "front": {"front": True},
                "half": {"number": 0.5},
            }.items()
        ]
        snapshot = await stage.engine.queue(LOCAL_TENANT)
        assert len(snapshot.running) == 1
        assert [item.number for item in snapshot.pending] == [-3, 0.5, 1, 2]
        gate.open.set()
        for submitted in ends:
            await until_ended(stage.engine, LOCAL_TENANT, submitted.prompt_id)
        assert gate.entered == ["first", "front", "half", "second", "third"]


async def test_another_client_and_prompts_of_no_client_do_not_wait_for_it():
    async with gated(limits=EngineLimits(concurrency=4)) as (gate, stage):
        for name, client in (("a0", "a"), ("a1", "a"), ("b0", "b"), ("n0", None), ("n1", None)):
            await stage.submit(named(name), client_id=client)
        await gate.until(4)
        assert sorted(gate.entered) == ["a0", "b0", "n0", "n1"]
        assert (await stage.engine.queue(LOCAL_TENANT)).remaining == 5


async def test_an_empty_client_id_is_none():
    async with gated(limits=EngineLimits(concurrency=4)) as (gate, stage):
        for name in ("x", "y"):
            await stage.submit(named(name), client_id=None, extra_data={"client_id": ""})
        await gate.until(2)


async def test_a_client_id_in_extra_data_alone_counts():
    async with gated(limits=EngineLimits(concurrency=4)) as (gate, stage):
        for name in ("a0", "a1"):
            await stage.submit(named(name), client_id=None, extra_data={"client_id": "a"})
        await stage.submit(named("b0"), client_id="b")
        await gate.until(2)
        assert sorted(gate.entered) == ["a0", "b0"]


async def test_the_same_client_id_at_another_tenant_is_another_client():
    async with gated(limits=EngineLimits(concurrency=4)) as (gate, stage):
        for tenant in (LOCAL_TENANT, OTHER):
            for number in range(2):
                await stage.submit(named(f"{tenant}{number}"), tenant, client_id="me")
        await gate.until(2)
        assert sorted(gate.entered) == ["local0", "other0"]


async def test_a_tenant_that_waits_for_its_client_holds_up_no_other():
    async with gated(limits=EngineLimits(concurrency=2)) as (gate, stage):
        for number in range(3):
            await stage.submit(named(f"mine{number}"), client_id="me")
        await gate.until(1)
        await stage.submit(named("theirs"), OTHER, client_id="me")
        await gate.until(2)
        assert gate.entered == ["mine0", "theirs"]


async def test_the_next_prompt_of_a_client_starts_when_one_was_interrupted():
    async with gated(limits=EngineLimits(concurrency=4)) as (gate, stage):
        one, two = [await stage.submit(named(name), client_id="me") for name in ("one", "two")]
        await gate.until(1)
        assert await stage.engine.interrupt(LOCAL_TENANT)
        await gate.until(2)
        assert gate.stopped == ["one"]
        gate.open.set()
        assert not (await until_ended(stage.engine, LOCAL_TENANT, one.prompt_id))["status"]["completed"]
        assert (await until_ended(stage.engine, LOCAL_TENANT, two.prompt_id))["status"]["completed"]


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_is_queued_no_client_has_two_running_and_no_place_stays_empty(seed):
    random = Random(seed)
    limit, inside, most, order = 3, Counter[str](), 0, []

    async def work(name):
        nonlocal most
        client, _ = name.split(":")
        inside[client] += 1
        most = max(most, inside.total())
        order.append(name)
        assert client == "none" or inside[client] == 1
        for _ in range(random.randrange(20)):
            await anyio.lowlevel.checkpoint()
        inside[client] -= 1
        return (name,)

    node = FakeNode("Work", work, {"name": ["STRING", {}]}, not_idempotent=True)
    async with Stage(node, limits=EngineLimits(concurrency=limit)) as stage:
        submitted = []
        for number in range(60):
            client = random.choice(("a", "b", "none"))
            graph = prompt(w=("Work", {"name": f"{client}:{number}"}), s=("Sink", {"x": ["w", 0]}))
            submitted.append(await stage.submit(graph, client_id=None if client == "none" else client))
            for _ in range(random.randrange(10)):
                await anyio.lowlevel.checkpoint()
        for one in submitted:
            entry = await until_ended(stage.engine, LOCAL_TENANT, one.prompt_id)
            assert entry["status"]["completed"], entry["status"]["messages"][-1]
    assert most == limit
    for client in "ab":
        numbers = [int(name.split(":")[1]) for name in order if name.startswith(client)]
        assert numbers == sorted(numbers)

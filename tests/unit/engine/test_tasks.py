"""Which tasks run prompts and nodes, and that the end of one outlives the host's."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import anyio
import pytest
from anyio.lowlevel import checkpoint

from engine.testing import FakeNode, MemoryStorage
from policies import LOCAL_TENANT
from sandbox import FastPath, take_fast_paths
from tests.unit.engine.scene import Stage, prompt

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("every_fast_path")]


class Where:
    """A node that notes in which task it is run; ``lane`` apart, two of them may run at a time."""

    def __init__(self) -> None:
        self.tasks: dict[str, asyncio.Task[object] | None] = {}
        self.nodes = [
            FakeNode(
                f"Note{lane}",
                self.note,
                {"name": ["STRING", {}]},
                {"a": ["*", {}], "b": ["*", {}]},
                extension=f"lane{lane}",
                not_idempotent=True,
            )
            for lane in (1, 2)
        ]

    async def note(self, name, a=None, b=None):
        self.tasks[name] = asyncio.current_task()
        await checkpoint()
        return (name,)


def note(name, lane=1, **links):
    return f"Note{lane}", {"name": name, **{key: [source, 0] for key, source in links.items()}}


CHAIN = prompt(a=note("a"), b=note("b", 2, a="a"), c=note("c", a="b"), s=("Sink", {"x": ["c", 0]}))
DIAMOND = prompt(
    a=note("a"),
    b=note("b", 1, a="a"),
    c=note("c", 2, a="a"),
    d=note("d", a="b", b="c"),
    s=("Sink", {"x": ["d", 0]}),
)


async def test_a_chain_is_run_by_its_prompts_task_which_runs_the_next_prompt_too():
    where = Where()
    async with Stage(*where.nodes) as stage:
        assert (await stage.run(CHAIN))["status"]["completed"]
        first = dict(where.tasks)
        assert len(set(first.values())) == 1
        assert (await stage.run(CHAIN))["status"]["completed"]
        assert where.tasks == first


@pytest.mark.parametrize("chained", [True, False])
async def test_what_may_run_at_a_time_has_tasks_of_its_own(chained):
    take_fast_paths(FastPath if chained else set(FastPath) - {FastPath.CHAINED_NODES})
    where = Where()
    async with Stage(*where.nodes) as stage:
        assert (await stage.run(DIAMOND))["status"]["completed"]
        assert where.tasks["b"] is not where.tasks["c"]
        assert (await stage.run(CHAIN))["status"]["completed"]
        assert len({where.tasks[name] for name in "abc"}) == (1 if chained else 3)


@pytest.mark.parametrize("chained", [True, False])
@pytest.mark.parametrize("graph", [CHAIN, DIAMOND], ids=["chain", "diamond"])
@pytest.mark.parametrize("at", ["a", "c"])
async def test_an_interrupted_prompt_ends_at_its_node_and_the_next_one_runs(graph, at, chained):
    take_fast_paths(FastPath if chained else set(FastPath) - {FastPath.CHAINED_NODES})
    where, there = Where(), anyio.Event()
    real = where.note

    async def note_or_wait(name, a=None, b=None):
        if name == at and not there.is_set():
            there.set()
            await anyio.sleep_forever()
        return await real(name, a, b)

    async with Stage(*(replace(node, function=note_or_wait) for node in where.nodes)) as stage:
        async with stage.engine.subscribe(LOCAL_TENANT):
            submitted = await stage.submit(graph)
            with anyio.fail_after(60):
                await there.wait()
            assert await stage.engine.interrupt(LOCAL_TENANT)
        entry = await stage.run(graph)
        assert entry["status"]["completed"]
        ended = await stage.engine.history_entry(LOCAL_TENANT, submitted.prompt_id)
        assert ended["status"]["messages"][-1][0] == "execution_interrupted"
        assert ended["status"]["messages"][-1][1]["node_id"] == at


async def test_a_prompt_that_has_ended_is_stored_though_the_host_stops_meanwhile():
    begun = anyio.Event()

    class Slow(MemoryStorage):
        async def finish(self, tenant, prompt_id, entry):
            begun.set()
            while not is_closing():
                await checkpoint()
            for _ in range(20):
                await checkpoint()
            await super().finish(tenant, prompt_id, entry)

    where, storage = Where(), Slow()
    async with Stage(*where.nodes, storage=storage) as stage:

        def is_closing():
            return not stage.engine._is_open

        submitted = await stage.submit(CHAIN)
        with anyio.fail_after(60):
            await begun.wait()
    assert await storage.history_entry(LOCAL_TENANT, submitted.prompt_id)


async def test_a_storage_that_never_answers_does_not_keep_the_host_from_stopping(monkeypatch):
    monkeypatch.setattr("engine.dispatcher.CLEANUP_S", 0.01)
    begun = anyio.Event()

    class Stuck(MemoryStorage):
        async def finish(self, tenant, prompt_id, entry):
            begun.set()
            await anyio.sleep_forever()

    where = Where()
    with anyio.fail_after(60):
        async with Stage(*where.nodes, storage=Stuck()) as stage:
            await stage.submit(CHAIN)
            await begun.wait()

"""What the cache modes mean for whole prompts (execution-semantics §4.4)."""

from __future__ import annotations

from functools import partial

import anyio
import pytest

from engine.testing import FakeNode
from policies import LOCAL_TENANT, ExtensionName, TenantId
from tests.unit.engine.scene import Stage, prompt

pytestmark = pytest.mark.anyio


def doubling():
    def double(v):
        graph = {"sum": {"class_type": "Add", "inputs": {"a": v, "b": v}}}
        return {"result": (["sum", 0],), "expand": graph}

    return FakeNode("Double", double, {"v": ["INT", {}]}, outputs=("INT",))


async def test_with_an_lru_cache_a_child_is_satisfied_by_an_equal_node_of_an_earlier_prompt():
    async with Stage(doubling(), cache="lru:50") as stage:
        await stage.outputs(prompt(a=("Add", {"a": 4, "b": 4}), s=("Show", {"x": ["a", 0]})))
        stage.sessions.calls.clear()
        graph = prompt(d=("Double", {"v": 4}), t=("Show", {"x": ["d", 0]}))
        assert (await stage.outputs(graph))["t"] == {"x": [8]}
        assert "sum" not in stage.sessions.calls


async def test_with_a_classic_cache_children_are_their_parents_own():
    async with Stage(doubling()) as stage:
        await stage.outputs(prompt(a=("Add", {"a": 4, "b": 4}), s=("Show", {"x": ["a", 0]})))
        stage.sessions.calls.clear()
        await stage.outputs(
            prompt(
                a=("Add", {"a": 4, "b": 4}),
                s=("Show", {"x": ["a", 0]}),
                d=("Double", {"v": 4}),
                t=("Show", {"x": ["d", 0]}),
            )
        )
        assert "sum" in stage.sessions.calls
        assert "a" not in stage.sessions.calls


async def test_without_a_cache_expansion_works_and_nothing_is_reused():
    async with Stage(doubling(), cache="none") as stage:
        graph = prompt(d=("Double", {"v": 4}), s=("Show", {"x": ["d", 0]}), t=("Show", {"x": ["d", 0]}))
        for _ in range(2):
            stage.sessions.calls.clear()
            assert await stage.outputs(graph) == {"s": {"x": [8]}, "t": {"x": [8]}}
            assert sorted(stage.sessions.calls) == ["d", "s", "sum", "t"]


async def test_without_a_cache_every_prompt_has_node_objects_of_its_own():
    used = []
    both = anyio.Event()

    async def note(context):
        used.append(context.call.instance)
        if len(used) == 2:
            both.set()
        await both.wait()
        return ()

    node = FakeNode("Note", note, outputs=(), output_node=True)
    async with Stage(node, cache="none") as stage, anyio.create_task_group() as tasks:
        for _ in range(2):  # at the same time, since nobody says that they are one client's
            tasks.start_soon(partial(stage.outputs, prompt(n=("Note",)), client_id=None))
        with anyio.fail_after(60):
            await both.wait()
    session = await stage.sessions.acquire(LOCAL_TENANT, ExtensionName("fake"))
    assert len(set(used)) == 2
    assert sorted(session.dropped) == sorted(used)


@pytest.mark.parametrize("cache", ["classic", "lru:50", "ram"])
async def test_freeing_memory_runs_everything_anew(cache):
    async with Stage(cache=cache) as stage:
        graph = prompt(a=("Const", {"v": 4}), s=("Show", {"x": ["a", 0]}))
        await stage.outputs(graph)
        await stage.outputs(graph)
        assert stage.sessions.calls == ["a", "s"]
        await stage.engine.free(LOCAL_TENANT, unload_models=False, free_memory=True)
        await stage.outputs(graph)
        assert stage.sessions.calls == ["a", "s", "a", "s"]


async def test_freeing_memory_gives_back_the_stores_memory_after_the_cache_let_go_of_it():
    async with Stage() as stage:
        store = stage.sessions.store
        await stage.outputs(prompt(a=("Image", {"v": 4}), s=("Sink", {"x": ["a", 0]})))
        await stage.engine.free(LOCAL_TENANT, unload_models=True, free_memory=False)
        assert store.references
        assert not store.given_back  # models only: results stay, and what waits to be filled again
        await stage.engine.free(LOCAL_TENANT, unload_models=False, free_memory=True)
        assert store.given_back == [(LOCAL_TENANT, 0)]


async def test_freeing_memory_reaches_what_nodes_left_that_ran_for_no_prompt():
    async with Stage() as stage:
        await stage.engine.free(TenantId("other"), unload_models=False, free_memory=True)
        assert stage.sessions.store.given_back == [(TenantId("other"), 0)]

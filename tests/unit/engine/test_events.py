"""Who hears what in which order within one prompt (websocket.md §4)."""

from __future__ import annotations

import pytest

from engine.testing import Blocker, FakeNode
from sandbox.calls import Progress
from tests.unit.engine.scene import Stage, prompt

pytestmark = pytest.mark.anyio

CHAIN = prompt(_1=("Const", {"v": 7}), _2=("Show", {"x": ["1", 0]}))


def boom(x):
    raise ValueError("boom")


async def test_success():
    async with Stage() as stage:
        assert await stage.said(CHAIN) == [
            "status 1",
            "status 1",
            "execution_start",
            "execution_cached",
            "progress_state 1:running",
            "executing 1",
            "progress_state 1:finished",
            "progress_state 1:finished 2:running",
            "executing 2",
            "executed 2 {'x': [7]}",
            "progress_state 1:finished 2:finished",
            "execution_success",
            "status 0",
            "executing null",
        ]


async def test_all_cached():
    async with Stage() as stage:
        await stage.said(CHAIN)
        assert (await stage.said(CHAIN))[2:] == [
            "execution_start",
            "execution_cached 1 2",
            "executed 2 {'x': [7]}",
            "progress_state 2:finished",
            "execution_success",
            "status 0",
            "executing null",
        ]
        assert stage.sessions.calls == ["1", "2"]


async def test_cached_output_without_ui_is_announced_with_null():
    async with Stage() as stage:
        graph = prompt(s=("Sink", {"x": 1}))
        await stage.said(graph)
        assert "executed s None" in await stage.said(graph)


async def test_progress_of_a_node():
    def work(x, context):
        for value in (1, 2):
            context.report(Progress(context.call.node_id, value, 2, None, legacy=True))
        context.report(Progress("somebody else", 9, 9, None, legacy=False))
        return ()

    async with Stage(FakeNode("Work", work, {"x": ["*", {}]}, outputs=(), output_node=True)) as stage:
        assert (await stage.said(prompt(w=("Work", {"x": 1}))))[4:10] == [
            "progress_state w:running",
            "executing w",
            "progress_state w:running(1/2) +progress",
            "progress_state w:running(2/2) +progress",
            "progress_state w:running(9/9)",
            "progress_state w:finished(9/9)",
        ]


async def test_failure():
    async with Stage(FakeNode("Boom", boom, {"x": ["*", {}]})) as stage:
        graph = prompt(a=("Const", {"v": 1}), b=("Boom", {"x": ["a", 0]}), s=("Show", {"x": ["b", 0]}))
        assert (await stage.said(graph))[-4:] == [
            "executing b",
            "execution_error b ValueError",
            "status 0",
            "executing null",
        ]


async def test_blocker_with_a_message_is_an_error_message_and_the_run_succeeds():
    block = FakeNode("Block", lambda: (Blocker("no licence"),))
    async with Stage(block) as stage:
        graph = prompt(b=("Block",), c=("Add", {"a": ["b", 0], "b": 1}), s=("Sink", {"x": ["c", 0]}))
        said = await stage.said(graph)
        start = said.index("executing c")
        assert said[start : start + 2] == ["executing c", "execution_error c blocked: no licence"]
        assert said[-3:] == ["execution_success", "status 0", "executing null"]
        again = await stage.said(graph)
        assert not [line for line in again if "blocked" in line]
        assert "executed s None" in again


async def test_a_blocker_is_met_once_per_list_item():
    many = FakeNode("Many", lambda: ([Blocker("x"), 1, Blocker("y")],), output_is_list=(True,))
    async with Stage(many) as stage:
        said = await stage.said(prompt(m=("Many",), s=("Sink", {"x": ["m", 0]})))
        assert [line for line in said if "blocked" in line] == [
            "execution_error s blocked: x",
            "execution_error s blocked: y",
        ]


async def test_a_silent_blocker_says_nothing():
    async with Stage(FakeNode("Block", lambda: (Blocker(),))) as stage:
        said = await stage.said(prompt(b=("Block",), s=("Sink", {"x": ["b", 0]})))
        assert not [line for line in said if "error" in line]


async def test_expansion():
    def expand():
        graph = {
            "1.0.0.1": {"class_type": "Const", "inputs": {"v": 5}},
            "1.0.0.2": {"class_type": "Show", "inputs": {"x": ["1.0.0.1", 0]}},
        }
        return {"result": (["1.0.0.1", 0],), "expand": graph}

    async with Stage(FakeNode("Expand", expand)) as stage:
        said = await stage.said(prompt(_1=("Expand",), _2=("Show", {"x": ["1", 0]})))
        assert said[4:-1] == [
            "progress_state 1:running",
            "executing 1",
            "progress_state 1:running 1.0.0.1:running",
            "executing 1.0.0.1 shown by 1",
            "progress_state 1:running 1.0.0.1:finished",
            "progress_state 1:running 1.0.0.1:finished 1.0.0.2:running",
            "executing 1.0.0.2 shown by 1",
            "progress_state 1:finished 1.0.0.1:finished 1.0.0.2:running",
            "executed 1.0.0.2 {'x': [5]}",
            "progress_state 1:finished 1.0.0.1:finished 1.0.0.2:finished",
            "progress_state 1:finished 1.0.0.1:finished 1.0.0.2:finished 2:running",
            "executing 2",
            "executed 2 {'x': [5]}",
            "progress_state 1:finished 1.0.0.1:finished 1.0.0.2:finished 2:finished",
            "execution_success",
            "status 0",
        ]


async def test_lazy():
    pick = FakeNode(
        "Pick",
        lambda which, a=None, b=None: (a if which == 0 else b,),
        {"which": ["INT", {}], "a": ["*", {"lazy": True}], "b": ["*", {"lazy": True}]},
        lazy=("a", "b"),
        check_lazy=lambda which, a=None, b=None: ["a"] if which == 0 else ["b"],
    )
    async with Stage(pick) as stage:
        graph = prompt(
            a=("Const", {"v": 1}), b=("Const", {"v": 2}), p=("Pick", {"which": 1, "a": ["a", 0], "b": ["b", 0]}),
            s=("Show", {"x": ["p", 0]}),
        )  # fmt: skip
        said = await stage.said(graph)
        assert [line for line in said if line.startswith("execut")] == [
            "execution_start",
            "execution_cached",
            "executing p",
            "executing b",
            "executing p",
            "executing s",
            "executed s {'x': [2]}",
            "execution_success",
            "executing null",
        ]


async def test_the_history_can_be_read_when_the_last_event_comes():
    async with Stage() as stage, stage.engine.subscribe("local") as events:
        submitted = await stage.submit(CHAIN)
        async for event in events:
            if type(event).__name__ == "PromptEnded":
                entry = await stage.engine.history_entry("local", submitted.prompt_id)
                assert entry["status"]["completed"]
                return


async def test_cached_intermediate_output_is_repeated():
    keep = FakeNode(
        "Keep",
        lambda v: {"ui": {"v": [v]}, "result": (v,)},
        {"v": ["INT", {}]},
        info={"has_intermediate_output": True},
    )
    async with Stage(keep) as stage:
        graph = prompt(k=("Keep", {"v": 3}), s=("Show", {"x": ["k", 0]}))
        await stage.said(graph)
        said = await stage.said(graph)
        assert said[-4:] == ["executed k {'v': [3]}", "execution_success", "status 0", "executing null"]

"""Size: no recursion anywhere, and time that grows with the number of nodes, not with its square."""

from __future__ import annotations

import time

import pytest

from engine import PromptInvalidError
from engine.testing import FakeNode
from tests.unit.engine.scene import Stage, prompt

pytestmark = pytest.mark.anyio


def chain(count):
    graph = {"0": {"class_type": "Const", "inputs": {"v": 1}}}
    for number in range(1, count):
        graph[str(number)] = {"class_type": "Add", "inputs": {"a": [str(number - 1), 0], "b": 1}}
    graph["end"] = {"class_type": "Show", "inputs": {"x": [str(count - 1), 0]}}
    return dict(reversed(graph.items()))


@pytest.mark.parametrize("cache", ["classic", "lru:100", "none"])
async def test_a_chain_of_2000_nodes(cache):
    async with Stage(cache=cache) as stage:
        assert (await stage.outputs(chain(2_000)))["end"] == {"x": [2_000]}


async def test_a_chain_of_50000_nodes_validates_runs_and_is_found_cached():
    async with Stage() as stage:
        graph = chain(49_999)
        assert (await stage.outputs(graph))["end"] == {"x": [49_999]}
        started = time.process_time()
        assert (await stage.outputs(graph))["end"] == {"x": [49_999]}
        assert time.process_time() - started < 20  # some 2 s of this process; a square would be minutes


async def test_a_cycle_of_50000_nodes_is_refused():
    graph = chain(49_000)
    graph["0"] = {"class_type": "Add", "inputs": {"a": ["48999", 0], "b": 1}}
    async with Stage() as stage:
        with pytest.raises(PromptInvalidError) as caught:
            await stage.submit(graph)
        assert caught.value.node_errors["0"]["errors"][0]["type"] == "dependency_cycle"


async def test_many_readers_of_one_node_and_one_reader_of_many():
    collect = FakeNode("Collect", lambda **values: (len(values),), outputs=("INT",))
    graph = prompt(c=("Const", {"v": 1}), all=("Collect",), s=("Show", {"x": ["all", 0]}))
    for number in range(1_500):
        graph[f"r{number}"] = {"class_type": "Add", "inputs": {"a": ["c", 0], "b": number}}
        graph["all"]["inputs"][f"i{number}"] = [f"r{number}", 0]
    async with Stage(collect) as stage:
        assert (await stage.outputs(graph))["s"] == {"x": [1_500]}


async def test_ten_thousand_failing_outputs_make_a_report_of_bearable_size():
    graph = {str(number): {"class_type": "Sink", "inputs": {}} for number in range(10_000)}
    async with Stage() as stage:
        with pytest.raises(PromptInvalidError) as caught:
            await stage.submit(graph)
        errors = caught.value.node_errors
        assert len(errors) == 10_000
        assert sum(len(entry["dependent_outputs"]) for entry in errors.values()) <= 1_000_000


async def test_a_loop_of_two_thousand_expansions():
    def repeat(n, x, context):
        if n == 0:
            return {"result": (x,)}
        child = {"class_type": "Repeat", "inputs": {"n": n - 1, "x": x + 1}}
        return {
            "result": ([f"{context.call.prompt_id}{n}", 0],),
            "expand": {f"{context.call.prompt_id}{n}": child},
        }

    async with Stage(
        FakeNode("Repeat", repeat, {"n": ["INT", {}], "x": ["INT", {}]}, outputs=("INT",))
    ) as stage:
        graph = prompt(r=("Repeat", {"n": 2_000, "x": 0}), s=("Show", {"x": ["r", 0]}))
        assert (await stage.outputs(graph))["s"] == {"x": [2_000]}

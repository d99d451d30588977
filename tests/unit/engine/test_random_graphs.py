"""Random graphs, executed in a row by one engine in each cache mode, against a reference that knows no cache."""

from __future__ import annotations

import itertools

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.testing import FakeNode, Tensor
from tests.properties import tried
from tests.unit.engine.scene import Stage

ANY = ["*", {}]


CHILDREN = itertools.count()  # equal list items expand too, and each child needs an id of its own


def double(v, context):
    child = f"{context.call.node_id}.{next(CHILDREN)}"
    return {
        "result": ([child, 0],),
        "expand": {child: {"class_type": "Add", "inputs": {"a": v, "b": v}}},
    }


NODES = (
    FakeNode("Range", lambda v: (list(range(abs(v) % 3 + 1)),), {"v": ANY}, output_is_list=(True,)),
    FakeNode("Sum", lambda v: (sum(v),), {"v": ANY}, input_is_list=True),
    FakeNode("Double", double, {"v": ANY}),
    FakeNode("Wrap", lambda v: (Tensor(v),), {"v": ANY}, extension="b"),
    FakeNode("Unwrap", lambda v: (v.data if isinstance(v, Tensor) else v,), {"v": ANY}, extension="b"),
    FakeNode(
        "Pick",
        lambda which, a=None, b=None: (a if which % 2 else b,),
        {"which": ANY, "a": ["*", {"lazy": True}], "b": ["*", {"lazy": True}]},
        lazy=("a", "b"),
        check_lazy=lambda which, a=None, b=None: ["a", "b"],
        extension="b",
    ),
    FakeNode("Noisy", lambda v: (v,), {"v": ANY}, fingerprint=lambda v: float("nan")),
)
ARITY = {"Range": "v", "Sum": "v", "Double": "v", "Unwrap": "v", "Noisy": "v", "AddUp": "ab", "Pick": "ab"}


@st.composite
def graphs(draw):
    count = draw(st.integers(1, 8))
    graph = {}

    def value(index):
        earlier = [str(number) for number in range(index)]
        return draw(
            st.integers(-3, 3)
            if not earlier
            else st.integers(-3, 3) | st.sampled_from(earlier).map(lambda i: [i, 0])
        )

    for index in range(count):
        kind = draw(st.sampled_from(["Add", "Range", "Sum", "Double", "Boxed", "Pick", "Noisy"]))
        node_id = str(index)
        match kind:
            case "Add":
                inputs = {"a": value(index), "b": value(index)}
            case "Pick":
                inputs = {"which": draw(st.integers(0, 1)), "a": value(index), "b": value(index)}
            case "Boxed":
                graph[f"{index}w"] = {"class_type": "Wrap", "inputs": {"v": value(index)}}
                kind, inputs = "Unwrap", {"v": [f"{index}w", 0]}
            case _:
                inputs = {"v": value(index)}
        graph[node_id] = {"class_type": kind, "inputs": inputs}
    targets = draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=3))
    for number in sorted(targets):
        graph[f"out{number}"] = {"class_type": "Show", "inputs": {"x": [str(number), 0]}}
    keys = draw(st.permutations(sorted(graph)))
    return {key: graph[key] for key in keys}


def reference(graph):
    known = {}

    def items(value):
        return slot(value[0]) if isinstance(value, list) else [value]

    def slot(node_id):
        if node_id not in known:
            entry = graph[node_id]
            inputs = {name: items(value) for name, value in entry["inputs"].items()}
            longest = max(map(len, inputs.values()))
            rows = [{name: v[min(i, len(v) - 1)] for name, v in inputs.items()} for i in range(longest)]
            match entry["class_type"]:
                case "Add":
                    result = [row["a"] + row["b"] for row in rows]
                case "Range":
                    result = [item for row in rows for item in range(abs(row["v"]) % 3 + 1)]
                case "Sum":
                    result = [sum(inputs["v"])]
                case "Double":
                    result = [2 * row["v"] for row in rows]
                case "Pick":
                    result = [row["a"] if row["which"] % 2 else row["b"] for row in rows]
                case _:
                    result = inputs["v"]
            known[node_id] = result
        return known[node_id]

    return {
        key: {"x": slot(entry["inputs"]["x"][0])}
        for key, entry in graph.items()
        if entry["class_type"] == "Show"
    }


@pytest.mark.parametrize("cache", ["classic", "lru:3", "none"])
@settings(
    max_examples=tried(12, 500),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(rows=st.lists(graphs(), min_size=1, max_size=4))
def test_outputs_are_those_of_the_reference_whatever_was_run_before(cache, rows):
    async def check():
        async with Stage(*NODES, cache=cache) as stage:
            for graph in [*rows, rows[0]]:
                assert await stage.outputs(graph) == reference(graph)

    anyio.run(check)


@settings(
    max_examples=tried(8, 300),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(rows=st.lists(graphs(), min_size=2, max_size=4))
def test_prompts_that_run_at_the_same_time_do_not_disturb_each_other(rows):
    async def check():
        async with Stage(*NODES) as stage, anyio.create_task_group() as tasks:

            async def one(graph):
                assert await stage.outputs(graph) == reference(graph)

            for graph in rows:
                tasks.start_soon(one, graph)

    anyio.run(check)

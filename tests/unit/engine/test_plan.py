"""The pure machine, in plain lines: events in, actions out."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.plan import (
    Cancelled,
    EmitCached,
    Expanded,
    FinishPrompt,
    LazyRequested,
    NodeFailed,
    NodeFinished,
    Plan,
    PlanNode,
    ResolveExpansion,
    ResultsLost,
    RunNode,
    Started,
)
from tests.properties import tried

SUCCESS = FinishPrompt("success")


def node(node_id, *sources, **fields):
    return PlanNode(node_id, {f"in_{source}": source for source in sources}, **fields)


def out(node_id, *sources, **fields):
    return node(node_id, *sources, is_output=True, **fields)


def plan(*nodes, **kwargs):
    return Plan(nodes, [item.node_id for item in nodes if item.is_output], **kwargs)


def test_a_chain_runs_from_its_source():
    machine = plan(out("c", "b"), node("b", "a"), node("a"))
    assert machine.handle(Started()) == [RunNode("a")]
    assert machine.handle(NodeFinished("a")) == [RunNode("b")]
    assert machine.handle(NodeFinished("b")) == [RunNode("c")]
    assert machine.handle(NodeFinished("c")) == [SUCCESS]


def test_what_no_output_needs_does_not_run():
    machine = plan(out("o"), node("unused"))
    assert machine.handle(Started()) == [RunNode("o")]
    assert machine.handle(NodeFinished("o")) == [SUCCESS]


def test_cached_sources_are_skipped_with_everything_behind_them():
    machine = plan(out("c", "b"), node("b", "a"), node("a"))
    assert machine.handle(Started(frozenset("b"))) == [RunNode("c")]


def test_a_cached_output_is_announced():
    machine = plan(out("c", "b"), node("b"))
    assert machine.handle(Started(frozenset("bc"))) == [EmitCached("c"), SUCCESS]


def test_lanes_run_side_by_side():
    machine = plan(out("o", "a1", "b1"), node("a1", lane="a"), node("b1", lane="b"))
    assert set(machine.handle(Started())) == {RunNode("a1"), RunNode("b1")}


def test_one_lane_runs_one_synchronous_node_at_a_time():
    machine = plan(out("o", "a", "b"), node("a"), node("b"))
    (first,) = machine.handle(Started())
    (second,) = machine.handle(NodeFinished(first.node_id))
    assert {first.node_id, second.node_id} == {"a", "b"}
    assert machine.handle(NodeFinished(second.node_id)) == [RunNode("o")]


def test_async_nodes_overlap_in_one_lane():
    machine = plan(out("o", "a", "b", "c"), node("a", is_async=True), node("b", is_async=True), node("c"))
    assert set(machine.handle(Started())) == {RunNode("a"), RunNode("b"), RunNode("c")}


def test_no_more_than_so_many_run_at_once():
    machine = plan(out("o", "a", "b", "c"), *(node(name, is_async=True) for name in "abc"), max_running=2)
    first = machine.handle(Started())
    assert len(first) == 2
    assert len(machine.handle(NodeFinished(first[0].node_id))) == 1


def test_the_node_that_feeds_an_output_goes_first():
    machine = plan(
        out("late", "l2"), node("l2", "l1"), node("l1", "l0"), node("l0"), out("early", "e"), node("e")
    )
    order = []
    actions = machine.handle(Started())
    while actions and isinstance(actions[0], RunNode):
        order.append(actions[0].node_id)
        actions = machine.handle(NodeFinished(actions[0].node_id))
    assert order[:2] == ["e", "early"]


def test_equal_nodes_run_once_and_the_second_is_announced():
    machine = plan(out("o", "a", "b"), node("a", key="same"), node("b", key="same"))
    (first,) = machine.handle(Started())
    assert first.node_id in "ab"
    other = "b" if first.node_id == "a" else "a"
    actions = machine.handle(NodeFinished(first.node_id))
    assert actions == [EmitCached(other, twin=first.node_id), RunNode("o")]


def test_equal_nodes_in_different_lanes_do_not_race():
    machine = plan(out("o", "a", "b"), node("a", key="k", lane=1), node("b", key="k", lane=2))
    (first,) = machine.handle(Started())
    actions = machine.handle(NodeFinished(first.node_id))
    assert [type(action) for action in actions] == [EmitCached, RunNode]


def test_without_keys_equal_nodes_run_separately():
    machine = plan(out("o", "a", "b"), node("a", lane=1), node("b", lane=2))
    assert len(machine.handle(Started())) == 2


def test_a_lazy_source_runs_only_on_request():
    machine = plan(out("o", "a", "b", lazy=frozenset({"in_a", "in_b"})), node("a"), node("b"))
    assert machine.handle(Started()) == [RunNode("o")]
    assert machine.handle(LazyRequested("o", ["in_b"])) == [RunNode("b")]
    assert machine.handle(NodeFinished("b")) == [RunNode("o")]
    assert machine.handle(NodeFinished("o")) == [SUCCESS]


def test_a_lazy_source_that_was_computed_meanwhile_is_at_hand():
    machine = plan(out("o", "a", lazy=frozenset({"in_a"}), lane=1), out("p", "a", lane=2), node("a", lane=3))
    assert set(machine.handle(Started())) == {RunNode("o"), RunNode("a")}
    assert machine.handle(NodeFinished("a")) == [RunNode("p")]
    assert machine.handle(LazyRequested("o", ["in_a"])) == [RunNode("o")]


def test_an_expanded_node_is_resolved_when_its_children_are_done():
    machine = plan(out("o", "x"), node("x"))
    machine.handle(Started())
    children = [node("x.1"), node("x.2", "x.1"), out("x.3"), node("x.4")]
    assert set(machine.handle(Expanded("x", children, ["x.2"]))) == {RunNode("x.3")}
    assert machine.handle(NodeFinished("x.3")) == [RunNode("x.1")]
    assert machine.handle(NodeFinished("x.1")) == [RunNode("x.2")]
    assert machine.handle(NodeFinished("x.2")) == [ResolveExpansion("x")]
    assert machine.handle(NodeFinished("x")) == [RunNode("o")]
    assert machine.handle(NodeFinished("o")) == [SUCCESS]


def test_an_expansion_of_cached_children_is_resolved_at_once():
    machine = plan(out("o"))
    machine.handle(Started())
    assert machine.handle(Expanded("o", [node("c")], ["c"], frozenset({"c"}))) == [ResolveExpansion("o")]


def test_output_children_run_even_when_nothing_waits_for_them():
    machine = plan(out("o"))
    machine.handle(Started())
    assert machine.handle(Expanded("o", [out("c")], [])) == [ResolveExpansion("o"), RunNode("c")]
    assert machine.handle(NodeFinished("o")) == []
    assert machine.handle(NodeFinished("c")) == [SUCCESS]


def test_a_twin_of_an_expanding_node_does_not_wait_for_it():
    # The children may need the twin: waiting for each other would never end.
    machine = plan(out("o", "x", "t"), node("x", key="k", lane=1), node("t", key="k", lane=2))
    assert len(machine.handle(Started())) == 1
    (running,) = machine.running
    other = "t" if running == "x" else "x"
    assert machine.handle(Expanded(running, [node("c", other)], ["c"])) == [RunNode(other)]
    assert machine.handle(NodeFinished(other)) == [RunNode("c")]
    assert machine.handle(NodeFinished("c")) == [ResolveExpansion(running)]


def test_a_cycle_made_by_an_expansion_ends_the_prompt():
    machine = plan(out("o", "x"), node("x"))
    machine.handle(Started())
    (finish,) = machine.handle(Expanded("x", [node("c", "d"), node("d", "c")], ["c"]))
    assert finish.outcome == "cycle"
    assert set(finish.cycle) == {"c", "d"}


def test_a_child_that_waits_for_its_parent_is_a_cycle():
    machine = plan(out("x"))
    machine.handle(Started())
    (finish,) = machine.handle(Expanded("x", [node("c", "x")], ["c"]))
    assert set(finish.cycle) == {"c", "x"}


def test_lost_results_are_made_anew():
    machine = plan(out("o", "a"), node("a", "s"), node("s"))
    assert machine.handle(Started(frozenset({"a"}))) == [RunNode("o")]
    assert machine.handle(ResultsLost("o", ["a"])) == [RunNode("s")]
    assert machine.handle(NodeFinished("s")) == [RunNode("a")]
    assert machine.handle(NodeFinished("a")) == [RunNode("o")]
    assert machine.handle(NodeFinished("o")) == [SUCCESS]


def test_two_readers_that_miss_one_result_have_it_made_once():
    machine = plan(out("o", "a", lane=1), out("p", "a", lane=2), node("a", lane=3))
    machine.handle(Started(frozenset({"a"})))
    assert machine.handle(ResultsLost("o", ["a"])) == [RunNode("a")]
    assert machine.handle(ResultsLost("p", ["a"])) == []
    assert set(machine.handle(NodeFinished("a"))) == {RunNode("o"), RunNode("p")}


def test_the_first_failure_ends_the_prompt_and_later_events_mean_nothing():
    machine = plan(out("o", "a", "b"), node("a", lane=1), node("b", lane=2))
    machine.handle(Started())
    assert machine.handle(NodeFailed("a")) == [FinishPrompt("failed", "a")]
    assert machine.handle(NodeFinished("b")) == []
    assert machine.handle(NodeFailed("b")) == []


def test_cancelling_ends_the_prompt():
    machine = plan(out("o"))
    machine.handle(Started())
    assert machine.handle(Cancelled()) == [FinishPrompt("cancelled")]


def test_a_long_chain_needs_no_stack():
    count = 20_000
    machine = plan(out("0", "1"), *(node(str(i), str(i + 1)) for i in range(1, count)), node(str(count)))
    actions = machine.handle(Started())
    for _ in range(count + 1):
        (action,) = actions
        actions = machine.handle(NodeFinished(action.node_id))
    assert actions == [SUCCESS]


@st.composite
def graphs(draw):
    """A random DAG: node i may read nodes above i; some inputs lazy, some nodes equal, some lanes, some cached."""
    count = draw(st.integers(1, 12))
    nodes = []
    for index in range(count):
        sources = draw(st.sets(st.integers(index + 1, count), max_size=3)) - {count}
        inputs = {f"in_{source}": str(source) for source in sources}
        nodes.append(
            PlanNode(
                str(index),
                inputs,
                lazy=frozenset(draw(st.sets(st.sampled_from(sorted(inputs)))) if inputs else ()),
                lane=draw(st.integers(0, 2)),
                is_async=draw(st.booleans()),
                is_output=index == 0 or draw(st.booleans()),
                key=draw(st.none() | st.integers(0, 3)),
            )
        )
    cached = frozenset(draw(st.sets(st.sampled_from([item.node_id for item in nodes]), max_size=3)))
    return nodes, cached


@settings(max_examples=tried(60, 3000), deadline=None)
@given(graphs(), st.randoms(use_true_random=False))
def test_every_graph_ends_well_whatever_the_order(drawn, random):
    nodes, cached = drawn
    by_id = {item.node_id: item for item in nodes}
    outputs = [item.node_id for item in nodes if item.is_output]
    machine = Plan(nodes, outputs, max_running=3)
    running: list[str] = []
    available = set(cached)
    made: set[object] = set()
    runs: dict[str, int] = {}
    busy: set[object] = set()
    actions = machine.handle(Started(cached))
    for _ in range(500):
        finished = [action for action in actions if isinstance(action, FinishPrompt)]
        for action in actions:
            if isinstance(action, RunNode):
                item = by_id[action.node_id]
                assert action.node_id not in running
                strong = {source for name, source in item.sources.items() if name not in item.lazy}
                assert all(
                    s in available or (by_id[s].key is not None and by_id[s].key in made) for s in strong
                )
                if not item.is_async:
                    assert item.lane not in busy
                    busy.add(item.lane)
                running.append(action.node_id)
                runs[action.node_id] = runs.get(action.node_id, 0) + 1
                assert len(running) <= 3
            elif isinstance(action, EmitCached):
                available.add(action.node_id)
        if finished:
            assert finished == [SUCCESS]
            assert not running
            assert all(output in available for output in outputs)
            return
        node_id = running.pop(random.randrange(len(running)))
        item = by_id[node_id]
        if not item.is_async:
            busy.discard(item.lane)
        missing = [
            name
            for name, source in item.sources.items()
            if source not in available and not (by_id[source].key is not None and by_id[source].key in made)
        ]
        if missing and random.random() < 0.5:
            actions = machine.handle(LazyRequested(node_id, missing[:1]))
        else:
            available.add(node_id)
            if item.key is not None:
                made.add(item.key)
            actions = machine.handle(NodeFinished(node_id))
    pytest.fail("the plan does not end")

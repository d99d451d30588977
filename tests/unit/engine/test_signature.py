"""What makes two nodes the same computation (execution-semantics §4.1)."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.graph import Graph
from engine.signature import NeverEqualError, Signatures, canonical
from engine.testing import FakeNode
from engine.values import encode
from tests.unit.engine.scene import BASICS, prompt

TICKET = FakeNode("Ticket", lambda: (1,), not_idempotent=True)
OWN_ID = FakeNode("OwnId", lambda: (1,), hidden={"id": "UNIQUE_ID"})
RAW = FakeNode("Raw", lambda x: (x,), {"x": ["*", {"rawLink": True}]}, raw_link=("x",))
OWN_ID_V3 = FakeNode("OwnIdV3", lambda: (1,), hidden={"unique_id": "UNIQUE_ID"}, api="v3")
TYPES = {node.class_type: node.describe() for node in (*BASICS, TICKET, OWN_ID, OWN_ID_V3, RAW)}


def digests(graph, is_changed=None, run="run"):
    signatures = Signatures(Graph(graph, TYPES), run, sub_caches=True)
    signatures.extend(graph, is_changed or {})
    return {node_id: key.digest for node_id, key in signatures.keys.items()}


def same(one, other, **kwargs):
    return digests(prompt(x=one), **kwargs)["x"] == digests(prompt(x=other), **kwargs)["x"]


def test_ids_do_not_matter():
    one = digests(prompt(a=("Const", {"v": 1}), b=("Add", {"a": ["a", 0], "b": 2})))
    other = digests(prompt(p=("Add", {"b": 2, "a": ["q", 0]}), q=("Const", {"v": 1})))
    assert one["b"] == other["p"]
    assert one["a"] == other["q"]


@pytest.mark.parametrize(
    "other",
    [
        ("Const", {"v": 2}),
        ("Const", {"v": "1"}),
        ("Const", {"v": [1]}),
        ("Const", {"w": 1}),
        ("Const", {"v": 1, "undeclared": 0}),
        ("Image", {"v": 1}),
    ],
)
def test_class_and_all_inputs_matter(other):
    assert not same(("Const", {"v": 1}), other)


def test_slot_and_source_matter():
    base = prompt(a=("Const", {"v": 1}), b=("Const", {"v": 2}), x=("Show", {"x": ["a", 0]}))
    found = {
        digests({**base, "x": {"class_type": "Show", "inputs": {"x": link}}})["x"]
        for link in (["a", 0], ["b", 0], ["a", 1])
    }
    assert len(found) == 3


def test_a_source_far_up_matters():
    def chain(value):
        return digests(
            prompt(
                a=("Const", {"v": value}),
                b=("Add", {"a": ["a", 0], "b": 1}),
                c=("Add", {"a": ["b", 0], "b": 1}),
            )
        )

    assert chain(1)["c"] != chain(2)["c"]


def test_what_a_raw_link_leads_to_matters():
    found = [
        digests(prompt(a=("Const", {"v": value}), x=("Raw", {"x": ["a", 0]})))["x"] for value in (1, 2, 2)
    ]
    assert found[0] != found[1] == found[2]


def test_the_id_matters_where_the_class_says_so():
    found = digests(
        prompt(a=("Ticket",), b=("Ticket",), c=("OwnId",), d=("OwnId",), e=("OwnIdV3",), f=("OwnIdV3",))
    )
    assert found["a"] != found["b"]
    assert found["c"] != found["d"]
    assert found["e"] == found["f"]  # as in ComfyUI: V3 nodes are not keyed by id


def test_the_is_changed_value_matters():
    graph = prompt(a=("Const", {"v": 1}), b=("Show", {"x": ["a", 0]}))
    assert digests(graph, {"a": [True]}) == digests(graph, {"a": [True]})
    assert digests(graph, {"a": ["t1"]})["b"] != digests(graph, {"a": ["t2"]})["b"]


def test_nan_never_matches_and_spreads_downstream():
    graph = prompt(a=("Const", {"v": 1}), b=("Show", {"x": ["a", 0]}), c=("Show", {"x": ["a", 0]}))
    one = digests(graph, {"a": [{"$float": "nan"}]}, run="1")
    other = digests(graph, {"a": [{"$float": "nan"}]}, run="2")
    assert one["a"] != other["a"]
    assert one["b"] != other["b"]
    assert one["b"] == one["c"]  # within one run both hang on the same value


def test_a_link_into_nowhere_and_a_cycle_never_match():
    assert digests(prompt(a=("Show", {"x": ["z", 0]})), run="1") != digests(
        prompt(a=("Show", {"x": ["z", 0]})), run="2"
    )
    cycle = prompt(a=("Add", {"a": ["b", 0], "b": 1}), b=("Add", {"a": ["a", 0], "b": 1}))
    assert digests(cycle, run="1")["a"] != digests(cycle, run="2")["a"]


def test_what_looks_like_a_wire_tag_is_only_an_object():
    assert not same(("Const", {"v": {"$tuple": [1]}}), ("Const", {"v": [1]}))
    assert same(("Const", {"v": {"$tuple": [1]}}), ("Const", {"v": {"$tuple": [1]}}))


def test_a_long_chain_needs_no_stack():
    graph = {"0": {"class_type": "Const", "inputs": {"v": 1}}}
    for number in range(1, 20_000):
        graph[str(number)] = {"class_type": "Add", "inputs": {"a": [str(number - 1), 0], "b": 1}}
    assert len(set(digests(dict(reversed(graph.items()))).values())) == 20_000


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, True), (1, 1.0), (0, False), (0, -0.0), ([], {}), ({"a": 1, "b": 2}, {"b": 2, "a": 1})],
)
def test_equal_as_in_python(one, other):
    assert canonical(one) == canonical(other)


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4)
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def hashable(value):
    """A set of places with what is there: lists are told from dicts by what their places are called."""
    if not isinstance(value, dict | list):
        return value
    places = value if isinstance(value, dict) else range(len(value))
    return frozenset((place, hashable(value[place])) for place in places)


@given(trees, trees)
def test_canonical_bytes_are_equal_exactly_when_the_constants_are(one, other):
    assert (canonical(encode(one)) == canonical(encode(other))) == (hashable(one) == hashable(other))


@pytest.mark.parametrize(
    "tree",
    [
        math.nan,
        [1, math.nan],
        {"$float": "nan"},
        {"$tensor": {}},
        {"$handle": {"id": 1}},
        {"$set": [1]},
        {"$blocker": None},
    ],
)
def test_these_equal_nothing(tree):
    with pytest.raises(NeverEqualError):
        canonical(tree)

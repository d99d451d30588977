"""What a node returned is held against the class that was registered, whatever its sandbox says."""

from __future__ import annotations

from typing import Any

import pytest

from engine import NodeOutputError
from engine.graph import Graph, GraphNode
from engine.returned import check_outcome
from engine.testing import FakeNode, Tensor
from sandbox import Value
from sandbox.calls import ExpandedCall, ExpandedNode, NodeResult
from tests.unit.engine.scene import Stage, prompt

ONE = (Value(1),)
TWO = (Value(1), Value(2))


def node(**fields: Any) -> GraphNode:
    fields = {"outputs": ("INT", "STRING"), "output_is_list": (False, True)} | fields
    kind = FakeNode("Make", lambda: (), extension="pack", **fields).describe()
    return Graph({"7": {"class_type": "Make", "inputs": {}}}, {"Make": kind}, "")["7"]


def slots(*found: tuple[Value, ...], blocked: tuple[tuple[int, str], ...] = ()) -> NodeResult:
    return NodeResult(found, None, None, blocked)


def calls(*found: ExpandedCall) -> NodeResult:
    return NodeResult(None, None, found, ())


CHILD = {"c": ExpandedNode("Const", {}, None)}


@pytest.mark.parametrize(
    ("fields", "inputs", "outcome"),
    [
        ({}, {}, slots()),
        ({}, {}, slots(ONE)),
        ({}, {"a": ONE, "lazy": None}, slots(ONE, (*TWO, *TWO))),
        ({}, {"a": TWO, "b": ONE}, slots(TWO, ())),
        ({}, {"a": ()}, slots(ONE)),
        ({"input_is_list": True}, {"a": TWO}, slots(ONE)),
        ({}, {"a": TWO}, slots(TWO, TWO, blocked=((1, "stop"),))),
        ({}, {"a": TWO}, calls(ExpandedCall(ONE, CHILD), ExpandedCall((), None))),
    ],
)
def test_what_the_class_and_the_inputs_allow_is_let_through(
    fields: Any, inputs: Any, outcome: NodeResult
) -> None:
    check_outcome(node(**fields), inputs, outcome)


@pytest.mark.parametrize(
    ("fields", "inputs", "outcome", "figure"),
    [
        ({}, {}, slots(ONE, ONE, ONE), "3 outputs, and its class declares 2"),
        ({"outputs": (), "output_is_list": ()}, {}, slots(ONE), "1 outputs, and its class declares 0"),
        ({}, {}, slots(TWO), "2 values in output 0, which is declared as no list"),
        ({}, {"a": TWO}, slots(ONE), "1 values in output 0"),
        ({}, {}, slots(()), "0 values in output 0"),
        ({"input_is_list": True}, {"a": TWO}, slots(TWO), "has one for each of the 1 calls"),
        ({}, {}, slots(ONE, blocked=((1, "stop"),)), "a blocker for call 1, and it was called once"),
        ({}, {"a": TWO}, calls(ExpandedCall(ONE, CHILD)), "1 results of an expansion for 2 calls"),
        ({}, {}, calls(ExpandedCall((*TWO, *TWO), CHILD)), "4 outputs, and its class declares 2"),
        (
            {"may_expand": False, "api": "v3"},
            {},
            calls(ExpandedCall(ONE, CHILD)),
            "an expansion of 1 nodes, and its class declares none",
        ),
    ],
)
def test_anything_else_is_an_error_that_names_node_extension_and_figure(
    fields: Any, inputs: Any, outcome: NodeResult, figure: str
) -> None:
    with pytest.raises(NodeOutputError) as caught:
        check_outcome(node(**fields), inputs, outcome)
    assert str(caught.value).startswith("node '7' (Make) of extension 'pack' returned ")
    assert figure in str(caught.value)
    assert caught.value.hint == "if the pack was changed since it was loaded: ringfence extension reload pack"


@pytest.mark.anyio
async def test_such_a_node_fails_alone_and_nothing_of_it_is_kept() -> None:
    more = FakeNode("More", lambda: (Tensor("a"), Tensor("b")), outputs=("IMAGE",), extension="pack")
    async with Stage(more) as stage:
        error = await stage.error(prompt(m=("More",), s=("Sink", {"x": ["m", 0]})))
    assert error["node_id"] == "m"
    assert error["exception_type"] == "ringfence.NodeOutputError"
    assert "'pack' returned 2 outputs, and its class declares 1" in error["exception_message"]

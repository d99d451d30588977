"""Prompts for nodes that nobody has described: what is filled, and from where."""

from __future__ import annotations

import pytest

from engine.trial_prompts import TARGET, Maker, UnfillableError


def info(
    name: str, *, output: tuple[str, ...] = ("STRING",), module: str = "custom_nodes.p", **inputs: object
):  # type: ignore[no-untyped-def]
    return {
        "name": name,
        "python_module": module,
        "input": inputs,
        "output": list(output),
        "output_node": False,
    }


CATALOGUE = {
    "Plain": info("Plain", required={"a": ["INT", {"default": 7}]}),
    "More": info(
        "More",
        required={"a": ["INT", {}]},
        optional={"b": ["FLOAT", {"default": 0.5}], "thing": ["THING"], "nowhere": ["NOBODY_MAKES_IT"]},
    ),
    "MakesThing": info("MakesThing", output=("THING",), required={}),
    "Unfillable": info("Unfillable", required={}, optional={"x": ["NOBODY_MAKES_IT"]}),
}


def test_optional_inputs_are_left_out_unless_asked_for() -> None:
    assert Maker(CATALOGUE).prompt("More")[TARGET]["inputs"] == {"a": 1}


def test_each_optional_input_that_can_be_filled_is_filled_when_asked_for() -> None:
    graph = Maker(CATALOGUE).prompt("More", all_inputs=True)
    inputs = graph[TARGET]["inputs"]
    assert set(inputs) == {"a", "b", "thing"}
    assert inputs["b"] == 0.5
    assert graph[inputs["thing"][0]]["class_type"] == "MakesThing"


@pytest.mark.parametrize("name", ["Plain", "Unfillable"])
def test_a_node_without_an_optional_input_that_can_be_filled_has_no_such_prompt(name: str) -> None:
    with pytest.raises(UnfillableError, match="no optional input"):
        Maker(CATALOGUE).prompt(name, all_inputs=True)

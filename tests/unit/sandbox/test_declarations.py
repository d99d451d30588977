"""Nodes are registered one by one: what a hostile or broken description costs is that node, and it says why."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import wire
from sandbox import ProtocolViolationError
from sandbox.declarations import MAX_PAGES, Registration, unknown_defaults
from sandbox.testing import LOADED, FakeLauncher, FakeWorker
from tests.contract.kit import world

pytestmark = pytest.mark.anyio

GOOD: dict[str, Any] = {
    "class_type": "Good",
    "info": {
        "input": {"required": {"a": ["INT", {"default": 1}]}, "hidden": {"u": "UNIQUE_ID"}},
        "input_order": {"required": ["a"]},
        "output": ["IMAGE", ["x", "y"]],
        "output_is_list": [False, True],
        "output_name": ["image", "choice"],
        "name": "Good",
        "display_name": "A good \U0001f3f4\u200d\u2620\ufe0f node",
        "description": "",
        "category": "t",
        "output_node": False,
    },
    "api": "v1",
    "hidden": {"u": "UNIQUE_ID"},
    "any_inputs": [],
    "any_outputs": [0],
    "accepts_any_name": False,
    "raw_link": [],
    "lazy": [],
    "output_node": False,
    "not_idempotent": False,
    "is_async": False,
    "has_lazy": False,
    "has_fingerprint": False,
    "validator": None,
    "dynamic": False,
    "enable_expand": True,
}


def node(name: str = "Good", /, **changes: Any) -> dict[str, Any]:
    """A good node with changes; ``info__x`` changes the entry for clients."""
    made = copy.deepcopy(GOOD) | {"class_type": name}
    made["info"]["name"] = name
    for key, value in changes.items():
        inside, _, key_inside = key.partition("__")
        if key_inside:
            made[inside][key_inside] = value
        else:
            made[key] = value
    return made


def required(declaration: Any, name: str = "a") -> dict[str, Any]:
    return {"required": {name: declaration}}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (node("Bad", info__name="Other"), "its description calls it 'Other'"),
        (node("Bad", info__display_name=["x"]), "its display_name is no text"),
        (node("Bad", info__category="x" * 1001), "its category has 1001 characters, at most 1000 may be"),
        (node("Bad", info__description="x" * 100_001), "its description has 100001 characters"),
        (node("Bad", info__input=[]), "its inputs are no object"),
        (node("Bad", info__input={"optional": []}), "its optional inputs are no object"),
        (
            node("Bad", info__input={"required": {str(n): ["*"] for n in range(2001)}}),
            "more than 2000 inputs",
        ),
        (
            node("Bad", info__input=required(["*"], "x" * 257)),
            "the name of a required input has 257 characters",
        ),
        (node("Bad", info__input=required([])), "required input 'a' has no type"),
        (node("Bad", info__input=required([{"x": 1}])), "required input 'a' has an object for its type"),
        (node("Bad", info__input=required(["x" * 5000])), "required input 'a' has a type of 5000 characters"),
        (node("Bad", info__output=None), "its output is no list"),
        (node("Bad", info__output=["*"] * 1001), "its output has 1001 entries, at most 1000 may be"),
        (node("Bad", info__output=[{}]), "output 0 has no type"),
        (node("Bad", info__output_is_list=[1]), "its output_is_list has something else than true and false"),
        (node("Bad", any_outputs=[2]), "it says that output 2 takes any type, and has 2"),
        (node("Bad", output_node=True), "it is an output node in one place and none in another"),
        (node("Bad", lazy="a"), "its description is malformed: lazy: Input should be a valid list"),
        (node("Bad", secret=1), "its description is malformed: secret: Extra inputs are not permitted"),
        ({"class_type": "Bad"}, "its description is malformed: info: Field required"),
        (node("Bad\x1b[31m"), "its name has control characters in it"),
        (7, "its description is malformed"),
    ],
)
def test_a_bad_node_is_left_out_with_its_reason_and_the_rest_loads(bad: Any, reason: str) -> None:
    nodes = Registration()
    nodes.add([node("First"), bad, node("Last")], {"Skipped": "it raised"})
    assert list(nodes.nodes) == ["First", "Last"]
    assert nodes.left_out.pop("Skipped") == "it raised"
    ((name, said),) = nodes.left_out.items()
    assert reason in said
    assert "\x1b" not in name


def test_a_name_that_is_declared_twice_counts_once() -> None:
    nodes = Registration()
    nodes.add([node(info__category="first"), node(info__category="second")], {})
    assert nodes.nodes["Good"].info["category"] == "first"
    assert "twice" in nodes.left_out["Good"]


def test_what_packs_do_in_earnest_is_accepted() -> None:
    nodes = Registration()
    nodes.add(
        [
            node("Slots", info__output_is_list=[True]),  # fewer flags than outputs limit the slots
            node("Names", info__output_name=[]),
            node("Bare", info__input={"required": {"a": "INT"}, "strange": 5}),
            node("Options", info__input=required(["INT", "no dict"])),
            node("None", info__display_name=None, info__input={}),
            node("Combo", info__input=required([["a", 1, None, True], {"default": "gone"}])),
        ],
        {},
    )
    assert nodes.left_out == {}
    assert nodes.notes == [
        "node 'Combo': the default of input 'a' is not among its options; a prompt that keeps it is refused"
    ]


@pytest.mark.parametrize(
    ("declaration", "is_unknown"),
    [
        ([["a"], {"default": "b"}], True),
        ([["a"], {"default": "a"}], False),
        ([[], {"default": "b"}], False),  # a list of files that is empty so far
        (["COMBO", {"options": ["a"], "default": "b"}], True),
        (["COMBO", {"options": ["a", "b"], "default": ["a", "b"], "multiselect": True}], False),
        (["COMBO", {"options": ["a"], "default": ["a", "b"], "multiselect": True}], True),
        (["COMBO", {"remote": {}, "default": "b"}], False),
        (["INT", {"default": 5}], False),
        ([[1, 2.5, True], {"default": 1.0}], False),
        ([["1"], {"default": 1}], True),
        ([[None], {"default": ["x"]}], True),
    ],
)
def test_defaults_outside_their_options_are_found(declaration: Any, is_unknown: bool) -> None:
    assert unknown_defaults({"input": required(declaration)}) == (["a"] if is_unknown else [])


@pytest.mark.timeout(60)
def test_long_lists_of_defaults_and_options_do_not_hold_up_the_host() -> None:
    count = 100_000
    options = [str(number) for number in range(count)]
    alike = [number * (2**61 - 1) + 7 for number in range(count)]  # to Python all of one hash
    for choices in (options, alike):
        declaration = ["COMBO", {"options": choices, "default": choices[::-1], "multiselect": True}]
        assert unknown_defaults({"input": required(declaration)}) == []


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


@given(st.sampled_from(sorted(GOOD)), _json)
def test_anything_in_a_description_is_registered_or_left_out(key: str, value: Any) -> None:
    nodes = Registration()
    nodes.add([copy.deepcopy(GOOD) | {key: value}], {})
    assert len(nodes.nodes) + len(nodes.left_out) == 1


@given(st.sampled_from(sorted(GOOD["info"])), _json)
def test_anything_in_an_entry_for_clients_is_registered_or_left_out(key: str, value: Any) -> None:
    nodes = Registration()
    nodes.add([node(**{f"info__{key}": value})], {})
    assert len(nodes.nodes) + len(nodes.left_out) == 1


def test_a_bad_replacement_is_left_out_with_a_note() -> None:
    nodes = Registration()
    good = {
        "new_node_id": "New",
        "old_node_id": "Old",
        "old_widget_ids": ["a"],
        "input_mapping": [{"new_id": "a", "old_id": "b"}, {"new_id": "c", "set_value": None}],
        "output_mapping": [{"new_idx": 0, "old_idx": 1}],
    }
    bad = [{**good, "new_node_id": ""}, {**good, "output_mapping": [{"new_idx": -1, "old_idx": 0}]}, 5]
    (kept,) = nodes.replacements([good, *bad])
    assert (kept.new_node_id, kept.old_node_id, kept.old_widget_ids) == ("New", "Old", ("a",))
    assert kept.input_mapping == ({"new_id": "a", "old_id": "b"}, {"new_id": "c", "set_value": None})
    assert len(nodes.notes) == 3
    assert "a node replacement was left out: new_node_id: " in nodes.notes[0]


def test_descriptions_over_the_hosts_memory_are_left_out_with_the_figures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sandbox.declarations.MAX_WEIGHT", 20_000)
    nodes = Registration()
    nodes.add([node("A"), node("B", info__input=required([["x" * 100] * 100])), node("C")], {})
    assert list(nodes.nodes) == ["A", "C"]
    assert "would take" in nodes.left_out["B"]
    assert "at most 19.5 KiB may be" in nodes.left_out["B"]
    nodes.add(
        [node("D", any_inputs=["x" * 100] * 100), node("E")], {}
    )  # what clients are not shown counts too
    assert list(nodes.nodes) == ["A", "C", "E"]


# -- pages -----------------------------------------------------------------------------------------------------------


async def test_descriptions_in_pages_arrive_whole(tmp_path: Path) -> None:
    pages: list[dict[str, Any]] = [
        {"nodes": [node("B"), node("Bad", info__output=None)], "skipped": [], "more": 12},
        {"nodes": [node("C")], "skipped": [{"class_type": "S", "error": "e"}], "more": None},
    ]
    asked: list[dict[str, Any]] = []

    def describe(params: dict[str, Any]) -> dict[str, Any]:
        asked.append(params)
        return pages[len(asked) - 1]

    async def script(worker: FakeWorker) -> None:
        first = {**LOADED, "nodes": [node("A")], "more": 11}
        await worker.serve({wire.LOAD: first, wire.DESCRIBE: describe})

    async with world(tmp_path, lambda places, _: FakeLauncher(places, script)) as at:
        at.shelf.write("pack", "")
        session = await at.session("pack")
        assert [item.class_type for item in session.loaded.nodes] == ["A", "B", "C"]
        assert dict(session.loaded.skipped) == {"Bad": "its output is no list", "S": "e"}
        assert asked == [{"more": 11}, {"more": 12}]
        asked.clear()
        assert [item.class_type for item in await session.describe(["B", "C"])] == ["B", "C"]
        assert asked == [{"extension": "pack", "class_types": ["B", "C"]}, {"more": 12}]


async def test_pages_without_end_break_the_protocol(tmp_path: Path) -> None:
    count = 0

    def describe(_: dict[str, Any]) -> dict[str, Any]:
        nonlocal count
        count += 1
        return {"nodes": [], "skipped": [], "more": 1}

    async def script(worker: FakeWorker) -> None:
        await worker.serve({wire.LOAD: {**LOADED, "more": 1}, wire.DESCRIBE: describe})

    async with world(tmp_path, lambda places, _: FakeLauncher(places, script)) as at:
        at.shelf.write("pack", "")
        with pytest.raises(
            ProtocolViolationError, match=f"describes its nodes in more than {MAX_PAGES} messages"
        ):
            await at.session("pack")
    assert count == MAX_PAGES - 1


def test_good_is_what_the_wire_takes() -> None:
    assert json.loads(json.dumps(GOOD)) == GOOD

"""Old node classes and their successors: which nodes of a prompt are rewritten, and how."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from engine import PromptInvalidError, replacements
from engine.extension_catalog import Offer, make_catalog
from policies import ExtensionName
from sandbox import NodeReplacement
from tests.unit.extensions.stand_ins import described

OLD_TO_NEW = NodeReplacement(
    "New",
    "Old",
    ("width",),
    (
        {"new_id": "image", "old_id": "picture"},
        {"new_id": "mode", "set_value": "fast"},
        {"new_id": "x", "old_id": "no"},
    ),
    ({"new_idx": 1, "old_idx": 0},),
)
PLAIN = NodeReplacement("New", "Older")


def types(*items: NodeReplacement, classes: tuple[str, ...] = ("New", "Other")) -> Any:
    nodes = {name: described(name) for name in classes}
    return make_catalog([Offer(ExtensionName("pack"), nodes, 1, replacements=items)]).types


def prompt(old: str = "Old") -> dict[str, Any]:
    return {
        "1": {"class_type": "Other", "inputs": {}},
        "2": {"class_type": old, "inputs": {"picture": ["1", 0], "left": 5}, "_meta": {"title": "Mine"}},
        "3": {"class_type": "Other", "inputs": {"a": ["2", 0], "b": ["2", 7], "c": ["1", 0], "d": [1, 2]}},
    }


def test_an_unknown_node_becomes_its_successor_and_links_to_it_are_renumbered() -> None:
    given = prompt()
    before = copy.deepcopy(given)
    after = replacements.apply(given, types(OLD_TO_NEW))
    assert after["2"] == {
        "class_type": "New",
        "inputs": {"image": ["1", 0], "mode": "fast"},
        "_meta": {"title": "Mine"},
    }
    assert after["3"]["inputs"] == {"a": ["2", 1], "b": ["2", 7], "c": ["1", 0], "d": [1, 2]}
    assert given == before


def test_without_a_mapping_no_input_is_kept_and_no_link_changes() -> None:
    after = replacements.apply(prompt("Older"), types(PLAIN))
    assert after["2"]["inputs"] == {}
    assert after["3"] == prompt()["3"]


@pytest.mark.parametrize(
    ("items", "classes"),
    [
        ((), ("New", "Other")),
        ((PLAIN,), ("New", "Other")),  # for another class
        ((OLD_TO_NEW,), ("Other",)),  # the successor is unknown too
        ((OLD_TO_NEW,), ("New", "Other", "Old")),  # the old class is still there
    ],
)
def test_what_has_no_successor_stays_as_it_is(items: Any, classes: tuple[str, ...]) -> None:
    given = prompt()
    assert replacements.apply(given, types(*items, classes=classes)) is given


@pytest.mark.parametrize(
    "given", [None, [], {"1": 5}, {"1": {"class_type": ["Old"]}}, {"1": {"class_type": "Old"}}]
)
def test_malformed_prompts_are_left_to_validation(given: Any) -> None:
    known = types(OLD_TO_NEW)
    after = replacements.apply(given, known)
    assert after == given or after["1"] == {"class_type": "New", "inputs": {"mode": "fast"}}


@pytest.mark.parametrize(
    "mapping",
    [
        [{"new_id": f"n{number}", "set_value": "x" * 100_000} for number in range(10)],
        [{"new_id": f"n{number}", "old_id": "a"} for number in range(2000)],
    ],
)
def test_a_prompt_does_not_grow_beyond_what_a_client_may_send(mapping: list[dict[str, Any]]) -> None:
    known = types(NodeReplacement("New", "Old", None, tuple(mapping)))
    node = {"class_type": "Old", "inputs": {"a": "y" * 1000}}
    few = replacements.apply({str(number): node for number in range(5)}, known)
    assert len(few["4"]["inputs"]) == len(mapping)
    with pytest.raises(PromptInvalidError) as caught:
        replacements.apply({str(number): node for number in range(1000)}, known)
    assert "takes more than 32" in caught.value.error["details"]


def test_clients_see_the_replacements_whose_successor_there_is() -> None:
    gone = NodeReplacement("Nobody", "Old")
    assert replacements.shown(types(OLD_TO_NEW, PLAIN, gone)) == {
        "Old": [
            {
                "new_node_id": "New",
                "old_node_id": "Old",
                "old_widget_ids": ["width"],
                "input_mapping": [dict(item) for item in OLD_TO_NEW.input_mapping or ()],
                "output_mapping": [{"new_idx": 1, "old_idx": 0}],
            }
        ],
        "Older": [
            {
                "new_node_id": "New",
                "old_node_id": "Older",
                "old_widget_ids": None,
                "input_mapping": None,
                "output_mapping": None,
            }
        ],
    }

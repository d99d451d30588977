from __future__ import annotations

from typing import Any

import pytest

from runtime import dynamic

#: The checked example of the compatibility notes (node-api-v3 §6).
EXAMPLE: dict[str, Any] = {
    "required": {
        "dc": (
            "COMFY_DYNAMICCOMBO_V3",
            {
                "options": [
                    {
                        "key": "one",
                        "inputs": {"required": {"x": ("INT", {"default": 1, "min": 0, "max": 5})}},
                    },
                    {
                        "key": "two",
                        "inputs": {"required": {"y": ("STRING", {})}, "optional": {"im": ("IMAGE", {})}},
                    },
                ]
            },
        ),
        "ag": (
            "COMFY_AUTOGROW_V3",
            {"template": {"input": {"required": {"v": ("*", {})}}, "prefix": "v", "min": 1, "max": 3}},
        ),
        "an": (
            "COMFY_AUTOGROW_V3",
            {
                "template": {
                    "input": {"required": {}, "optional": {"f": ("FLOAT", {})}},
                    "names": ["a", "b"],
                    "min": 0,
                }
            },
        ),
    },
    "optional": {"mt": ("COMFY_MATCHTYPE_V3", {"template": {"template_id": "T", "allowed_types": "*"}})},
}


def nest(declared: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
    layout = dynamic.layout(declared, inputs)
    return layout.nest({name: value for name, value in inputs.items() if name in layout.places})


def test_the_checked_example_nests_as_it_was_seen_to() -> None:
    inputs = {"dc": "one", "dc.x": 3, "ag.v0": "q", "ag.v1": "linked"}
    assert nest(EXAMPLE, inputs) == {"dc": {"x": 3, "dc": "one"}, "ag": {"v0": "q", "v1": "linked"}, "an": {}}


def test_only_the_chosen_options_inputs_are_declared() -> None:
    places = dynamic.layout(EXAMPLE, {"dc": "two"}).places
    assert {name for name in places if name.startswith("dc")} == {"dc", "dc.y", "dc.im"}


@pytest.mark.parametrize("inputs", [{}, {"dc": "three"}])
def test_an_absent_or_unknown_choice_counts_as_not_declared(inputs: dict[str, Any]) -> None:
    assert nest(EXAMPLE, inputs) == {"ag": {}, "an": {}}


def test_names_and_counts_bound_a_growing_list() -> None:
    places = dynamic.layout(EXAMPLE, {}).places
    assert {"ag.v0", "ag.v1", "ag.v2", "an.a", "an.b"} <= set(places)
    assert "ag.v3" not in places
    huge = {"required": {"g": ("COMFY_AUTOGROW_V3", {"template": {"prefix": "p", "max": 10**9}})}}
    assert len(dynamic.layout(huge, {}).places) == 100


def test_choices_nest_in_choices() -> None:
    inner = ("COMFY_DYNAMICCOMBO_V3", {"options": [{"key": "k", "inputs": {"required": {"z": ("INT", {})}}}]})
    outer = {
        "required": {
            "o": ("COMFY_DYNAMICCOMBO_V3", {"options": [{"key": "a", "inputs": {"required": {"i": inner}}}]})
        }
    }
    assert nest(outer, {"o": "a", "o.i": "k", "o.i.z": 5}) == {"o": {"o": "a", "i": {"i": "k", "z": 5}}}


def test_a_revealing_socket_is_a_dict_once_it_is_connected() -> None:
    slot = {
        "optional": {
            "s": ("COMFY_DYNAMICSLOT_V3", {"slotType": "IMAGE", "inputs": {"required": {"n": ("INT", {})}}})
        }
    }
    assert nest(slot, {"s": "linked", "s.n": 2}) == {"s": {"s": "linked", "n": 2}}
    assert nest(slot, {}) == {}


def test_static_declarations_are_not_dynamic() -> None:
    assert dynamic.has_dynamic(EXAMPLE)
    assert not dynamic.has_dynamic({"required": {"a": ("INT", {}), "c": (["x", "y"],)}, "optional": None})

"""The checked example of node-api-v3.md §6, and templates that a sandbox should not have sent."""

from collections.abc import Mapping

import pytest

from engine.dynamic_inputs import Declarations, InputDeclaration, declared_inputs

INFO = {
    "required": {
        "dc": [
            "COMFY_DYNAMICCOMBO_V3",
            {
                "options": [
                    {"key": "one", "inputs": {"required": {"x": ["INT", {"max": 5}]}}},
                    {
                        "key": "two",
                        "inputs": {"required": {"y": ["STRING", {}]}, "optional": {"im": ["IMAGE", {}]}},
                    },
                ]
            },
        ],
        "ag": [
            "COMFY_AUTOGROW_V3",
            {"template": {"input": {"required": {"v": ["*", {}]}}, "prefix": "v", "min": 1, "max": 3}},
        ],
        "an": [
            "COMFY_AUTOGROW_V3",
            {
                "template": {
                    "input": {"required": {}, "optional": {"f": ["FLOAT", {}]}},
                    "names": ["a", "b"],
                    "min": 0,
                }
            },
        ],
    },
    "optional": {"mt": ["COMFY_MATCHTYPE_V3", {"template": {"template_id": "T", "allowed_types": "*"}}]},
}


def names(given, info=INFO):
    return {item.name: item.required for item in declared_inputs(info, given).values()}


def test_chosen_option_and_submitted_names_are_declared():
    given = {"dc": "one", "dc.x": 3, "ag.v0": "q", "ag.v1": ["2", 0]}
    assert names(given) == {"dc": False, "dc.x": True, "ag.v0": True, "ag.v1": False, "mt": False}


def test_missing_children_are_required_with_short_labels():
    found = {item.name: item.label for item in declared_inputs(INFO, {"dc": "two"}).values() if item.required}
    assert found == {"dc.y": "y", "ag.v0": "v0"}


def test_unknown_or_missing_option_declares_nothing():
    assert "dc" not in names({})
    assert "dc" not in names({"dc": "three"})
    assert "dc" not in names({"dc": ["1", 0]})


def test_names_beyond_the_maximum_are_not_declared():
    assert "ag.v3" not in names({"ag.v3": 1})


def test_options_may_nest():
    inner = ["COMFY_DYNAMICCOMBO_V3", {"options": [{"key": "k", "inputs": {"required": {"z": ["INT", {}]}}}]}]
    outer = ["COMFY_DYNAMICCOMBO_V3", {"options": [{"key": "o", "inputs": {"required": {"in": inner}}}]}]
    assert names({"a": "o", "a.in": "k"}, {"required": {"a": outer}}) == {
        "a": False,
        "a.in": False,
        "a.in.z": True,
    }


def test_a_slot_reveals_its_inputs_when_connected():
    info = {
        "optional": {
            "s": ["COMFY_DYNAMICSLOT_V3", {"slotType": "IMAGE", "inputs": {"required": {"n": ["INT", {}]}}}]
        }
    }
    assert names({}, info) == {"s": False}
    assert names({"s": ["1", 0]}, info) == {"s": False, "s.n": True}


def test_nonsense_declares_nothing_and_raises_nothing():
    for nonsense in (
        None,
        [],
        "x",
        {"required": 3},
        {"required": {"a": ["COMFY_AUTOGROW_V3", {"template": 7}]}},
    ):
        assert names({"a": 1}, nonsense) == {}
    for spec in ([], None, "INT", 5):
        assert names({}, {"required": {"a": spec}}) == {"a": True}


def test_a_template_that_allows_millions_costs_little():
    template = {"input": {"optional": {"v": ["*", {}]}}, "prefix": "v", "min": 0, "max": 10**12}
    assert names({"g.v7": 1}, {"required": {"g": ["COMFY_AUTOGROW_V3", {"template": template}]}}) == {
        "g.v7": False
    }


def test_a_template_nested_without_end_stops():
    spec = ["INT", {}]
    for _ in range(50):
        spec = [
            "COMFY_AUTOGROW_V3",
            {"template": {"input": {"required": {"v": spec}}, "names": ["v"], "min": 1}},
        ]
    assert len(declared_inputs({"required": {"g": spec}}, {})) == 1


def test_what_is_the_same_for_every_instance_is_made_once_and_nothing_else() -> None:
    fixed = Declarations(
        {"required": {"a": ["INT", {"min": 0}], "b": [["x", "y"]]}, "optional": {"c": "odd"}}
    )
    first = fixed.of({"a": 1})
    assert first == declared_inputs(fixed._info, {"a": 1})
    assert fixed.of({"c": 2, "d.e": 3}) is first
    changing = Declarations(INFO)
    for given in ({"dc": "two"}, {}, {"dc": "one"}, {"dc": "two"}):
        assert changing.of(given) == declared_inputs(INFO, given)
    assert dict(Declarations(None).of({"a": 1})) == {}


@pytest.mark.parametrize("moment", range(4))
def test_whoever_asks_while_declarations_are_made_gets_all_of_them(moment: int) -> None:
    seen: list[Mapping[str, InputDeclaration]] = []

    class Watched(dict[str, object]):
        """At one of the looks into it another thread asks, and has its answer before this one goes on."""

        looks = 0

        def get(self, key: str, default: object = None) -> object:
            self.looks += 1
            if self.looks == moment + 1:
                seen.append(made.of({}))
            return super().get(key, default)

    info = Watched(required={"a": ["INT", {}]}, optional={"b": ["*", {}]})
    made = Declarations(info)
    expected = declared_inputs({"required": {"a": ["INT", {}]}, "optional": {"b": ["*", {}]}}, {})
    assert made.of({}) == expected
    assert seen == [expected]

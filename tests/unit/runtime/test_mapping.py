from __future__ import annotations

from typing import Any

import pytest

from runtime import mapping
from runtime.blocker import ExecutionBlocker
from runtime.mapping import Returned

BLOCKER = ExecutionBlocker("stop")


@pytest.mark.parametrize(
    ("arguments", "calls"),
    [
        ({}, [{}]),
        ({"a": [1]}, [{"a": 1}]),
        ({"a": [1, 2, 3], "b": [9]}, [{"a": 1, "b": 9}, {"a": 2, "b": 9}, {"a": 3, "b": 9}]),
        ({"a": [1, 2, 3], "c": [4, 5]}, [{"a": 1, "c": 4}, {"a": 2, "c": 5}, {"a": 3, "c": 5}]),
        ({"a": [], "b": []}, [{}]),
        ({"a": (None,)}, [{"a": None}]),
    ],
)  # fmt: skip
def test_the_longest_list_sets_the_number_of_calls(arguments: Any, calls: Any) -> None:
    assert mapping.split(arguments, is_list=False) == calls


def test_whole_lists_are_one_call_even_when_some_are_empty() -> None:
    assert mapping.split({"a": [], "b": [1, 2]}, is_list=True) == [{"a": [], "b": [1, 2]}]


def test_an_empty_list_beside_another_is_named() -> None:
    with pytest.raises(IndexError, match="'b'"):
        mapping.split({"a": [1, 2], "b": []}, is_list=False)


@pytest.mark.parametrize(
    ("arguments", "is_list", "found"),
    [
        ({"a": 1, "b": BLOCKER}, False, BLOCKER),
        ({"a": [BLOCKER]}, False, None),
        ({"a": [1, BLOCKER]}, True, BLOCKER),
        ({"a": []}, True, None),
    ],
)
def test_blockers_are_found_where_they_count(arguments: Any, is_list: bool, found: Any) -> None:
    assert mapping.find_blocker(arguments, is_list=is_list) is found


@pytest.mark.parametrize(
    ("results", "flags", "slots"),
    [
        ([], None, []),
        ([(1, 2), (3, 4)], None, [[1, 3], [2, 4]]),
        ([([1, 2], "x"), ([3], "y")], (True, False), [[1, 2, 3], ["x", "y"]]),
        ([(1, 2, 3)], (False, False), [[1], [2]]),
        ([(1,)], (False, True), [[1]]),
        ([(BLOCKER,), ([1],)], (True,), [[BLOCKER, 1]]),
        ([(), ()], None, []),
        ([(), (1,)], None, []),
        ([((1, 2),)], (True,), [[1, 2]]),
    ],
)
def test_results_are_merged_slot_by_slot(results: Any, flags: Any, slots: Any) -> None:
    assert mapping.merge_slots(results, flags) == slots


def test_a_call_that_returns_fewer_values_is_an_error() -> None:
    with pytest.raises(IndexError, match="call 1 returned 1 outputs"):
        mapping.merge_slots([(1, 2), (1,)], None)


def test_a_value_where_a_list_is_declared_is_an_error() -> None:
    with pytest.raises(TypeError, match="declared as a list, but the node returned int"):
        mapping.merge_slots([(5,)], (True,))


@pytest.mark.parametrize(
    ("uis", "merged"),
    [
        ([], None),
        ([{"a": [1], "b": (2,)}], {"a": [1], "b": [2]}),
        ([{"a": [1]}, {"a": [2], "extra": [3]}], {"a": [1, 2]}),
    ],
)
def test_ui_objects_are_concatenated_under_the_first_ones_keys(uis: Any, merged: Any) -> None:
    assert mapping.merge_ui(uis) == merged


@pytest.mark.parametrize("uis", [[{"a": [1]}, {}], [{"a": 5}]])
def test_ui_objects_that_do_not_match_are_errors(uis: Any) -> None:
    with pytest.raises((KeyError, TypeError), match="'a'"):
        mapping.merge_ui(uis)


class Ui:
    def as_dict(self) -> dict[str, Any]:
        return {"text": ["x"]}


class Output:
    """As V3 hands it over."""

    def __init__(
        self, result: Any = None, ui: Any = None, expand: Any = None, block_execution: Any = None
    ) -> None:
        self.result, self.ui, self.expand, self.block_execution = result, ui, expand, block_execution


class Sequence:
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        return index * 10


@pytest.mark.parametrize(
    ("returned", "normal"),
    [
        ((1, 2), Returned((1, 2))),
        ([1, 2], Returned([1, 2])),
        ((), Returned(())),
        ({}, Returned(())),
        ({"ui": {"a": [1]}}, Returned((), {"a": [1]})),
        ({"ui": {}, "result": (1, 2)}, Returned((1, 2))),
        ({"ui": Ui(), "result": [1]}, Returned([1], {"text": ["x"]})),
        ({"result": BLOCKER}, Returned([BLOCKER, BLOCKER])),
        (BLOCKER, Returned([BLOCKER, BLOCKER])),
        ({"expand": {"1": {}}, "result": (["1", 0],)}, Returned((["1", 0],), None, {"1": {}})),
        ({"expand": {}}, Returned((), None, {})),
        (Sequence(), Returned([0, 10])),
        (Output((1,)), Returned((1,))),
        (Output(None), Returned(())),
        (Output(None, Ui()), Returned((), {"text": ["x"]})),
        (Output((1, 2), None, None, "stop"), Returned([BLOCKER, BLOCKER])),
        (Output((1,), None, None, "stop"), Returned([BLOCKER])),
        (Output(None, None, None, "stop"), Returned([BLOCKER, BLOCKER])),
        (Output(("x",), None, {"1": {}}), Returned(("x",), None, {"1": {}})),
    ],
)
def test_every_way_of_returning_has_one_form(returned: Any, normal: Returned) -> None:
    assert mapping.normalise(returned, 2) == normal


@pytest.mark.parametrize("returned", [None, 5, {"result": None}, {"ui": [1]}, {"expand": [1]}, {1, 2}])
def test_what_is_no_result_is_refused_with_its_type(returned: Any) -> None:
    with pytest.raises(TypeError):
        mapping.normalise(returned, 1)

from __future__ import annotations

import json
import math
from collections import OrderedDict
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime import wire
from runtime.blocker import ExecutionBlocker
from runtime.peer import RpcError
from sandbox.values import Reader
from tests.properties import tried
from tests.unit.runtime.memoryfiles import Trip

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.text()
    | st.text("$ab", max_size=3)
    | st.binary(max_size=40)
)
HASHABLE = st.recursive(
    SCALARS, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=6
)
VALUES = st.recursive(
    SCALARS | HASHABLE | st.binary(max_size=8).map(bytearray),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.sets(HASHABLE, max_size=4)
        | st.dictionaries(st.text(max_size=5) | HASHABLE, inner, max_size=4)
    ),
    max_leaves=25,
)


@pytest.fixture
def trip(tmp_path: Path) -> Trip:
    return Trip(tmp_path / "trip")


@pytest.fixture(scope="module")
def module_trip(tmp_path_factory: pytest.TempPathFactory) -> Trip:
    return Trip(tmp_path_factory.mktemp("values") / "trip")


def same(a: Any, b: Any) -> bool:
    """Equal in type and value, NaN included, to any depth; frozensets travel as sets."""
    if isinstance(a, frozenset):
        a = set(a)
    if isinstance(b, frozenset):
        b = set(b)
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return (a == b and math.copysign(1, a) == math.copysign(1, b)) or (math.isnan(a) and math.isnan(b))
    if isinstance(a, complex):
        return same(a.real, b.real) and same(a.imag, b.imag)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return len(a) == len(b) and all(
            same(key, other) and same(a[key], b[other]) for key, other in zip(a, b, strict=True)
        )
    if isinstance(a, set):
        return len(a) == len(b) and sorted(map(repr, map(thawed, a))) == sorted(map(repr, map(thawed, b)))
    return bool(a == b)


def thawed(value: Any) -> Any:
    if isinstance(value, (set, frozenset)):
        return sorted(repr(thawed(item)) for item in value)
    return tuple(map(thawed, value)) if isinstance(value, tuple) else value


@settings(max_examples=tried(40, 2000), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(value=VALUES)
def test_plain_data_comes_back_as_it_was_and_the_host_accepts_it(module_trip: Trip, value: Any) -> None:
    try:
        tree = module_trip.send(value)
    except TypeError:
        pytest.fail("not JSON")
    Reader("s1").read(tree)  # type: ignore[arg-type]
    back = module_trip.receive(tree)
    assert same(unfrozen(value), unfrozen(back)), (value, back)


def unfrozen(value: Any) -> Any:
    """Frozensets travel as sets: both are compared by the text of their members."""
    if isinstance(value, (set, frozenset)):
        return ("set", tuple(sorted(repr(unfrozen(item)) for item in value)))
    if isinstance(value, (list, tuple)):
        return type(value)(unfrozen(item) for item in value)
    if isinstance(value, dict):
        return {
            (key if isinstance(key, str) else repr(unfrozen(key))): unfrozen(item)
            for key, item in value.items()
        }
    return value


@pytest.mark.parametrize(
    "value",
    [
        np.float32(1.5), np.float64("nan"), np.int64(-7), np.uint64(2**64 - 1), np.bool_(True), np.complex64(1 + 2j),
        np.float16("inf"), np.uint8(255),
    ],
)  # fmt: skip
def test_numpy_scalars_keep_their_type(trip: Trip, value: Any) -> None:
    back = trip.there_and_back(value)
    assert type(back) is type(value)
    assert back == value or (np.isnan(value) and np.isnan(back))


def test_nesting_of_tensors_arrays_and_data_survives(trip: Trip) -> None:
    value = {
        "samples": torch.arange(6.0).view(2, 3),
        "more": [(torch.ones(1), {"pooled": np.arange(3)}), None],
        7: {"int key"},
    }
    back = trip.there_and_back(value)
    assert torch.equal(back["samples"], value["samples"])  # type: ignore[arg-type]
    assert isinstance(back["more"][0], tuple)
    assert back["more"][0][1]["pooled"].tolist() == [0, 1, 2]
    assert back[7] == {"int key"}


class Colour(StrEnum):
    RED = "red"


class Trick(str):
    def __ne__(self, other: object) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = str.__hash__


@pytest.mark.parametrize(
    ("value", "arrives_as"),
    [
        (Colour.RED, "red"),
        (Trick("*"), "*"),
        (np.str_("text"), "text"),
        (OrderedDict(a=1), {"a": 1}),
        (torch.Size([2, 3]), (2, 3)),
    ],
)
def test_harmless_subclasses_arrive_as_their_plain_type(trip: Trip, value: Any, arrives_as: Any) -> None:
    back = trip.there_and_back(value)
    assert type(back) is type(arrives_as)
    assert back == arrives_as


class Point(NamedTuple):
    x: int
    y: int


@pytest.mark.parametrize(
    "value",
    [
        lambda: 1,
        object(),
        Point(1, 2),
        np.array([{}], dtype=object),
        np.array(["a"]),
        np.zeros(2, dtype=[("a", "i4")]),
        np.ma.masked_array([1], mask=[True]),
        (item for item in "abc"),
        torch.nn.Linear(1, 1),
        torch.float32,
        10**200,
    ],
)
def test_anything_else_is_a_handle_that_gives_back_the_very_same_object(trip: Trip, value: Any) -> None:
    tree = trip.send([value])
    assert set(tree[0]) == {wire.TAG_HANDLE}
    Reader("s1").read(tree)  # type: ignore[arg-type]
    assert trip.receive(tree)[0] is value


def test_a_released_handle_is_unknown_and_each_hand_out_counts_by_itself(trip: Trip) -> None:
    value = object()
    first, second = trip.send(value), trip.send(value)
    trip.handles.release([first[wire.TAG_HANDLE]["id"], 12345])
    assert trip.receive(second) is value
    with pytest.raises(RpcError) as caught:
        trip.receive(first)
    assert caught.value.code == wire.UNKNOWN_HANDLE
    trip.handles.release([second[wire.TAG_HANDLE]["id"]])
    assert len(trip.handles) == 0


def test_a_value_that_holds_itself_or_is_too_deep_stays_here_and_leaves_no_files(trip: Trip) -> None:
    loop: list[Any] = [torch.ones(3)]
    loop.append(loop)
    assert set(trip.send(loop)) == {wire.TAG_HANDLE}
    assert sorted(trip.store.discarded) == sorted(trip.store.allocated)
    deep: Any = 0
    for _ in range(500):
        deep = [deep]
    assert set(trip.send(deep)) == {wire.TAG_HANDLE}
    shared: Any = 0
    for _ in range(30):
        shared = [shared, shared]
    assert set(trip.send(shared)) == {wire.TAG_HANDLE}


def test_the_deepest_value_that_travels_is_accepted_by_the_host(trip: Trip) -> None:
    for make in (
        lambda inner: [inner],
        lambda inner: (inner,),
        lambda inner: {1: inner},
        lambda inner: {"a": inner},
    ):
        value: Any = "core"
        for _ in range(wire.MAX_DEPTH):
            tree = trip.send(value)
            Reader("s1").read(tree)  # type: ignore[arg-type]
            value = make(value)


@pytest.mark.parametrize(
    "text", ["x" * 70_000, "ä" * 40_000, "\U0001f600" * 20_000, "lone \ud800", "a" * 65_536]
)
def test_long_and_odd_text_goes_through_a_file(trip: Trip, text: str) -> None:
    tree = trip.send({"t": text, text[:10]: 1})
    assert len(json.dumps(tree)) < 70_000
    assert trip.receive(tree) == {"t": text, text[:10]: 1}


def test_a_large_tree_goes_through_a_file_that_holds_no_other(trip: Trip) -> None:
    value = [{"index": index, "t": float(index)} for index in range(20_000)]
    tree = trip.send(value)
    assert set(tree) == {wire.TAG_JSON}
    assert trip.receive(tree) == value


def test_many_values_of_one_reply_fit_one_frame(trip: Trip) -> None:
    encoder = trip.encoder()
    trees = [encoder.encode(["y" * 50_000]) for _ in range(200)]
    encoder.check_fits()
    assert len(wire.encode_frame({"slots": trees})) < wire.MAX_FRAME


def test_more_values_than_a_frame_holds_are_refused_not_sent(trip: Trip) -> None:
    encoder = trip.encoder()
    for _ in range(600_000):
        encoder.encode(0)
    with pytest.raises(RpcError) as caught:
        encoder.check_fits()
    assert caught.value.code == wire.VALUE_NOT_PORTABLE


def test_what_was_published_can_be_taken_back(trip: Trip) -> None:
    encoder = trip.encoder()
    encoder.encode([b"bytes", torch.ones(2), object()])
    encoder.rollback()
    assert sorted(trip.store.discarded) == sorted(trip.store.allocated)
    assert len(trip.handles) == 0


@pytest.mark.parametrize("message", [None, "because"])
def test_a_blocker_travels_with_its_message(trip: Trip, message: str | None) -> None:
    back = trip.there_and_back(ExecutionBlocker(message))
    assert isinstance(back, ExecutionBlocker)
    assert back.message == message


@pytest.mark.parametrize(
    "tree",
    [
        {"$tuple": 5}, {"$bytes": {}}, {"$float": "x"}, {"$complex": ["a"]}, {"$scalar": {"dtype": "?!", "value": 1}},
        {"$tensor": {"file": "../x", "nbytes": 4, "dtype": "float32", "shape": [1], "requires_grad": False}},
        {"$tensor": {"file": "gone", "nbytes": 4, "dtype": "float32", "shape": [1], "requires_grad": False}},
        {"$tensor": {"file": "gone", "nbytes": 4, "dtype": "float32", "shape": [2], "requires_grad": False}},
        {"$tensor": {"file": "gone", "nbytes": 4, "dtype": "evil", "shape": [1], "requires_grad": False}},
        {"$array": {"file": None, "nbytes": 0, "dtype": "bfloat16", "shape": [0], "requires_grad": False}},
        {"$str": {"file": "..", "nbytes": 4}}, {"$set": [[]]},
    ],
)  # fmt: skip
def test_a_tree_that_makes_no_sense_is_an_error_and_nothing_else(trip: Trip, tree: Any) -> None:
    with pytest.raises(RpcError) as caught:
        trip.receive(tree)
    assert caught.value.code == wire.VALUE_NOT_PORTABLE


def test_a_file_shorter_than_announced_is_refused(trip: Trip) -> None:
    name = trip.store.put(b"1234")
    ref = {"file": name, "nbytes": 8, "dtype": "float32", "shape": [2], "requires_grad": False}
    with pytest.raises(RpcError, match="4 bytes; 8 were announced"):
        trip.receive({"$tensor": ref})

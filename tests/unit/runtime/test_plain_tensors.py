"""Plain tensors are published from where they lie; what is said of them is what the encoder would have said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from runtime import calling, wire
from runtime.files import Offered, SharedFiles
from runtime.peer import RpcError
from runtime.plain_tensors import Given, PlainTensors
from runtime.written import plain_result
from tests.unit.runtime.memoryfiles import Trip

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # torch's own

DTYPES = [name for name in wire.ITEMSIZE if hasattr(torch, name)]


class Node:
    RETURN_TYPES = ("A", "B", "C")


class Own(torch.Tensor):
    pass


@pytest.fixture
def trip(tmp_path: Path) -> Trip:
    return Trip(tmp_path)


def tensors(trip: Trip, inputs: dict[str, Any] | None = None, offered: Offered | None = None) -> PlainTensors:
    return PlainTensors(trip.files, Given(inputs), offered or Offered())


def without_files(slots: Any) -> Any:
    text = json.dumps(slots)
    for (tree,) in slots:
        if isinstance(tree, dict):
            text = text.replace(tree[wire.TAG_TENSOR]["file"], "file")
    return text


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (1, 64, 64, 3)], ids=str)
def test_what_is_written_at_once_is_what_the_encoder_says(
    trip: Trip, dtype: str, shape: tuple[int, ...]
) -> None:
    value = torch.randint(0, 2, shape).to(getattr(torch, dtype))
    written = plain_result(Node, [(1, value, "text")], 3, tensors(trip))
    assert written is not None
    slots = json.loads(written)["slots"]
    in_full = calling.execute_result(Node, [(1, value, "text")], trip.encoder())["slots"]
    assert without_files(slots) == without_files(in_full)
    back = trip.receive(trip.store.adopt(slots[1][0]))
    assert back.dtype == value.dtype
    assert back.shape == value.shape
    assert bytes(back.untyped_storage()) == bytes(value.untyped_storage())


def test_one_that_learns_is_said_to(trip: Trip) -> None:
    value = torch.ones(3, requires_grad=True) * 2
    written = plain_result(Node, [(value,)], 3, tensors(trip))
    assert written is not None
    assert json.loads(written)["slots"][0][0][wire.TAG_TENSOR]["requires_grad"] is True


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.ones(0),
        lambda: torch.ones(2, 3).T,
        lambda: torch.ones(4)[::2],
        lambda: torch.ones(1).expand(3),
        lambda: torch.ones(2, dtype=torch.complex64).conj(),
        lambda: torch.ones(2, dtype=torch.complex64).conj().imag,
        lambda: torch.ones(2, 2).to_sparse(),
        lambda: torch.ones(2, device="meta"),
        lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8),
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        lambda: torch.nn.Parameter(torch.ones(2)),
        lambda: torch.ones(2).as_subclass(Own),  # type: ignore[no-untyped-call]
        lambda: [torch.ones(2)],
        lambda: torch.ones(2).numpy(),
        lambda: object(),
    ],
)
def test_all_else_is_left_to_the_encoder_and_nothing_is_published(
    trip: Trip, make: Callable[[], Any]
) -> None:
    assert plain_result(Node, [(torch.ones(2), make())], 3, tensors(trip)) is None
    assert plain_result(Node, [(torch.ones(2),)], 3) is None
    assert not trip.store.allocated


def test_an_unchanged_input_is_named_and_another_is_written(trip: Trip) -> None:
    sent = trip.send(torch.arange(1 << 20, dtype=torch.float32))
    given, granted = {"image": [sent]}, trip.receive(sent)
    written = plain_result(Node, [(granted.view(1024, 1024), granted)], 3, tensors(trip, given))
    assert written is not None
    ref, again = (slot[0][wire.TAG_TENSOR] for slot in json.loads(written)["slots"])
    assert ref["file"] == again["file"] == sent[wire.TAG_TENSOR]["file"]
    assert ref["shape"] == [1024, 1024]
    assert not trip.store.allocated
    for other in (tensors(trip), tensors(trip, {"image": None, "value": [1]})):
        assert other.text(granted) != again
    granted[5] = 1
    assert json.loads(tensors(trip, given).text(granted))[wire.TAG_TENSOR]["file"] in trip.store.allocated


def test_a_file_that_the_call_took_along_is_filled_and_one_is_asked_for_then(trip: Trip) -> None:
    name = trip.store.allocate(16)
    offered = Offered([{"file": name, "bytes": 16, "huge": 0}])
    written = plain_result(Node, [(torch.ones(4), torch.ones(4))], 3, tensors(trip, None, offered))
    assert written is not None
    first, second = (slot[0][wire.TAG_TENSOR]["file"] for slot in json.loads(written)["slots"])
    assert first == name
    assert [first, second] == list(trip.store.allocated)


def test_a_reply_that_fails_gives_back_what_it_published_and_no_input(trip: Trip) -> None:
    sent = trip.send(torch.arange(1 << 20, dtype=torch.float32))
    granted = trip.receive(sent)

    def allocate(nbytes: int) -> tuple[str, int]:
        if nbytes == 8:
            raise RpcError(wire.QUOTA_EXCEEDED, "full", None)
        return trip.store.allocate(nbytes), 0

    trip.files = SharedFiles(
        str(trip.store.inbox), str(trip.store.outbox), allocate=allocate, discard=trip.store.discarded.append
    )
    reply = tensors(trip, {"image": [sent]})
    with pytest.raises(RpcError, match="full"):
        plain_result(Node, [(granted, torch.ones(4), torch.ones(2))], 3, reply)
    reply.rollback()
    assert trip.store.discarded == list(trip.store.allocated)
    assert len(trip.store.discarded) == 1

"""An input that comes out as it went in is named, not written; with one byte changed, by whatever means, it is."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from runtime import unchanged
from runtime.files import SharedFiles
from runtime.unchanged import is_unchanged
from runtime.values import files_in
from tests.unit.runtime.memoryfiles import Trip

COUNT = 1 << 20


@pytest.fixture
def trip(tmp_path: Path) -> Trip:
    return Trip(tmp_path / "trip")


@pytest.fixture
def sent(trip: Trip) -> Any:
    return trip.send(torch.arange(COUNT, dtype=torch.float32))


def came_out(trip: Trip, sent: Any, value: Any) -> Any:
    return trip.encoder(frozenset(files_in([sent]))).encode(value)


def test_an_unchanged_tensor_is_named_again(trip: Trip, sent: Any) -> None:
    tensor = trip.receive(sent)
    assert float(tensor.sum()) > 0  # every page is there, and was read
    assert came_out(trip, sent, tensor) == sent
    assert not trip.store.allocated


def test_a_shape_of_the_same_bytes_is_named_with_its_own_shape(trip: Trip, sent: Any) -> None:
    tree = came_out(trip, sent, trip.receive(sent).view(torch.int32).reshape(1024, -1))
    assert tree["$tensor"]["file"] == sent["$tensor"]["file"]
    assert (tree["$tensor"]["dtype"], tree["$tensor"]["shape"]) == ("int32", [1024, 1024])


def test_an_unchanged_array_is_named_again(trip: Trip) -> None:
    sent = trip.send(np.arange(COUNT))
    assert came_out(trip, sent, trip.receive(sent)) == sent


def by_torch(tensor: torch.Tensor) -> None:
    tensor[-1] = 1


def by_numpy(tensor: torch.Tensor) -> None:
    tensor.numpy()[COUNT // 2] = 1


def by_c(tensor: torch.Tensor) -> None:
    ctypes.memset(tensor.data_ptr() + 4097, 1, 1)


def with_what_was_there(tensor: torch.Tensor) -> None:
    tensor.mul_(1)


def by_the_kernel(tensor: torch.Tensor) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"x")
    buffer = (ctypes.c_ubyte * 1).from_address(tensor.data_ptr())
    assert os.readv(reader, [buffer]) == 1
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize(
    "write", [by_torch, by_numpy, by_c, with_what_was_there, by_the_kernel], ids=lambda write: write.__name__
)
def test_a_tensor_that_was_written_to_is_written(
    trip: Trip, sent: Any, write: Callable[[torch.Tensor], None]
) -> None:
    tensor = trip.receive(sent)
    write(tensor)
    tree = came_out(trip, sent, tensor)
    assert tree["$tensor"]["file"] in trip.store.allocated
    assert torch.equal(trip.receive(trip.store.adopt(tree)), tensor)


@pytest.mark.parametrize(
    "part", [lambda t: t[1:], lambda t: t[:-1], lambda t: t.view(1024, -1).T, lambda t: torch.view_as_complex(
        t.view(-1, 2)).conj()],
    ids=["behind the beginning", "short of the end", "turned", "conjugated"],
)  # fmt: skip
def test_a_view_that_is_not_the_whole_in_order_is_written(
    trip: Trip, sent: Any, part: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    view = part(trip.receive(sent))
    tree = came_out(trip, sent, view)
    assert tree["$tensor"]["file"] in trip.store.allocated
    assert torch.equal(trip.receive(trip.store.adopt(tree)), view)


def test_an_input_of_an_earlier_call_is_written(trip: Trip, sent: Any) -> None:
    """The host takes it away when its call ends: its name would mean nothing any more."""
    tensor = trip.receive(sent)
    tree = trip.encoder().encode(tensor)
    assert tree["$tensor"]["file"] in trip.store.allocated


def test_a_failed_reply_gives_back_no_input(trip: Trip, sent: Any) -> None:
    encoder = trip.encoder(frozenset(files_in([sent])))
    encoder.encode([trip.receive(sent), torch.zeros(3)])
    encoder.rollback()
    assert sent["$tensor"]["file"] not in trip.store.discarded
    assert len(trip.store.discarded) == 1


def test_a_mapping_that_is_gone_is_forgotten_with_it(trip: Trip, sent: Any) -> None:
    tensor = trip.receive(sent)
    assert trip.files.has_mapped
    del tensor
    assert not trip.files.has_mapped


def test_all_is_written_where_nothing_may_be_handed_on(trip: Trip, sent: Any) -> None:
    trip.files = SharedFiles(
        str(trip.store.inbox),
        str(trip.store.outbox),
        allocate=lambda nbytes: (trip.store.allocate(nbytes), 0),
        discard=trip.store.discarded.append,
    )
    trip.files.hands_on = False
    assert came_out(trip, sent, trip.receive(sent))["$tensor"]["file"] in trip.store.allocated


def test_all_is_written_where_the_kernel_does_not_tell(
    trip: Trip, sent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gVisor has no pagemap."""
    tensor = trip.receive(sent)

    def none(*_: object) -> int:
        raise FileNotFoundError

    monkeypatch.setattr(unchanged.os, "open", none)
    assert not is_unchanged(tensor.data_ptr(), COUNT * 4)


def test_memory_of_our_own_is_never_unchanged() -> None:
    with mmap.mmap(-1, 8192, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory[5000] = 1
        buffer = ctypes.c_ubyte.from_buffer(memory)
        assert not is_unchanged(ctypes.addressof(buffer), 8192)
        del buffer

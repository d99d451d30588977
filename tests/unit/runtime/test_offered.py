"""Files that a call took along are filled in place of new ones: each once, and only where the size is the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from runtime import wire
from runtime.files import Offered, SharedFiles
from runtime.peer import RpcError
from runtime.values import Encoder
from tests.unit.runtime.memoryfiles import Trip


@pytest.fixture
def trip(tmp_path: Path) -> Trip:
    return Trip(tmp_path)


def offered(trip: Trip, *sizes: int) -> tuple[list[str], Offered]:
    names = [trip.store.allocate(nbytes) for nbytes in sizes]
    files = zip(names, sizes, strict=True)
    return names, Offered([{"file": name, "bytes": nbytes, "huge": 0} for name, nbytes in files])


def test_a_file_of_the_right_size_is_filled_and_no_other_is_asked_for(trip: Trip) -> None:
    names, files = offered(trip, 64, 32)
    tree = Encoder(trip.files, trip.handles, (), files).encode(np.arange(4, dtype=np.int64))
    assert tree["$array"]["file"] == names[1]
    assert len(trip.store.allocated) == 2
    assert np.array_equal(trip.receive(trip.store.adopt(tree)), np.arange(4))


def test_each_is_filled_once_and_another_size_is_asked_for(trip: Trip) -> None:
    names, files = offered(trip, 32)
    arrays = [np.zeros(size, dtype=np.int64) for size in (4, 4, 5)]
    tree = Encoder(trip.files, trip.handles, (), files).encode(arrays)
    used = [item["$array"]["file"] for item in tree]
    assert used[0] == names[0]
    assert len(set(used)) == 3
    assert len(trip.store.allocated) == 3


def test_what_does_not_fit_gives_way_to_what_is_asked_for(trip: Trip) -> None:
    names, files = offered(trip, 32, 32)

    def allocate(nbytes: int) -> tuple[str, int]:
        if sorted(trip.store.discarded) != sorted(names):
            raise RpcError(wire.QUOTA_EXCEEDED, "full", None)
        return trip.store.allocate(nbytes), 0

    trip.files = SharedFiles(
        str(trip.store.inbox), str(trip.store.outbox), allocate=allocate, discard=trip.store.discarded.append
    )
    tree = Encoder(trip.files, trip.handles, (), files).encode(np.zeros(5, dtype=np.int64))
    assert tree["$array"]["file"] not in names
    trip.store.discarded.clear()
    with pytest.raises(RpcError, match="full"):  # nothing is left that could give way
        Encoder(trip.files, trip.handles, (), files).encode(np.zeros(5, dtype=np.int64))


def test_a_reply_that_fails_gives_it_back(trip: Trip) -> None:
    names, files = offered(trip, 32)
    encoder = Encoder(trip.files, trip.handles, (), files)
    encoder.encode(np.zeros(4, dtype=np.int64))
    encoder.rollback()
    assert trip.store.discarded == names

"""Mappings end with the buffer over them, and addresses that are kept for the next one hold nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from runtime import mappings
from runtime.files import SharedFiles

MIB = 1 << 20


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch) -> list[mappings.Window]:
    """The addresses that are kept: none at first."""
    windows: list[mappings.Window] = []
    monkeypatch.setattr(mappings, "_free", windows)
    return windows


@pytest.fixture
def file(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    path = tmp_path / "file"
    path.write_bytes(np.random.default_rng(0).bytes(8 * MIB))
    fd = os.open(path, os.O_RDWR)
    yield path, fd
    os.close(fd)


def is_mapped(path: Path) -> bool:
    return str(path) in Path("/proc/self/maps").read_text("utf-8")


def test_addresses_are_used_again_by_the_next_of_that_size(
    file: tuple[Path, int], kept: list[mappings.Window]
) -> None:
    path, fd = file
    first = mappings.mapped(fd, 8 * MIB, mappings.SHARED)
    assert first[0] % mappings.HUGE_PAGE == 0
    second = mappings.mapped(fd, 8 * MIB, mappings.PRIVATE)
    assert second[0] != first[0]
    mappings.unmapped(first)
    mappings.unmapped(second)
    assert not is_mapped(path)
    assert kept == [first, second]
    assert mappings.mapped(fd, 6 * MIB, mappings.PRIVATE) not in (first, second)
    assert mappings.mapped(fd, 8 * MIB, mappings.PRIVATE) == first
    assert kept == [second]


@pytest.mark.parametrize("nbytes", [4096, 4 * MIB - 1, mappings._KEPT_BYTES + 4096])
def test_small_and_very_large_ones_keep_nothing(
    file: tuple[Path, int], kept: list[mappings.Window], nbytes: int
) -> None:
    path, fd = file
    mappings.unmapped(mappings.mapped(fd, nbytes, mappings.SHARED))
    assert not is_mapped(path)
    assert not kept


def test_few_are_kept(file: tuple[Path, int], kept: list[mappings.Window]) -> None:
    windows = [mappings.mapped(file[1], 8 * MIB, mappings.PRIVATE) for _ in range(10)]
    assert len({window[0] for window in windows}) == 10
    for window in windows:
        mappings.unmapped(window)
    assert kept == windows[: mappings._KEPT]
    assert not is_mapped(file[0])


def test_what_cannot_be_mapped_is_said_and_takes_no_addresses(kept: list[mappings.Window]) -> None:
    for nbytes in (4096, 8 * MIB):
        with pytest.raises(MemoryError, match=f"a file of {nbytes} bytes cannot be mapped"):
            mappings.mapped(-1, nbytes, mappings.PRIVATE)
    assert not kept


def test_an_input_is_unmapped_with_the_last_use_of_its_buffer(file: tuple[Path, int]) -> None:
    path, _ = file
    files = SharedFiles(str(path.parent), str(path.parent), allocate=lambda n: (str(n), 0), discard=str)
    buffer = files.map("file", 8 * MIB)
    array = np.frombuffer(buffer, np.uint8)
    del buffer, files
    assert is_mapped(path)
    assert array.tobytes() == path.read_bytes()
    del array
    assert not is_mapped(path)

"""Huge pages are made where the kernel makes them, and files are whole and of their size where it does not."""

from __future__ import annotations

import ctypes
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import runtime.mappings
from runtime.files import SharedFiles
from sandbox import Value, huge_pages, shm
from sandbox.fast_paths import FastPath
from tests.unit.sandbox.test_tensors import MIB, A, kept, made, opened, out

TAIL = 4096 + 100
"""What a file is longer than its huge pages."""


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as path:
        yield Path(path)


@pytest.fixture
def refusal(monkeypatch: pytest.MonkeyPatch) -> huge_pages._Refusal:
    fresh = huge_pages._Refusal()
    monkeypatch.setattr(huge_pages, "takes", lambda _: True)
    monkeypatch.setattr(huge_pages, "_refusal", fresh)
    return fresh


class Libc:
    """The real one, but for what the kernel answers to the question for huge pages."""

    def __init__(self, number: int = 0) -> None:
        self._number = number
        self._real = huge_pages._libc()
        self.asked: list[tuple[int, int]] = []
        self.mapped = 0

    def mmap(self, *arguments: Any) -> Any:
        self.mapped += 1
        return self._real.mmap(*arguments)

    def munmap(self, *arguments: Any) -> Any:
        self.mapped = 0
        return self._real.munmap(*arguments)

    def madvise(self, address: int, nbytes: int, advice: int) -> int:
        assert advice == huge_pages.MADV_COLLAPSE
        self.asked.append((address, nbytes))
        ctypes.set_errno(self._number)
        return -1 if self._number else 0


def use(monkeypatch: pytest.MonkeyPatch, libc: Libc) -> Libc:
    monkeypatch.setattr(huge_pages, "page_size", lambda: 2 * MIB)
    monkeypatch.setattr(huge_pages, "_libc", lambda: libc)
    return libc


def created(folder: Path, nbytes: int) -> int:
    fd, _ = shm.create(folder / "file", nbytes)
    shm.check_extent(fd, nbytes)
    return fd


@pytest.mark.usefixtures("refusal")
def test_whole_huge_pages_are_asked_for_at_fitting_addresses_and_nothing_stays_mapped(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    libc = use(monkeypatch, Libc())
    os.close(created(folder, 36 * MIB + TAIL))
    assert [nbytes for _, nbytes in libc.asked] == [16 * MIB, 16 * MIB, 4 * MIB]
    assert all(address % (2 * MIB) == 0 for address, _ in libc.asked)
    assert libc.mapped == 0


@pytest.mark.usefixtures("refusal")
def test_none_is_asked_for_where_that_way_is_not_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    libc = use(monkeypatch, Libc())
    monkeypatch.setattr(huge_pages, "takes", lambda path: path != FastPath.HUGE_PAGES)
    os.close(created(folder, 36 * MIB))
    assert not libc.asked


@pytest.mark.usefixtures("refusal")
def test_a_small_file_is_not_worth_asking_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    libc = use(monkeypatch, Libc())
    os.close(created(folder, 4 * MIB - 1))
    assert not libc.asked


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EPERM])
def test_a_kernel_that_does_not_do_it_is_not_asked_again_for_a_while(
    folder: Path, monkeypatch: pytest.MonkeyPatch, refusal: huge_pages._Refusal, number: int
) -> None:
    libc = use(monkeypatch, Libc(number))
    for name in ("one", "two"):
        (folder / name).mkdir()
        os.close(created(folder / name, 32 * MIB))
    assert len(libc.asked) == 1
    refusal._ask_again = 0.0
    (folder / "three").mkdir()
    os.close(created(folder / "three", 32 * MIB))
    assert len(libc.asked) == 2


@pytest.mark.usefixtures("refusal")
def test_a_kernel_that_has_none_left_is_asked_for_the_next_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    libc = use(monkeypatch, Libc(errno.ENOMEM))
    for name in ("one", "two"):
        (folder / name).mkdir()
        os.close(created(folder / name, 32 * MIB))
    assert len(libc.asked) == 2


@pytest.mark.usefixtures("refusal")
def test_a_kernel_that_has_to_look_for_them_for_long_is_asked_no_more(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    libc = use(monkeypatch, Libc())
    monkeypatch.setattr(huge_pages, "_WORTH_S", -1.0)
    os.close(created(folder, 64 * MIB))
    assert len(libc.asked) == 1


@pytest.mark.usefixtures("refusal")
def test_a_full_file_system_is_said_and_nothing_is_left(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Libc())
    real = os.pwrite

    def full(fd: int, data: bytes, at: int) -> int:
        if at:
            raise OSError(errno.ENOSPC, "full")
        return real(fd, data, at)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="full"):
        shm.create(folder / "file", 8 * MIB)
    assert not list(folder.iterdir())


@pytest.mark.usefixtures("refusal")
def test_the_files_of_this_kernel_are_whole_and_a_reader_finds_out_what_it_changed(folder: Path) -> None:
    """With huge pages, if it makes them; the answers must be the same in any case."""
    nbytes = 8 * MIB + TAIL
    data = np.random.default_rng(0).integers(0, 256, nbytes, np.uint8).tobytes()
    fd = created(folder, nbytes)
    _filled(folder / "file", data)
    assert shm.freeze(fd)
    copy = shm.copy(fd, folder / "copy", nbytes)
    files = SharedFiles(str(folder), str(folder), allocate=lambda n: (str(n), 0), discard=str)
    for name in ("file", "copy"):
        tensor = torch.frombuffer(files.map(name, nbytes), dtype=torch.uint8)
        assert tensor.data_ptr() % (2 * MIB) == 0
        assert tensor.numpy().tobytes() == data
        assert files.handed_on(tensor.data_ptr(), nbytes, {name}) == name
        tensor[3 * MIB] += 1
        assert files.handed_on(tensor.data_ptr(), nbytes, {name}) is None
        assert (folder / name).read_bytes() == data
        del tensor
    assert not files.has_mapped
    os.close(fd)
    os.close(copy)


@pytest.mark.usefixtures("refusal")
def test_it_is_said_how_much_of_a_file_lies_in_huge_pages(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Libc())
    fd, huge = shm.create(folder / "all", 36 * MIB + TAIL)
    assert huge == 36 * MIB
    os.close(fd)
    monkeypatch.setattr(huge_pages, "_WORTH_S", -1.0)
    fd, huge = shm.create(folder / "some", 64 * MIB)
    assert huge == 16 * MIB
    os.close(fd)
    use(monkeypatch, Libc(errno.ENOMEM))
    fd, huge = shm.create(folder / "none", 64 * MIB)
    assert huge == 0
    os.close(fd)


@pytest.mark.parametrize("huge", [0, 2 * MIB, 4 * MIB, 8 * MIB])
@pytest.mark.parametrize("cuts", [(), (1,), (3 * MIB + 1, 7 * MIB), (8 * MIB,), (8 * MIB + 7,)])
def test_a_file_is_filled_alike_with_and_without_a_mapping_and_nobody_can_write_to_it_then(
    folder: Path, huge: int, cuts: tuple[int, ...]
) -> None:
    nbytes = 8 * MIB + TAIL
    data = np.random.default_rng(1).integers(0, 256, nbytes, np.uint8)
    fd, _ = shm.create(folder / "file", nbytes)
    pieces = [piece.data for piece in np.split(data, cuts)]
    files = SharedFiles(str(folder), str(folder), allocate=lambda _: ("file", huge), discard=str)
    assert files.publish(pieces, nbytes) == "file"
    assert str(folder) not in Path("/proc/self/maps").read_text("utf-8")
    assert shm.freeze(fd)
    assert (folder / "file").read_bytes() == data.tobytes()
    os.close(fd)


def test_a_file_that_cannot_be_mapped_is_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(runtime.mappings, "mapped", none_left)
    data = np.arange(8 * MIB, dtype=np.uint8)
    fd, _ = shm.create(folder / "file", len(data))
    files = SharedFiles(str(folder), str(folder), allocate=lambda _: ("file", 8 * MIB), discard=str)
    files.publish([data.data], len(data))
    assert (folder / "file").read_bytes() == data.tobytes()
    os.close(fd)


@pytest.mark.anyio
@pytest.mark.usefixtures("refusal")
@pytest.mark.usefixtures("every_fast_path")
async def test_the_store_knows_it_of_new_files_and_of_those_that_are_filled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Libc())
    async with opened(tmp_path) as store:
        sizes = {}
        for nbytes in (8 * MIB + TAIL, MIB):
            name = await made(store, b"x" * nbytes)
            inode = kept(store, name).stat().st_ino
            store.release(Value(None, (name,)))
            again = await store.allocate(A, nbytes)
            assert out(store, again).stat().st_ino == inode
            sizes[nbytes] = store.huge_bytes(A, again)
        assert sizes == {8 * MIB + TAIL: 8 * MIB, MIB: 0}


def _filled(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_RDWR)
    os.pwrite(fd, data, 0)
    os.close(fd)

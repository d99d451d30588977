"""Every live sandbox has a uid of its own, and an extension gets its old one back."""

from __future__ import annotations

import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from policies import ExtensionName, PolicyStore, SandboxId, TenantId
from sandbox import ExtensionFiles, Places, StartError
from sandbox.launcher.docker import DockerLauncher
from sandbox.launcher.uids import UidBook
from sandbox.launcher.verbs import SandboxRequest


def test_owners_get_different_uids_and_the_same_again(tmp_path: Path) -> None:
    book = UidBook(tmp_path / "uids.json", 1000, 10)
    first, second = book.assign("local/a", set()), book.assign("local/b", set())
    assert first != second
    again = UidBook(tmp_path / "uids.json", 1000, 10)
    assert (again.assign("local/b", set()), again.assign("local/a", set())) == (second, first)


def test_a_uid_in_use_is_not_given_twice(tmp_path: Path) -> None:
    book = UidBook(tmp_path / "uids.json", 1000, 3)
    one = book.assign("a", set())
    other = book.assign("a", {one})
    assert other != one
    with pytest.raises(StartError, match="in use"):
        book.assign("b", {1000, 1001, 1002})


def test_a_uid_remembered_for_somebody_is_the_last_resort(tmp_path: Path) -> None:
    book = UidBook(tmp_path / "uids.json", 1000, 2)
    book.assign("a", set())
    book.assign("b", set())
    assert book.assign("c", set()) in (1000, 1001)


def test_a_damaged_book_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "uids.json").write_text("[")
    assert UidBook(tmp_path / "uids.json", 1000, 2).assign("a", set()) == 1000


def test_owners_that_come_at_the_same_moment_get_different_uids_and_are_all_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starts are made in threads: without a lock, both would read the book, or write it, before the other had."""
    book = UidBook(tmp_path / "uids.json", 1000, 10)
    both, real = threading.Barrier(2), os.fsync

    def together(descriptor: int) -> None:
        real(descriptor)
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.2)  # for the other one, which must not come

    monkeypatch.setattr(os, "fsync", together)
    with ThreadPoolExecutor(2) as threads:
        given = dict(zip("ab", threads.map(lambda owner: book.assign(owner, set()), "ab"), strict=True))
    assert set(given.values()) == {1000, 1001}
    again = UidBook(tmp_path / "uids.json", 1000, 10)
    assert {owner: again.assign(owner, set()) for owner in "ab"} == given


@pytest.mark.anyio
async def test_two_policies_of_one_extension_that_start_at_the_same_moment_never_share_a_uid(
    tmp_path: Path,
) -> None:
    places = Places("main", tmp_path / "data", tmp_path / "shm", tmp_path / "run")
    launcher = DockerLauncher(places, PolicyStore(tmp_path))
    files = ExtensionFiles(ExtensionName("blur"), tmp_path, None, "hash")
    old = SandboxRequest(SandboxId("a"), TenantId("local"), (files,), "the policy before")
    spare, new = replace(old, sandbox="spare"), replace(old, sandbox="b", policy_digest="the policy now")
    given: dict[str, int] = {}

    async def start(request: SandboxRequest) -> None:
        given[request.sandbox] = await launcher._uid_for(request)

    async with anyio.create_task_group() as group:
        for request in (old, new, spare):
            group.start_soon(start, request)
    assert given["a"] == given["spare"] != given["b"]

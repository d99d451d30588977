"""The kernel's count of refused processes is kept from before a sandbox's end, when its cgroup goes."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from sandbox.launcher import refusals
from sandbox.launcher.cgroups import Cgroup
from sandbox.launcher.refusals import Refusals

pytestmark = pytest.mark.anyio


class Pipe:
    """A counter that is no kernel's: epoll takes pipes and no plain files."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import os

        directory.mkdir()
        os.mkfifo(directory / "pids.events")
        self.keep = os.open(directory / "pids.events", os.O_RDWR)
        self.count: int | None = 0
        monkeypatch.setattr(refusals, "_read", lambda descriptor: self.count)
        self.cgroup = Cgroup(memory=None, pids=directory, unified=True)


async def test_a_count_is_told_as_it_grows_and_kept_when_the_cgroup_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = Pipe(tmp_path / "box", monkeypatch)
    counts: list[int] = []
    grown = anyio.Event()

    def tell(count: int) -> None:
        counts.append(count)
        if count:
            grown.set()

    watch = Refusals()
    watch.watch(pipe.cgroup, tell)
    async with anyio.create_task_group() as group:
        group.start_soon(watch.run)
        pipe.count = 7
        with anyio.fail_after(60):
            await grown.wait()
        group.cancel_scope.cancel()
    pipe.count = None
    watch.look()
    assert (counts[0], counts[-1]) == (0, 7)
    assert watch._told == {}
    watch.close()


def test_a_cgroup_that_cannot_be_found_is_not_watched(tmp_path: Path) -> None:
    watch = Refusals()
    watch.watch(Cgroup(memory=None, pids=None, unified=False), print)
    watch.watch(Cgroup(memory=None, pids=tmp_path / "gone", unified=False), print)
    assert watch._told == {}
    watch.close()

"""How often a sandbox's directories are looked at: soon after a call begins, and not once for each call."""

from __future__ import annotations

import time

import anyio
import pytest

from sandbox.disk_watch import FIRST_LOOK_S, DiskWatch

pytestmark = pytest.mark.anyio


def watch() -> DiskWatch:
    return DiskWatch([], uid=1, most_files=1)


async def test_a_call_ends_a_long_pause_when_it_had_time_to_write_something() -> None:
    watched = watch()
    now = time.monotonic()
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watched.pause, now, now + 3600)
            await anyio.wait_all_tasks_blocked()
            watched.begin_call()
    assert time.monotonic() - now >= FIRST_LOOK_S


async def test_calls_that_follow_each_other_do_not_shorten_the_pause_between_two_looks() -> None:
    watched = watch()
    for _ in range(3):
        watched.begin_call()
        soonest = time.monotonic() + 0.05
        await watched.pause(soonest, soonest + 3600)
        assert time.monotonic() >= soonest


async def test_a_call_counts_once_as_a_reason_to_look() -> None:
    watched = watch()
    watched.begin_call()
    now = time.monotonic()
    with anyio.fail_after(60):
        await watched.pause(now, now + 3600)
    with anyio.move_on_after(0.05) as limit:
        await watched.pause(now, now + 3600)
    assert limit.cancelled_caught

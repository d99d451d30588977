"""Who works with a sandbox, and since when nobody does; and what its processes use up meanwhile."""

from __future__ import annotations

import time

import anyio
import anyio.lowlevel
import pytest

from sandbox.cpu_use import QUIET_READ_S, CpuUse
from sandbox.occupancy import Occupancy

pytestmark = pytest.mark.anyio


async def test_only_the_first_of_several_calls_begins_a_new_count_of_the_disk() -> None:
    began: list[int] = []
    sandbox = Occupancy()
    sandbox.on_busy = lambda: began.append(sandbox.calls)
    with sandbox.busy():
        with sandbox.busy(), sandbox.keep():
            assert sandbox.calls == 2
        assert sandbox.in_use
    with sandbox.keep():
        assert (sandbox.in_use, sandbox.calls) == (True, 0)
    assert not sandbox.in_use
    assert began == [1]


async def test_whoever_waits_for_quiet_is_woken_by_the_last_call_only() -> None:
    sandbox = Occupancy()
    quiet: list[bool] = []
    sandbox.on_quiet = lambda: quiet.append(sandbox.in_use)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            sandbox.begin()
            sandbox.begin()
            group.start_soon(sandbox.quiet)
            await anyio.lowlevel.checkpoint()
            sandbox.done()
            assert not quiet
            sandbox.done()
    assert quiet == [False]


async def test_what_packs_did_is_counted_when_it_is_done_and_unknown_meanwhile() -> None:
    sandbox = Occupancy()
    assert sandbox.at_rest == 0
    with sandbox.asking():
        assert sandbox.at_rest is None
    assert sandbox.at_rest == 1


async def test_a_call_of_a_node_is_both_in_use_and_asking_until_it_is_over() -> None:
    began: list[int] = []
    sandbox = Occupancy()
    sandbox.on_busy = lambda: began.append(sandbox.calls)
    sandbox.begin_call()
    sandbox.begin_call()
    sandbox.end_call()
    assert (sandbox.in_use, sandbox.at_rest) == (True, None)
    sandbox.end_call()
    assert (sandbox.in_use, sandbox.at_rest) == (False, 2)
    assert began == [1]


async def test_idleness_is_waited_for_from_the_end_of_the_last_call() -> None:
    sandbox = Occupancy()
    sandbox.used_at = time.monotonic() - 3600
    with anyio.fail_after(60):
        await sandbox.idle_for(3600)
    with sandbox.busy(), anyio.move_on_after(0) as limit:
        await sandbox.idle_for(3600)
    assert limit.cancelled_caught


def test_cpu_time_of_an_idle_sandbox_adds_up_and_a_call_forgets_it() -> None:
    cpu = CpuUse()
    assert cpu.read(5.0, 1.0) == 5.0
    cpu.used(0.6, is_idle=True)
    assert not cpu.is_restless
    cpu.used(0.6, is_idle=True)
    assert cpu.is_restless
    cpu.used(9.0, is_idle=False)
    assert not cpu.is_restless


def test_a_counter_that_cannot_be_read_or_runs_backwards_is_no_use() -> None:
    cpu = CpuUse(total_s=5.0)
    assert cpu.read(None, 1.0) == 0.0
    assert cpu.read(4.0, 2.0) == 0.0
    assert cpu.read(4.5, 3.0) == 0.5


def test_a_sandbox_in_which_nothing_works_is_read_less_often_until_something_does() -> None:
    cpu, never = CpuUse(read_at=0.0), -1.0
    assert cpu.is_due(1.0, never)  # nothing is known of it yet
    cpu.read(0.5, 1.0)
    assert cpu.is_due(2.0, never)  # it worked
    cpu.read(0.5, 2.0)
    assert not cpu.is_due(3.0, never)
    assert not cpu.is_due(2.0 + QUIET_READ_S - 0.1, never)
    assert cpu.is_due(2.0 + QUIET_READ_S, never)
    cpu.read(1.5, 2.0 + QUIET_READ_S)
    assert cpu.is_due(3.0 + QUIET_READ_S, never)  # something has woken up in it


def test_a_call_that_came_and_went_between_two_looks_is_read_at_the_next_one() -> None:
    cpu = CpuUse(read_at=0.0)
    cpu.read(0.0, 1.0)
    assert not cpu.is_due(2.0, used_at=0.5)
    assert cpu.is_due(2.0, used_at=1.5)


def test_a_counter_that_could_not_be_read_is_tried_again_at_the_next_look() -> None:
    cpu = CpuUse(read_at=0.0)
    cpu.read(None, 1.0)
    assert cpu.is_due(2.0, used_at=0.0)

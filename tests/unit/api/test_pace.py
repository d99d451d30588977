"""Progress that comes too fast: the latest state, never a lost end, everything else untouched."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from api.pace import BURST, MOST, PER_S, SOCKETS, Pace
from engine.events import (
    NodeExecuted,
    NodeProgress,
    NodeStarted,
    ProgressChanged,
    PromptSucceeded,
    QueueChanged,
)
from policies import TenantId

A = TenantId("a")


class Clock:
    now = 5.0

    def __call__(self) -> float:
        return self.now


def progress(value: float, *, node: str = "1", prompt: str = "p", **more: Any) -> ProgressChanged:
    state = NodeProgress(node, value, 100_000, "running", node, None, node)
    return ProgressChanged(A, None, prompt, 0, {node: state}, node, **more)


def exhausted(pace: Pace) -> None:
    for number in range(int(BURST)):
        assert pace.pass_on(progress(number, legacy=True))


def test_every_change_is_told_while_there_are_few() -> None:
    pace = Pace()
    told = [pace.pass_on(progress(number, legacy=True)) for number in range(50)]
    assert [len(each) for each in told] == [1] * 50


def test_of_a_flood_the_latest_is_told_so_many_times_a_second() -> None:
    clock = Clock()
    pace = Pace(clock)
    exhausted(pace)
    told = []
    for number in range(10_000):
        told += pace.pass_on(progress(number, legacy=True))
        told += pace.overdue()
        clock.now += 0.0001
    assert len(told) <= PER_S * 1.0 + 10
    assert pace.rest() == [progress(9999, legacy=True)]
    assert pace.due_s() == float("inf")


def test_a_large_map_is_told_once_a_second_while_it_changes_all_the_time() -> None:
    clock = Clock()
    pace = Pace(clock)
    states = {str(n): NodeProgress(str(n), 1, 1, "finished", str(n), None, str(n)) for n in range(5_000)}
    told = []
    for _ in range(20_000):
        event = ProgressChanged(A, None, "p", 0, states, "1")
        told += [clock.now for _ in (*pace.pass_on(event), *pace.overdue())]
        clock.now += 0.001
    assert len(told) <= BURST / MOST + 20 / (MOST / PER_S) * 2
    assert all(later - earlier < 1.01 for earlier, later in itertools.pairwise(told))


def test_what_is_held_back_is_told_before_the_end_and_only_that_of_the_prompt() -> None:
    pace = Pace()
    exhausted(pace)
    mine, others = progress(99, legacy=True), progress(7, prompt="q", legacy=True)
    assert pace.pass_on(mine) == pace.pass_on(others) == []
    end = PromptSucceeded(A, None, "p", 0)
    assert pace.pass_on(end) == [mine, end]
    assert pace.rest() == [others]


def test_a_nodes_own_progress_is_told_before_the_next_node_begins_and_the_map_may_wait() -> None:
    pace = Pace()
    exhausted(pace)
    own, whole = progress(100, legacy=True), progress(0, node="2")
    pace.pass_on(own)
    pace.pass_on(whole)
    begins = NodeStarted(A, None, "p", 0, "2", "2")
    assert pace.pass_on(begins) == [own, begins]
    shows = NodeExecuted(A, None, "p", 0, "2", "2", {})
    assert pace.pass_on(shows) == [shows]
    assert pace.rest() == [whole]


def test_a_picture_is_not_lost_when_plain_progress_follows_it() -> None:
    pace = Pace()
    exhausted(pace)
    pace.pass_on(progress(1, legacy=True, preview=("JPEG", b"x")))
    pace.pass_on(progress(2, legacy=True))
    (held,) = pace.rest()
    assert isinstance(held, ProgressChanged)
    assert held.preview == ("JPEG", b"x")
    assert held.nodes["1"].value == 2


def test_what_is_held_back_stays_small() -> None:
    pace = Pace(Clock())
    exhausted(pace)
    for number in range(5000):
        pace.pass_on(progress(1, node=str(number), legacy=True))
    assert len(pace.held) <= 256


def test_the_length_of_the_queue_is_told_as_it_is_at_last_and_before_an_end() -> None:
    pace = Pace()
    exhausted(pace)
    assert [pace.pass_on(QueueChanged(A, None, number)) for number in (5, 4, 3)] == [[], [], []]
    end = PromptSucceeded(A, None, "p", 0)
    assert pace.pass_on(end) == [QueueChanged(A, None, 3), end]


def test_many_sockets_of_a_tenant_share_what_ten_would_hear() -> None:
    clock = Clock()
    told = 0
    for _ in range(64):
        pace = Pace(clock, company=lambda: 64)
        told += sum(len(pace.pass_on(progress(number, legacy=True))) for number in range(1_000))
        assert pace.held
        assert pace.due_s() == pytest.approx(64 / SOCKETS / PER_S)
    assert told <= SOCKETS * BURST

"""A server that has run two thousand node calls, and lost sandboxes meanwhile, holds what it held before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.soak import ALLOWED, Look, leaks, soak

BEFORE = Look(
    calls=200, seconds=2.0, memory_mib=150.0, descriptors=90, threads=13, processes=2, containers=4,
    shm_files=1, shm_mib=0.0, run_files=12,
)  # fmt: skip


@pytest.mark.parametrize("name", ALLOWED)
def test_what_grows_is_named_with_its_figures(name: str) -> None:
    was, allowed = getattr(BEFORE, name), ALLOWED[name]
    assert leaks(BEFORE, replace(BEFORE, **{name: was + allowed})) == []
    (said,) = leaks(BEFORE, replace(BEFORE, **{name: was + allowed + 1}))
    assert said == f"{name} grew from {was:g} to {was + allowed + 1:g} (at most {allowed:g} more is at rest)"


def test_what_shrinks_is_no_leak() -> None:
    assert leaks(BEFORE, replace(BEFORE, memory_mib=10.0, descriptors=3, containers=0)) == []


@pytest.mark.docker
@pytest.mark.timeout(1200)
def test_two_thousand_calls_and_killed_sandboxes_leave_nothing_behind(tmp_path: Path) -> None:
    outcome = soak(tmp_path, calls=2_000, kills=12, seed=4, looks=2, kept_s=0.5)
    assert outcome.verdict == [], (outcome.ended, outcome.looks)
    assert outcome.kills >= 6
    assert outcome.looks[-1].calls >= 2_000
    assert sum(count for how, count in outcome.ended.items() if "succeeded" in how) > 20

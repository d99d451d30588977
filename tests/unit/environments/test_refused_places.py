"""A build that was not let to where the index keeps its files says which place that is, and which setting allows it."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from policies import SandboxId, TenantId
from sandbox.egress import Attempt, RefusedPlaces, Verdict
from sandbox.environment_errors import BuildFailedError
from sandbox.environment_steps import _failed
from sandbox.launcher.build_verb import BuildJob, BuildOutcome

OUTCOME = BuildOutcome(1, ("error: Failed to fetch https://files.example/x.whl",), 0.1)
ATTEMPT = Attempt(
    TenantId("builds"), (), SandboxId("builds"), "files.example:443", Verdict.REFUSED, "not allowed"
)


def failed(job: BuildJob, refused: tuple[str, ...]) -> BuildFailedError:
    return _failed("install", OUTCOME, job, refused)


@pytest.fixture
def job(tmp_path: Path) -> BuildJob:
    return BuildJob(
        "a", TenantId("local"), tmp_path, tmp_path, network=True, source_builds=False, timeout_s=9
    )


def test_the_hint_is_the_setting_to_write(job: BuildJob) -> None:
    places, before = RefusedPlaces(), time.monotonic()
    places.hear(ATTEMPT)
    places.hear(ATTEMPT)
    places.hear(replace(ATTEMPT, verdict=Verdict.ALLOWED, target="index.example:443"))
    places.hear(replace(ATTEMPT, target=""))
    assert places.since(before) == ("files.example:443",)
    assert places.since(time.monotonic() + 1) == ()
    hint = failed(job, places.since(before)).hint
    assert """sets RINGFENCE_BUILD_HOSTS to '["files.example:443"]'""" in hint
    assert "RINGFENCE_BUILD_HOSTS" not in failed(job, ()).hint


def test_they_are_few_whatever_a_build_asks_for(job: BuildJob) -> None:
    places = RefusedPlaces()
    for n in range(1000):
        places.hear(replace(ATTEMPT, target=f"host{n}.example:443"))
    assert len(places.since(0)) == 32
    assert failed(job, places.since(0)).hint.count(".example") == 8


def test_without_a_network_that_is_the_reason(job: BuildJob) -> None:
    assert "build.network: false" in failed(replace(job, network=False), ("x:1",)).hint

"""The self-test in real containers: it passes here, and each wall that is taken away is named."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from sandbox.errors import RuntimeRefusedError
from sandbox.launcher import self_test
from sandbox.launcher.self_test import SelfTest, prove
from sandbox.launcher.self_test_record import read_kept
from sandbox.launcher.self_test_verdict import Proof
from tests.contract.fixtures import IMAGE

pytestmark = [pytest.mark.docker]
BOTH = ["runc", pytest.param("gvisor", marks=pytest.mark.gvisor)]
GIB = 1024**3
INSTANCE = f"self-test-of-tests-{os.getpid()}"


@pytest.fixture
def api() -> Iterator[Any]:
    with contextlib.closing(docker.from_env()) as client:
        yield client.api
        label = {"label": [f"ringfence.instance={INSTANCE}"]}
        # Of a probe without its cap on processes the engine has thousands of gVisor's to end, which may take a minute.
        until = time.monotonic() + 180
        while (left := client.api.containers(all=True, filters=label)) and time.monotonic() < until:
            time.sleep(0.2)
        assert left == []


def failed(api: Any, isolation: str, weaken: dict[str, Any]) -> set[str]:
    proofs = prove(api, isolation, IMAGE, INSTANCE, api.info(), threading.Event(), weaken)
    return {proof.name for proof in proofs if not proof.holds}


@pytest.mark.parametrize("isolation", BOTH)
def test_every_wall_stands_here(api: Any, isolation: str) -> None:
    assert failed(api, isolation, {}) == set()


NETWORK = {"NetworkDisabled": False, "HostConfig": {"NetworkMode": "bridge"}}
WEAKENED = {
    "no memory cap": ({"Memory": 0, "MemorySwap": 0}, {"memory"}),
    "no pids cap": ({"PidsLimit": 0}, {"processes"}),
    "no seccomp": (
        {"SecurityOpt": ["no-new-privileges:true", "seccomp=unconfined"]},
        {"seccomp", "no namespaces", "no io_uring"},
    ),
    "new privileges": (
        # The engine cannot put a filter on without either: our list goes too.
        {"SecurityOpt": ["seccomp=unconfined"]},
        {"no new privileges", "seccomp", "no namespaces", "no io_uring"},
    ),
    "a writable root": ({"ReadonlyRootfs": False}, {"read-only root"}),
    "many open files": ({"Ulimits": [{"Name": "nofile", "Soft": 4096, "Hard": 4096}]}, {"open files"}),
    "a large tmp": ({"Tmpfs": {"/tmp": "rw,size=64m", "/app": "rw,size=1m"}}, {"size of /tmp"}),
}


@pytest.mark.parametrize(
    ("weaken", "named"),
    [pytest.param(*item, id=name) for name, item in WEAKENED.items()],
)
def test_a_wall_that_is_taken_away_is_named(api: Any, weaken: dict[str, Any], named: set[str]) -> None:
    assert failed(api, "runc", {"HostConfig": weaken}) == named


def test_a_network_is_noticed(api: Any) -> None:
    assert failed(api, "runc", NETWORK) == {"no network"}


@pytest.mark.gvisor
@pytest.mark.parametrize(
    ("weaken", "named"),
    [
        pytest.param({"Memory": 0, "MemorySwap": 0}, {"memory"}, id="no memory cap"),
        pytest.param({"PidsLimit": 0}, {"processes"}, id="no pids cap"),
        pytest.param({"Runtime": "runc"}, {"own kernel"}, id="not gVisor at all"),
    ],
)
def test_a_gvisor_wall_that_is_taken_away_is_named(api: Any, weaken: dict[str, Any], named: set[str]) -> None:
    assert failed(api, "gvisor", {"HostConfig": weaken}) == named


@pytest.mark.parametrize("at", range(3), ids=["runs", "verdict", "probe"])
def test_a_proof_is_kept_and_not_asked_for_again_by_the_same_version(
    api: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    monkeypatch.setattr(self_test, "_memory", {})
    kept = tmp_path / "self-test.json"
    SelfTest(api, IMAGE, INSTANCE, kept).require("runc")
    assert len(read_kept(kept)) == 1
    monkeypatch.setattr(self_test, "_memory", {})
    monkeypatch.setattr(self_test, "prove", None)
    SelfTest(api, IMAGE, INSTANCE, kept).require("runc")
    # What another version of the test was content with is none of this one's proofs.
    monkeypatch.setattr(self_test, "_TEST", (*self_test._TEST[:at], "another", *self_test._TEST[at + 1 :]))
    monkeypatch.setattr(self_test, "_memory", {})
    monkeypatch.setattr(self_test, "prove", lambda *_: (Proof("walls", holds=False, seen="none"),))
    with pytest.raises(RuntimeRefusedError, match="walls: none"):
        SelfTest(api, IMAGE, INSTANCE, kept).require("runc")


def test_a_runtime_that_fails_is_refused_by_name_and_the_failure_is_not_kept(
    api: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_test, "_memory", {})
    monkeypatch.setattr(self_test, "prove", lambda *given: prove(*given, NETWORK))
    kept = tmp_path / "self-test.json"
    with pytest.raises(RuntimeRefusedError, match=r"isolation 'runc' is refused, .*no network: eth0, lo"):
        SelfTest(api, IMAGE, INSTANCE, kept).require("runc")
    assert read_kept(kept) == {}


def test_what_a_killed_launcher_left_is_swept(api: Any, tmp_path: Path) -> None:
    labels = {"ringfence.instance": INSTANCE, "ringfence.purpose": "self-test"}
    api.create_container(IMAGE, command=["true"], labels=labels)
    SelfTest(api, IMAGE, INSTANCE, tmp_path / "x").sweep()

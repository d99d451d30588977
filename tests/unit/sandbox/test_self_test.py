"""What the self-test makes of a runtime's flags and of a probe's words. Real probes: tests/integration."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from docker.errors import APIError, NotFound

from sandbox.errors import RuntimeRefusedError, StartError
from sandbox.launcher.self_test import SelfTest, prove
from sandbox.launcher.self_test_record import keep, read_kept
from sandbox.launcher.self_test_verdict import Proof, judge, refused_flag


@pytest.mark.parametrize(
    "flag", ["--ignore-cgroups", "-ignore-cgroups", "--ignore-cgroups=true", "--network=host"]
)
def test_a_flag_under_which_no_cap_or_wall_holds_is_refused(flag: str) -> None:
    assert flag in refused_flag(["--platform=systrap", flag])


@pytest.mark.parametrize(
    "flag", ["--ignore-cgroups=false", "--network=none", "--host-uds=open", "--oci-seccomp"]
)
def test_other_flags_are_not(flag: str) -> None:
    assert refused_flag([flag]) == ""


class Engine:
    """As much of the SDK's client as is asked before any probe starts."""

    def __init__(self, runtimes: dict[str, Any]) -> None:
        self.runtimes = runtimes

    def info(self) -> dict[str, Any]:
        return {"Runtimes": self.runtimes, "KernelVersion": "6.1"}


def test_gvisor_that_ignores_cgroups_is_refused_before_any_probe(tmp_path: Path) -> None:
    engine = Engine({"runsc": {"path": "runsc", "runtimeArgs": ["--ignore-cgroups"]}})
    with pytest.raises(RuntimeRefusedError, match="no cap on memory") as caught:
        SelfTest(engine, "image", "i", tmp_path / "kept").require("gvisor")
    assert caught.value.code == "runtime_refused"


def test_a_runtime_that_the_engine_does_not_know_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"lacks: runsc.*make engine"):
        SelfTest(Engine({"runc": {}}), "image", "i", tmp_path / "kept").require("gvisor")


GOOD: dict[str, Any] = {
    "fact": "walls", "uid": 65534, "capabilities": 0, "no_new_privileges": 1, "seccomp": 2, "io_uring": "EPERM",
    "unshare": "EPERM", "inet": "EPERM", "interfaces": ["lo"], "root": ["ro"], "written": "EROFS", "kernel": "4.4.0",
    "nofile": [64, 64], "open_files": 61, "tmp": 2097152,
}  # fmt: skip


def broken(isolation: str, facts: list[dict[str, Any]], ends: dict[str, frozenset[str]]) -> set[str]:
    return {proof.name for proof in judge(isolation, facts, ends, kernel="6.1") if not proof.holds}


def test_a_probe_that_died_without_the_kernels_word_proves_no_memory_cap() -> None:
    facts = [GOOD, {"fact": "pids", "forked": 30}, {"fact": "memory begins"}]
    assert broken("runc", facts, {"all": frozenset({"die", "oom"})}) == set()
    assert broken("runc", facts, {"all": frozenset({"die"})}) == {"memory"}
    assert broken("runc", [GOOD, facts[1]], {"all": frozenset({"die", "oom"})}) == {"memory"}


def test_a_gvisor_that_never_forked_or_shares_our_kernel_proves_nothing() -> None:
    ends = {"pids": frozenset({"die"}), "walls": frozenset({"oom"})}
    begun = [GOOD, {"fact": "pids begins"}, {"fact": "memory begins"}]
    assert broken("gvisor", begun, ends) == set()
    assert broken("gvisor", [begun[0], begun[2]], ends) == {"processes"}
    assert broken("gvisor", [{**GOOD, "kernel": "6.1"}, *begun[1:]], ends) == {"own kernel"}


@pytest.mark.parametrize("end", [{"oom"}, {"die", "oom"}, {"die", "SIGKILL"}, set()])
def test_a_gvisor_that_was_ended_by_anything_but_itself_proves_no_cap_on_processes(end: set[str]) -> None:
    facts = [GOOD, {"fact": "pids begins"}, {"fact": "memory begins"}]
    ends = {"pids": frozenset(end), "walls": frozenset({"oom"})}
    assert broken("gvisor", facts, ends) == {"processes"}


def test_a_probe_that_says_nothing_has_not_started() -> None:
    assert broken("runc", [], {"all": frozenset({"die"})}) == {"start"}


@pytest.mark.parametrize("text", ["", "[]", '{"k": 1}', '{"k": {"at": 1}}', "{" * 5000])
def test_a_kept_file_that_is_not_ours_counts_as_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kept"
    path.write_text(text)
    assert read_kept(path) == {}
    assert read_kept(tmp_path / "absent") == {}


def test_a_proof_replaces_what_was_kept_of_its_isolation_alone(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    walls = Proof("walls", holds=True, seen="all")
    keep(path, "older", "runc", [walls])
    keep(path, "other", "gvisor", [walls])
    keep(path, "newer", "runc", [walls])
    assert sorted(read_kept(path)) == ["newer", "other"]
    assert Proof(**read_kept(path)["newer"]["proofs"][0]) == walls


def test_a_proof_that_cannot_be_written_is_said_and_costs_another_test_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keep(tmp_path / "no folder" / "kept.json", "key", "runc", [Proof("walls", holds=True, seen="all")])
    assert "runs again at the next start" in caplog.text


class Death:
    """How one probe ends: what each look at the engine's events finds, and then its state."""

    def __init__(self, *looks: tuple[str, ...], exit_code: int = 137, oom_killed: bool = False) -> None:
        self.looks = list(looks)
        self.state = {"ExitCode": exit_code, "OOMKilled": oom_killed}


class Dying:
    """As much of the SDK's client as a probe needs, with one death after the other."""

    def __init__(self, *deaths: Death) -> None:
        self.deaths = deaths
        self.started: list[str] = []
        self.removed: list[str] = []

    def create_container_from_config(self, config: Any, name: str) -> dict[str, str]:
        return {"Id": name}

    def start(self, container: str) -> None:
        self.started.append(container)

    def _death(self, container: str) -> Death:
        return self.deaths[self.started.index(container)]

    def events(self, *, filters: dict[str, list[str]], **_: Any) -> Iterator[dict[str, str]]:
        looks = self._death(filters["container"][0]).looks
        return iter([{"status": word} for word in (looks.pop(0) if len(looks) > 1 else looks[0])])

    def inspect_container(self, container: str) -> dict[str, Any]:
        return {"State": self._death(container).state}

    def logs(self, container: str) -> bytes:
        facts = [GOOD, {"fact": "pids", "forked": 30}, {"fact": "memory begins"}]
        return "\n".join(map(json.dumps, facts)).encode()

    def remove_container(self, container: str, **_: Any) -> None:
        self.removed.append(container)

    def memory(self) -> Proof:
        proofs = prove(self, "runc", "image", "i", {}, threading.Event())
        return next(proof for proof in proofs if proof.name == "memory")


@pytest.mark.parametrize(
    "death",
    [Death(("oom",)), Death(("die",), oom_killed=True), Death((), ("die",), ("die",), ("die", "oom"))],
    ids=["at once", "in its state", "after its death"],
)
def test_the_kernels_word_is_taken_by_whichever_way_it_comes_and_waited_for(death: Death) -> None:
    engine = Dying(death)
    assert engine.memory().holds
    assert engine.removed == engine.started
    assert len(engine.started) == 1


class DyingGvisor(Dying):
    """Whose probe says no more than that it begins to fork: its kernel goes down meanwhile."""

    def logs(self, container: str) -> bytes:
        return "\n".join(map(json.dumps, [GOOD, {"fact": "pids begins"}, {"fact": "memory begins"}])).encode()

    def processes(self) -> Proof:
        proofs = prove(self, "gvisor", "image", "i", {}, threading.Event())
        return next(proof for proof in proofs if proof.name == "processes")


AT_ITS_CAP, OUT_OF_MEMORY = Death(("die",), exit_code=2), Death(("oom",))


@pytest.mark.parametrize("starved", [0, 1, 2])
def test_a_gvisor_whose_processes_met_the_cap_on_memory_first_is_tried_again(starved: int) -> None:
    engine = DyingGvisor(*[OUT_OF_MEMORY, OUT_OF_MEMORY] * starved, AT_ITS_CAP, OUT_OF_MEMORY)
    assert engine.processes().holds
    assert len(engine.started) == 2 * (starved + 1)
    assert sorted(engine.removed) == sorted(engine.started)


def test_and_not_believed_when_it_always_does() -> None:
    engine = DyingGvisor(*[OUT_OF_MEMORY] * 6)
    assert not (proof := engine.processes()).holds
    assert proof.seen == "its memory ended before its processes"


def test_a_killed_probe_whose_word_was_lost_is_tried_again_and_not_believed_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sandbox.launcher.self_test._WORD_S", 0)
    engine = Dying(Death(("die",)), Death(("die", "oom")))
    assert engine.memory().holds
    assert len(engine.started) == 2
    engine = Dying(Death(("die",)), Death(("die",)), Death(("die",)))
    assert engine.memory() == Proof("memory", holds=False, seen="it ended with SIGKILL, die")
    assert engine.removed == engine.started
    assert len(engine.started) == 3


def test_a_probe_that_left_by_itself_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.launcher.self_test._WORD_S", float("inf"))
    engine = Dying(Death(("die",), exit_code=1))
    assert engine.memory() == Proof("memory", holds=False, seen="it ended with die")
    assert len(engine.started) == 1


class Unheard(Dying):
    """A gVisor whose kernel ends at its cap: before the probe's first word, so many times, and then after it."""

    def __init__(self, times: int) -> None:
        super().__init__(*(Death(("die",), exit_code=2), Death(("oom",))) * 3)
        self.times = times

    def logs(self, container: str) -> bytes:
        attempt, part = divmod(self.started.index(container), 2)
        facts = (
            [GOOD, {"fact": "memory begins"}] if part else [{"fact": "pids begins"}] * (attempt >= self.times)
        )
        return "\n".join(map(json.dumps, facts)).encode()


@pytest.mark.parametrize(("times", "holds"), [(0, True), (1, True), (2, True), (3, False)])
def test_a_gvisor_that_ended_before_the_probes_first_word_is_tried_again(times: int, holds: bool) -> None:
    engine = Unheard(times)
    proofs = prove(engine, "gvisor", "image", "i", {"KernelVersion": "6.1"}, threading.Event())
    assert {proof.name for proof in proofs if not proof.holds} == (set() if holds else {"processes"})
    assert len(engine.started) == len(engine.removed) == 2 * min(times + 1, 3)


@pytest.mark.parametrize(("status", "is_fine"), [(409, True), (404, True), (500, False)])
def test_a_probe_that_is_being_removed_or_is_gone_keeps_no_launcher_from_starting(
    tmp_path: Path, status: int, is_fine: bool
) -> None:
    class Busy:
        def __init__(self) -> None:
            self.asked: list[str] = []

        def containers(self, **_: Any) -> list[dict[str, str]]:
            return [{"Id": "first"}, {"Id": "second"}]

        def remove_container(self, container: str, **_: Any) -> None:
            self.asked.append(container)
            response = requests.Response()
            response.status_code = status
            raise (NotFound if status == 404 else APIError)("no", response=response)

    engine = Busy()
    sweeping = SelfTest(engine, "image", "i", tmp_path / "kept").sweep
    if is_fine:
        sweeping()
        assert engine.asked == ["first", "second"]
    else:
        with pytest.raises(APIError):
            sweeping()

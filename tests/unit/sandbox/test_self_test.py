"""What the self-test makes of a runtime's flags and of a probe's words. Real probes: tests/integration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sandbox.errors import RuntimeRefusedError, StartError
from sandbox.launcher.self_test import SelfTest, judge, read_kept, refused_flag


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


def test_a_probe_that_says_nothing_has_not_started() -> None:
    assert broken("runc", [], {"all": frozenset({"die"})}) == {"start"}


@pytest.mark.parametrize("text", ["", "[]", '{"k": 1}', '{"k": {"at": 1}}', "{" * 5000])
def test_a_kept_file_that_is_not_ours_counts_as_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kept"
    path.write_text(text)
    assert read_kept(path) == {}
    assert read_kept(tmp_path / "absent") == {}

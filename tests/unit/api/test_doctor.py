"""The doctor: each lack is named with what to do about it."""

from __future__ import annotations

import json
import resource
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from api import doctor
from api.doctor_check import Check, Ran

INFO = {
    "ServerVersion": "20.10.24+dfsg1", "Driver": "overlay2", "CgroupVersion": "2", "CgroupDriver": "systemd",
    "MemoryLimit": True, "SwapLimit": True, "CpuCfsQuota": True, "PidsLimit": True,
    "SecurityOptions": ["name=seccomp,profile=default"], "Runtimes": {"runc": {}, "runsc": {}},
}  # fmt: skip


def machine(info: dict[str, Any] | Ran, **commands: Ran) -> Any:
    def run(command: Sequence[str]) -> Ran:
        if command[:2] == ["docker", "info"]:
            return info if isinstance(info, Ran) else Ran(0, json.dumps(info), "")
        known = {
            "compose": Ran(0, "2.26.1-4\n", ""),
            "buildx": Ran(0, "github.com/docker/buildx 0.13.1+ds1 x\n", ""),
        }
        debian = {"Name": "runc", "Version": "1.1.5+ds1", "Details": {"GitCommit": "1.1.5+ds1-1+deb12u1"}}
        parts = [debian, {"Name": "docker-init", "Version": "0"}]
        known["version"] = Ran(0, json.dumps(parts), "")
        known["--version"] = Ran(0, "runsc version release-20250101.0\nspec: 1", "")
        known["image"] = Ran(0, "sha256:abc 1000000000\n", "")
        return {**known, **commands}[command[1]]

    return run


def look(tmp_path: Path, run: Any, **more: Any) -> dict[str, Check]:
    wanted = SimpleNamespace(
        **{
            "data_dir": tmp_path,
            "shm_dir": Path("/dev/shm/ringfence"),
            "node_image": "node:cpu",
            "osv_dir": None,
        }
        | more
    )
    return {check.name: check for check in doctor.examine(wanted, run=run)}


def test_a_good_machine_is_good(tmp_path: Path) -> None:
    checks = look(tmp_path, machine(INFO))
    for name in (
        "engine",
        "cgroups",
        "seccomp",
        "gvisor",
        "compose",
        "buildx",
        "node image",
        "seccomp profile",
    ):
        assert checks[name].verdict == "ok", checks[name]
    assert checks["compose"].found == "2.26.1-4"
    assert checks["buildx"].found == "0.13.1+ds1"


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        (Ran(1, "", "permission denied while trying to connect"), "group 'docker'"),
        (Ran(1, "", "Cannot connect to the Docker daemon. Is it running?"), "make engine"),
        (Ran(127, "", "no command 'docker'"), "make engine"),
        (Ran(124, "", "no answer within 20 s"), "make engine"),
        (Ran(0, "not json", ""), "make engine"),
        (Ran(0, json.dumps({"ServerErrors": ["permission denied"]}), ""), "group 'docker'"),
    ],
)
def test_an_engine_that_does_not_answer_is_explained(tmp_path: Path, said: Ran, advice: str) -> None:
    checks = look(tmp_path, machine(said))
    assert checks["engine"].verdict == "missing"
    assert advice in checks["engine"].advice
    assert "cgroups" not in checks


@pytest.mark.parametrize(
    ("change", "name", "found"),
    [
        ({"ServerVersion": "19.03.1"}, "engine", "19.03.1"),
        ({"SwapLimit": False, "PidsLimit": False}, "cgroups", "swap, pids"),
        ({"SecurityOptions": []}, "seccomp", "none"),
    ],
)
def test_what_the_engine_lacks_is_named(
    tmp_path: Path, change: dict[str, Any], name: str, found: str
) -> None:
    check = look(tmp_path, machine({**INFO, **change}))[name]
    assert check.verdict == "missing"
    assert found in check.found
    assert check.advice


def test_optional_things_are_warnings(tmp_path: Path) -> None:
    checks = look(
        tmp_path,
        machine({**INFO, "Runtimes": {"runc": {}}}, compose=Ran(1, "", "x"), buildx=Ran(0, "v0.5.1", "")),
    )
    assert [checks[name].verdict for name in ("gvisor", "compose", "buildx")] == ["warning"] * 3


def test_runtimes_are_held_against_known_escapes(tmp_path: Path) -> None:
    check = look(tmp_path, machine(INFO))["runtime versions"]
    assert check.verdict == "warning"
    assert "runc 1.1.5+ds1-1+deb12u1, gvisor release-20250101.0" in check.found
    assert "CVE-2025-31133" in check.found
    assert "CVE-2024-21626" not in check.found
    new = Ran(0, json.dumps([{"Name": "runc", "Version": "1.4.1"}]), "")
    assert look(tmp_path, machine(INFO, version=new))["runtime versions"].verdict == "ok"
    garbled = look(tmp_path, machine(INFO, version=Ran(0, "[1]", "")))["runtime versions"]
    assert (garbled.verdict, garbled.found) == ("warning", "they cannot be read")


def test_gvisor_with_a_flag_that_undoes_its_caps_is_no_gvisor(tmp_path: Path) -> None:
    runtimes = {"runc": {}, "runsc": {"path": "runsc", "runtimeArgs": ["--ignore-cgroups"]}}
    check = look(tmp_path, machine({**INFO, "Runtimes": runtimes}))["gvisor"]
    assert check.verdict == "missing"
    assert "--ignore-cgroups" in check.found


def test_what_the_self_test_proved_is_shown_wall_by_wall(tmp_path: Path) -> None:
    proofs = [{"name": "memory", "holds": True, "seen": "killed at 64 MiB"}]
    entry = {"isolation": "runc", "at": 1_790_000_000, "proofs": proofs}
    (tmp_path / "launcher").mkdir()
    (tmp_path / "launcher/self-test.json").write_text(json.dumps({"key": entry}))
    check = look(tmp_path, machine(INFO))["self-test runc"]
    assert check.verdict == "ok"
    assert "memory (killed at 64 MiB)" in check.found


def test_image_data_directory_and_shared_memory_are_looked_at(tmp_path: Path) -> None:
    checks = look(
        tmp_path,
        machine(INFO, image=Ran(1, "", "No such image")),
        shm_dir=Path("/proc"),
        data_dir=tmp_path / "new",
    )
    assert "make images" in checks["node image"].advice
    assert "not on a tmpfs" in checks["shared memory"].found
    assert checks["data directory"].verdict in ("ok", "warning")
    assert not (tmp_path / "new").exists()


def test_the_report_is_one_document(tmp_path: Path) -> None:
    checks = list(look(tmp_path, machine(Ran(127, "", "x"))).values())
    assert doctor.report(checks)["ok"] is False
    json.dumps(doctor.report(checks))


@pytest.mark.parametrize(
    ("hard", "verdict"),
    [(512, "missing"), (4096, "warning"), (65536, "ok"), (resource.RLIM_INFINITY, "ok")],
)
def test_the_limit_of_open_files_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hard: int, verdict: str
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _kind: (256, hard))
    check = look(tmp_path, machine(INFO))["open files"]
    assert check.verdict == verdict
    assert bool(check.advice) == (verdict != "ok")


def test_a_database_of_known_vulnerabilities_is_looked_at_where_there_is_one(tmp_path: Path) -> None:
    def told(osv_dir: Path | None) -> Check:
        return look(tmp_path, machine(INFO), osv_dir=osv_dir)["vulnerabilities"]

    assert (told(None).verdict, told(Path("/dev/null")).verdict) == ("ok", "ok")
    assert "RINGFENCE_OSV_DIR" in told(None).found
    assert (told(tmp_path / "nowhere").verdict, told(tmp_path).verdict) == ("warning", "warning")
    entry = {"id": "PYSEC-1", "modified": "2024-05-01T10:00:00Z"}
    (tmp_path / "PYSEC-1.json").write_text(json.dumps(entry))
    assert told(tmp_path).found == "1 entries, the newest of 2024-05-01T10:00:00Z"
    (tmp_path / "x.json").write_text("{")
    assert "1 cannot be read" in told(tmp_path).found

"""What the launcher records of its decisions, and which lines a denial names."""

from __future__ import annotations

from pathlib import Path

import pytest

from policies import ExtensionName, PolicyStore, SandboxId, TenantId
from sandbox import (
    AuditLimits,
    AuditReader,
    AuditUnavailableError,
    AuditWriter,
    Filter,
    Record,
    StartError,
    denial,
)
from sandbox.audit.denial import at_limit, at_wall
from sandbox.launcher import channel
from sandbox.launcher.notes import Notes
from sandbox.launcher.verbs import Ending, LaunchedSandbox

PACK = ExtensionName("pack")
BOX = SandboxId("box-1")
ASKED = channel.Ensure.model_construct(
    verb="ensure",
    tenant="studio",
    extensions=[channel.Code.model_construct(name="pack", source="/x", environment=None)],
    sandbox="box-1",
    policy_digest="d" * 64,
    group=None,
)
RUNS = LaunchedSandbox(BOX, TenantId("studio"), (PACK,), "container-1", 20_001)


def recorded(root: Path, writer: AuditWriter) -> list[Record]:
    assert writer.flush()
    return AuditReader(root).read(Filter(), limit=100)[0][1:]


def test_a_sandboxs_start_and_end_are_recorded_once_each_with_the_kernels_figures(tmp_path: Path) -> None:
    with AuditWriter(tmp_path / "audit-launcher", "launcher") as writer:
        notes = Notes(writer)
        with notes.start(ASKED):
            pass
        notes.started(ASKED, RUNS)
        notes.started(ASKED, RUNS)
        for _ in range(2):
            notes.ended(BOX, Ending(exit_code=137, oom_killed=True, oom_events=1, last_words="\x1b[2J"))
        started, ended = recorded(tmp_path, writer)
    assert (started.event, started.tenant, started.policy) == ("sandbox-started", "studio", "d" * 64)
    assert (ended.event, ended.outcome, ended.extensions) == ("sandbox-ended", "failed", ("pack",))
    assert ended.details["oom_killed"] is True
    assert ended.details["last_words"] == "\\x1b[2J"


def test_a_start_that_is_refused_is_recorded_with_the_policys_line(tmp_path: Path) -> None:
    with AuditWriter(tmp_path / "audit-launcher", "launcher") as writer:
        with pytest.raises(StartError), Notes(writer).start(ASKED):
            raise StartError(
                "build.network is not allowed (policies/pack.yaml:7)", "write 'build: {network: true}'"
            )
        (refused,) = recorded(tmp_path, writer)
    assert (refused.event, refused.outcome) == ("sandbox-refused", "denied")
    assert refused.denied_by == "policies/pack.yaml:7"
    assert refused.would_allow == "write 'build: {network: true}'"


def test_a_launcher_whose_log_is_required_and_cannot_be_kept_starts_nothing(tmp_path: Path) -> None:
    (tmp_path / "audit-launcher").write_text("a file where a directory should be")
    with AuditWriter(tmp_path / "audit-launcher", "launcher", AuditLimits(required=True)) as writer:
        assert not writer.flush(0.5)
        with pytest.raises(AuditUnavailableError, match="cannot be written"), Notes(writer).start(ASKED):
            raise AssertionError("it was let through")


def test_a_limit_and_a_wall_name_the_line_that_denied_and_the_line_to_write(tmp_path: Path) -> None:
    (tmp_path / "pack.yaml").write_text("memory: 64MiB\ntimeouts: {call: 5s}\n", encoding="utf-8")
    policy = PolicyStore(tmp_path).effective(PACK)
    met = at_limit("memory", "killed: memory cap", policy, (PACK,))
    assert met["denied_by"].endswith("pack.yaml:1")
    assert met["would_allow"] == "in pack.yaml: memory: <more than now>"
    slow = at_limit("time", "the call took longer than timeouts.call 5 s", policy, (PACK,))
    assert slow["denied_by"].endswith("pack.yaml:2")
    assert not at_limit("exit", "left with status 3", policy, (PACK,))
    path = at_wall(
        "a sandbox sees only the paths of its policy (x)", "No such file: '/srv/a'", policy, (PACK,)
    )
    assert "host: /srv/a" in path["would_allow"]
    assert not at_wall("", "anything", policy, (PACK,))
    assert not denial(StartError("no line here"))

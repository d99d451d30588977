"""What ended a sandbox, told from exit code, OOM flag, events and counters."""

from __future__ import annotations

from pathlib import Path

import pytest

from policies import ExtensionName, PolicyStore
from sandbox.launcher.failure import Names, explain, hint, refusal, too_slow
from sandbox.launcher.verbs import Ending, Usage


def names(tmp_path: Path, text: str = "memory: 512MiB\npids: 64\n") -> Names:
    (tmp_path / "blur.yaml").write_text(text)
    return Names((ExtensionName("blur"),), PolicyStore(tmp_path).effective(ExtensionName("blur")))


@pytest.mark.parametrize(
    ("ending", "limit", "figure", "says"),
    [
        (
            Ending(exit_code=137, oom_killed=True, oom_events=1),
            "memory",
            "512 MiB",
            "killed: memory cap 512 MiB",
        ),
        (Ending(exit_code=137, oom_events=1), "memory", "512 MiB", "killed: memory cap 512 MiB"),
        (Ending(exit_code=1, oom_events=2), "memory", "512 MiB", "memory cap 512 MiB"),
        (
            Ending(exit_code=137, oom_events=1, oom_killed=True, killed_by_us=True),
            "memory",
            "512 MiB",
            "memory cap",
        ),
        (Ending(exit_code=137), "signal", "SIGKILL", "killed from outside"),
        (Ending(exit_code=139), "signal", "SIGSEGV", "crashed with SIGSEGV"),
        (Ending(exit_code=134), "signal", "SIGABRT", "crashed with SIGABRT"),
        (Ending(exit_code=128 + 99), "signal", "signal 99", "crashed with signal 99"),
        (
            Ending(exit_code=3, last_words="Traceback: boom"),
            "exit",
            "3",
            "left with status 3: Traceback: boom",
        ),
        (Ending(exit_code=0), "exit", "0", "left with status 0"),
        (Ending(exit_code=1, pids_refused=7), "pids", "64", "pids cap 64"),
        (Ending(exit_code=137, killed_by_us=True), "exit", "", "hung up"),
        (Ending(), "exit", "", "hung up"),
    ],
)
def test_the_end_is_named_with_its_limit_and_figure(
    tmp_path: Path, ending: Ending, limit: str, figure: str, says: str
) -> None:
    error = explain(ending, names(tmp_path))
    assert (error.limit, error.figure) == (limit, figure)
    assert says in str(error)
    assert str(error).startswith("extension 'blur' ended: ")


def test_the_message_names_extension_cap_line_and_remedy(tmp_path: Path) -> None:
    text = str(explain(Ending(exit_code=137, oom_killed=True), names(tmp_path)))
    where = f"{tmp_path.name}/blur.yaml:1"
    assert text == (
        f"extension 'blur' ended: killed: memory cap 512 MiB ({where}); raise 'memory' or lower the batch size"
    )


def test_a_gvisor_kernel_that_stops_names_the_pids_cap(tmp_path: Path) -> None:
    error = explain(Ending(exit_code=2), names(tmp_path, "isolation: gvisor\npids: 512\n"))
    assert error.limit == "pids"


def test_a_timeout_names_its_key(tmp_path: Path) -> None:
    error = too_slow(names(tmp_path), "node '3' (Blur)", "timeouts.call", 0.5)
    assert error.limit == "time"
    assert "node '3' (Blur) took longer than timeouts.call 500 ms" in str(error)


def test_counters_that_grew_are_the_likely_cause_of_a_packs_own_error(tmp_path: Path) -> None:
    which = names(tmp_path)
    assert "memory cap 512 MiB" in hint(Usage(oom_kills=1), Usage(oom_kills=2), which)
    assert "pids cap 64" in hint(Usage(), Usage(pids_refused=1), which)
    assert hint(Usage(oom_kills=1, pids_refused=4), Usage(oom_kills=1, pids_refused=4), which) == ""
    assert hint(Usage(), Usage(), which) == ""


@pytest.mark.parametrize(
    ("kind", "message", "trace", "says"),
    [
        ("socket.gaierror", "Name or service not known", [], "has no network (network: none"),
        ("urllib.error.URLError", "<urlopen error>", [], "has no network"),
        (
            "PermissionError",
            "[Errno 1] Operation not permitted",
            ["  File x\n    s = socket.socket()"],
            "has no network",
        ),
        (
            "PermissionError",
            "[Errno 13] Permission denied: '/etc/shadow'",
            [],
            "only the paths of its policy",
        ),
        (
            "FileNotFoundError",
            "[Errno 2] No such file or directory: '/home/me/x'",
            [],
            "only the paths of its policy",
        ),
        ("FileNotFoundError", "no model called x", [], ""),
        ("ValueError", "'/etc' is bad", ["socket.py"], ""),
    ],
)
def test_a_wall_of_the_policy_is_named_in_a_packs_own_error(
    tmp_path: Path, kind: str, message: str, trace: list[str], says: str
) -> None:
    found = refusal(kind, message, trace, names(tmp_path))
    assert says in found
    assert bool(found) is bool(says)

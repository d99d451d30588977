"""Where ComfyUI's own releases differ: ours follows the newer one."""

from __future__ import annotations

from typing import Any

#: node -> (the release from which on nothing of this applies, beginning of the difference, what became of it)
CHANGES: list[tuple[str, tuple[int, ...], str, str]] = []


def settle(report: Any, version: tuple[int, ...]) -> None:
    """Take the known differences of an older checkout out of a report; one that is not there is a problem too."""
    for node, since, beginning, note in CHANGES:
        if node != report.node or version >= since:
            continue
        left = [problem for problem in report.problems if not problem.startswith(beginning)]
        if len(left) == len(report.problems):
            left.append(f"core/releases.py says that this differs, and it does not: {beginning}")
        report.problems = left
        report.note = f"{report.note}; {note}" if report.note else note

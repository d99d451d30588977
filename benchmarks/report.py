"""Samples, ratios and the machine they were taken on; every benchmark prints and saves through this."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: its samples, beside the floor measured in the same run (None where it *is* a floor)."""

    what: str
    samples: list[float]
    floor: str | None = None
    unit: str = "ms"

    @property
    def p50(self) -> float:
        return statistics.median(self.samples)

    @property
    def p99(self) -> float:
        ordered = sorted(self.samples)
        return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]

    def said(self, figure: str) -> str:
        """``p50`` or ``p99`` as a table has it: with its unit where that is not the heading's."""
        number: float = getattr(self, figure)
        return f"{number:.3f}" if self.unit == "ms" else f"{number:.2f} {self.unit}"


@dataclass(frozen=True, slots=True)
class Goal:
    """A ratio that is aimed at: the median of ``what`` over that of ``against``; without one, a figure of its unit."""

    what: str
    against: str | None
    at_most: float
    figure: str = "p50"
    """Of ``what``."""
    figure_against: str = "p50"
    is_difference: bool = False
    """How much more it is, in its unit, and not how many times as much."""

    @property
    def is_ratio_of_medians(self) -> bool:
        """Whether it says how many times as much one is of the other, in the middle."""
        return (
            self.against is not None
            and not self.is_difference
            and {self.figure, self.figure_against} == {"p50"}
        )


@dataclass(slots=True)
class Report:
    """What one benchmark found out."""

    question: str
    rows: list[Row] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What a reader of the table has to know: what was refused, what is not comparable."""

    def add(self, what: str, samples: list[float], *, floor: str | None = None, unit: str = "ms") -> None:
        self.rows.append(Row(what, samples, floor, unit))

    def aim(self, what: str, against: str | None, at_most: float, figure: str = "p50", **more: Any) -> None:
        """Say what is aimed at (``Goal``); not there when one of the two was left out."""
        if {what, against or what} <= {row.what for row in self.rows}:
            self.goals.append(Goal(what, against, at_most, figure, **more))

    def reached(self, goal: Goal) -> float:
        by_name = {row.what: row for row in self.rows}
        ours: float = getattr(by_name[goal.what], goal.figure)
        if goal.against is None:
            return ours
        theirs: float = getattr(by_name[goal.against], goal.figure_against)
        return ours - theirs if goal.is_difference else ours / theirs

    def unit(self, goal: Goal) -> str:
        """Of what is reached; nothing for a ratio."""
        if goal.against is not None and not goal.is_difference:
            return ""
        return " " + next(row.unit for row in self.rows if row.what == goal.what)

    def table(self) -> str:
        """Markdown; the ratio is the median over the named floor's median."""
        by_name = {row.what: row for row in self.rows}
        lines = ["| what | runs | p50 ms | p99 ms | against |", "| --- | --- | --- | --- | --- |"]
        for row in self.rows:
            against = ""
            if row.floor is not None:
                against = f"{row.p50 / by_name[row.floor].p50:.2f} x {row.floor}"
            lines.append(
                f"| {row.what} | {len(row.samples)} | {row.said('p50')} | {row.said('p99')} | {against} |"
            )
        return "\n".join([*lines, *_paragraphs(self.notes)])

    def goal_lines(self) -> list[str]:
        """Rows of the table of goals."""
        return [_goal_line(self, goal, "") for goal in self.goals]

    def save(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        body = {
            "question": self.question,
            "machine": machine(),
            "rows": [asdict(row) for row in self.rows],
            "goals": [{**asdict(goal), "reached": self.reached(goal)} for goal in self.goals],
            "notes": self.notes,
        }
        (folder / f"{name}.json").write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


@dataclass(slots=True)
class SideBySide:
    """One question, asked of several kinds of sandbox: each is a column."""

    question: str
    by_kind: Mapping[str, Report]

    def table(self) -> str:
        """Markdown: a row for each figure that any of them has, and a pair of columns for each kind."""
        kinds = list(self.by_kind)
        names = list(dict.fromkeys(row.what for report in self.by_kind.values() for row in report.rows))
        head = "".join(f" {kind} runs | {kind} p50 ms | {kind} p99 ms | {kind}: against |" for kind in kinds)
        lines = [f"| what |{head}", "| --- |" + " --- | --- | --- | --- |" * len(kinds)]
        for name in names:
            cells = "".join(_cells(self.by_kind[kind], name) for kind in kinds)
            lines.append(f"| {name} |{cells}")
        notes = [f"{kind}: {note}" for kind, report in self.by_kind.items() for note in report.notes]
        return "\n".join([*lines, *_paragraphs(notes)])

    def goal_lines(self) -> list[str]:
        """Rows of the table of goals."""
        return [
            _goal_line(report, goal, f", {kind}")
            for kind, report in self.by_kind.items()
            for goal in report.goals
        ]


def goals_table(lines: list[str]) -> str:
    """Markdown of what was aimed at and what was reached."""
    return "\n".join(["| what | against | at most | reached | |", "| --- | --- | --- | --- | --- |", *lines])


def _goal_line(report: Report, goal: Goal, where: str) -> str:
    reached = report.reached(goal)
    figure = "" if goal.figure == "p50" else f" ({goal.figure})"
    said = "yes" if reached <= goal.at_most else "**no**"
    unit = report.unit(goal)
    against = goal.against or "(the clock)"
    if goal.against is None and unit != " ms":
        against = "(as it is)"
    if goal.figure_against != "p50":
        against += f" ({goal.figure_against})"
    more = " more" if goal.is_difference else ""
    return (
        f"| {goal.what}{figure}{where} | {against} | {goal.at_most:g}{unit}{more} | {reached:.2f}{unit}{more} | "
        f"{said} |"
    )


def _cells(report: Report, name: str) -> str:
    by_name = {row.what: row for row in report.rows}
    row = by_name.get(name)
    if row is None:
        return " - | - | - | |"
    against = "" if row.floor is None else f"{row.p50 / by_name[row.floor].p50:.2f} x {row.floor}"
    return f" {len(row.samples)} | {row.said('p50')} | {row.said('p99')} | {against} |"


def _paragraphs(notes: list[str]) -> list[str]:
    return ["", *(f"- {note}" for note in notes)] if notes else []


def machine() -> dict[str, str]:
    """What a reader needs to judge the figures."""
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "load at the start": f"{os.getloadavg()[0]:.1f}",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "engine": _output("docker", "version", "--format", "{{.Server.Version}}"),
        "storage": _output("docker", "info", "--format", "{{.Driver}}, cgroup v{{.CgroupVersion}}"),
        "gvisor": _output("runsc", "--version").partition("\n")[0].rpartition(" ")[2],
    }


def isolations() -> list[str]:
    """What the engine here can start."""
    known = _output("docker", "info", "--format", "{{json .Runtimes}}")
    return ["runc", *(["gvisor"] if '"runsc"' in known else [])]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except OSError as error:
        return f"none ({error.strerror})"
    return done.stdout.strip() or f"unknown ({command[0]} exited {done.returncode})"

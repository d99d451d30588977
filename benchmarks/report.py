"""Samples, ratios and the machine they were taken on; every benchmark prints and saves through this."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: samples in ms, beside the floor measured in the same run (None where it *is* a floor)."""

    what: str
    samples_ms: list[float]
    floor: str | None = None

    @property
    def p50(self) -> float:
        return statistics.median(self.samples_ms)

    @property
    def p99(self) -> float:
        ordered = sorted(self.samples_ms)
        return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]


@dataclass(slots=True)
class Report:
    """What one benchmark found out."""

    question: str
    rows: list[Row] = field(default_factory=list)

    def add(self, what: str, samples_ms: list[float], *, floor: str | None = None) -> None:
        self.rows.append(Row(what, samples_ms, floor))

    def table(self) -> str:
        """Markdown; the ratio is the median over the named floor's median."""
        by_name = {row.what: row for row in self.rows}
        lines = ["| what | runs | p50 ms | p99 ms | against |", "| --- | --- | --- | --- | --- |"]
        for row in self.rows:
            against = ""
            if row.floor is not None:
                against = f"{row.p50 / by_name[row.floor].p50:.2f} x {row.floor}"
            lines.append(
                f"| {row.what} | {len(row.samples_ms)} | {row.p50:.3f} | {row.p99:.3f} | {against} |"
            )
        return "\n".join(lines)

    def save(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        body = {"question": self.question, "machine": machine(), "rows": [asdict(r) for r in self.rows]}
        (folder / f"{name}.json").write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


def machine() -> dict[str, str]:
    """What a reader needs to judge the figures."""
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
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
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    return done.stdout.strip() or f"unknown ({command[0]} exited {done.returncode})"

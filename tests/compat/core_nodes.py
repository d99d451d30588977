"""Compare the core extension's nodes with those of a ComfyUI checkout: declarations, results, files.

    python tests/compat/core_nodes.py CHECKOUT [--python PYTHON] [--only NAME ...] [--cases N] [--verbose]

PYTHON can import the checkout's ``nodes`` (torch and ComfyUI's requirements; CPU only); it runs in a process of its
own, as does our side. Each node of the core extension that the checkout has gets N cases: the defaults, each choice of
its lists, edges of its numbers, and pictures, masks and latents of odd sizes, batches and channels. Both sides must
give the same values (``core/tolerances.py`` says where a last bit may differ, and why), write the same files, or both
refuse. ``core/known.py`` lists the differences that are meant: where a later release differs from the checkout, ours
follows the later. Of a checkout that is newer than the release that ours follows, only results are compared.

Exit status 1: a node differs, or one that needs no model is missing without being listed as such.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "core"))
import declarations
import known
import outcomes
import tolerances
import values

ROOT = Path(__file__).resolve().parents[2]
SIDE = Path(__file__).parent / "core" / "side.py"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--python", default=sys.executable, help="runs the checkout's side")
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--cases", type=int, default=24, help="for each node")
    parser.add_argument(
        "--verbose", action="store_true", help="show each difference, not the first of a node"
    )
    options = parser.parse_args()
    checkout = options.checkout.resolve()
    version = release_of(checkout)
    with tempfile.TemporaryDirectory(prefix="core-nodes-") as scratch:
        place = Path(scratch)
        (place / "input").mkdir()
        values.make_input_files(place / "input")
        real = Side("real", options.python, checkout, place)
        ours = Side("ours", sys.executable, ROOT, place)
        reports = compare(real, ours, version, options)
    return show(reports, version, options.verbose)


def release_of(checkout: Path) -> tuple[int, ...]:
    text = (checkout / "comfyui_version.py").read_text(encoding="utf-8")
    found = re.search(r'"(\d+)\.(\d+)\.(\d+)"', text)
    return tuple(int(part) for part in found.groups()) if found else (0,)


class Side:
    """A process with one side's node classes."""

    def __init__(self, side: str, python: str, root: Path, place: Path) -> None:
        self.answers = place / f"{side}.pt"
        self.outputs = place / side
        command = [
            python,
            str(SIDE),
            side,
            str(root),
            str(place / "input"),
            str(self.outputs),
            str(self.answers),
        ]
        self.log = (place / f"{side}.log").open("w+")
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self.side = side

    def info(self) -> dict[str, Any]:
        return dict(self._line()["info"])

    def run(self, cases: Path) -> list[dict[str, Any]]:
        import torch

        assert self.process.stdin is not None
        self.process.stdin.write(f"{cases}\n")
        self.process.stdin.flush()
        self._line()
        return list(torch.load(self.answers, weights_only=True))

    def _line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            raise SystemExit(f"the {self.side} side ended:\n{self.log.read()[-3000:]}")
        return dict(json.loads(line))


@dataclass
class Report:
    """What was found about one node."""

    node: str
    verdict: str = "same"
    cases: int = 0
    refused: int = 0
    worst: float = 0.0
    problems: list[str] = field(default_factory=list)
    note: str = ""


def compare(real: Side, ours: Side, version: tuple[int, ...], options: Any) -> list[Report]:
    theirs, mine = real.info(), ours.info()
    reports = {}
    cases = []
    for name in sorted(theirs):
        if options.only and name not in options.only:
            continue
        report = reports[name] = Report(name)
        if name not in mine:
            report.verdict, report.note = declarations.absent(name, theirs[name])
            if report.verdict == "MISSING" and version > known.FOLLOWED:
                report.verdict, report.note = "gap", "of a newer release, or not offered yet"
            continue
        found = declarations.differences(theirs[name], mine[name])
        if found and version > known.FOLLOWED:
            report.note = f"declared otherwise since: {', '.join(text.partition(':')[0] for text in found)}"
        else:
            report.problems += found
        cases += [
            {"node": name, "inputs": inputs}
            for number in range(options.cases)
            if (inputs := declarations.inputs_for(name, theirs[name], number)) is not None
        ]
    file = real.answers.with_name("cases.json")
    file.write_text(json.dumps(cases), encoding="utf-8")
    for case, one, other, number in zip(
        cases, real.run(file), ours.run(file), range(len(cases)), strict=True
    ):
        report = reports[case["node"]]
        report.cases += 1
        tolerance = tolerances.of(case["node"])
        found = outcomes.Difference(tolerance)
        found.compare(one, other, real.outputs / "kept" / str(number), ours.outputs / "kept" / str(number))
        report.worst = max(report.worst, found.worst)
        report.refused += "error" in one and "error" in other
        report.problems += [
            f"{problem}   with {json.dumps(case['inputs'])[:400]}" for problem in found.problems
        ]
    for report in reports.values():
        if report.verdict == "same":
            known.settle(report, version)
            if report.cases and report.cases == report.refused:
                report.problems.append("no case ran: both sides refused every input")
            report.verdict = "DIFFERS" if report.problems else "known" if report.note else "same"
    return list(reports.values())


def show(reports: list[Report], version: tuple[int, ...], verbose: bool) -> int:
    print(f"ComfyUI {'.'.join(map(str, version))}")
    counts: dict[str, int] = {}
    for report in sorted(reports, key=lambda r: (r.verdict == "model", r.node)):
        counts[report.verdict] = counts.get(report.verdict, 0) + 1
        if report.verdict == "model" and not verbose:
            continue
        figures = f"{report.cases - report.refused} ran, {report.refused} refused" if report.cases else ""
        worst = (
            f", off by {report.worst:.1e} at most ({tolerances.reason(report.node)})" if report.worst else ""
        )
        print(f"{report.verdict:8} {report.node:40} {figures}{worst} {report.note}")
        for problem in report.problems if verbose else report.problems[:1]:
            print(f"         - {problem}")
    print(", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())))
    return int(any(counts.get(verdict) for verdict in ("DIFFERS", "MISSING")))


if __name__ == "__main__":
    sys.exit(main())

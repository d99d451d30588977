"""Run every benchmark beside its peers and floors, print the tables, save JSON and draw plots; ``--quick`` takes less.

What is not here is left out, and the table says so and why: ComfyUI (name a checkout with --comfyui and a Python that
has its requirements with --comfyui-python), pyisolate and matplotlib (from the package index, into build/benchmarks),
gVisor (an engine that has the runtime runsc).

    python -m benchmarks [--quick] [--only NAME ...] [--write] [--far-off FACTOR]

A question that fails makes the run fail; an aim that is missed does not, for times depend on the machine. ``--far-off``
is for CI: it fails where a ratio of two medians of this run is more than so many times what is aimed at.

``--write`` puts the tables into docs/performance.md between its marks, and the plots beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.util
import os
import sys
import tempfile
import traceback
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import plots
from benchmarks.peers import processes
from benchmarks.peers.environments import LeftOutError
from benchmarks.peers.servers import ComfyUI
from benchmarks.report import Report, SideBySide, goals_table, isolations, machine

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/performance.md"
RESULTS = ROOT / "build/benchmarks"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
SANDBOXES = ("round_trip", "tensor_trip", "cold_start", "pool", "density", "shared_weights")
"""Questions that are asked of each kind of sandbox; those that this checkout has."""
PEERED = ("round_trip", "tensor_trip")
"""Of them, those that pyisolate is asked, too."""
SERVERS = ("chain", "prompts", "image_chain", "catalogue", "restart")
"""Questions that are asked of a whole server, with each kind of sandbox."""
BESIDE_COMFYUI = ("chain", "prompts", "image_chain")
"""Of them, those that ComfyUI is asked, too: once, beside the first kind."""


@dataclass(slots=True)
class Run:
    """One run: what is there to compare with, and what came of it."""

    quick: bool
    kinds: list[str]
    comfyui: ComfyUI | None
    results: Path
    text: list[str] = field(default_factory=list)
    goals: list[str] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    pyisolate: processes.Measured | None = None
    drawn: list[Path] = field(default_factory=list)

    def prepare(self, *, peers: bool) -> None:
        """Find the peers; what is not found is left out."""
        if "gvisor" not in self.kinds:
            self.left_out.append("gVisor: the engine has no runtime runsc, or it was not asked for")
        if self.comfyui is None:
            self.left_out.append("ComfyUI: no checkout was named (--comfyui DIR --comfyui-python FILE)")
        elif flaw := self.comfyui.flaw:
            self.left_out.append(f"ComfyUI: {flaw}")
            self.comfyui = None
        elif caution := self.comfyui.caution:
            self.left_out.append(
                f"ComfyUI on the Python that ours runs on: {caution}; ratios compare these as well"
            )
        if not peers:
            self.left_out.append("pyisolate: not asked for")
            return
        calls, runs, sizes = (500, 3, [1, 16, 64]) if self.quick else (5000, 15, [1, 16, 64, 256])
        try:
            self.pyisolate = processes.measure(
                self.results / "environments", calls=calls, runs=runs, sizes_mib=sizes
            )
        except LeftOutError as error:
            self.left_out.append(f"pyisolate: {error}")

    def ask(self, question: str) -> None:
        """Ask one question, in a directory of its own; one that fails does not keep the others from being asked."""
        module = importlib.import_module(f"benchmarks.{question}")
        reports: dict[str, Report] = {}
        for kind in self.kinds:
            with tempfile.TemporaryDirectory(prefix="ringfence-bench-") as folder:
                try:
                    asked = module.measure(
                        Path(folder), quick=self.quick, isolation=kind, **self._peers(question, kind)
                    )
                    reports[kind] = asyncio.run(asked) if asyncio.iscoroutine(asked) else asked
                except Exception as error:  # noqa: BLE001 - said, and the run goes on
                    traceback.print_exception(error)
                    said = f"{question}, {kind}: it failed: {type(error).__name__}: {error!s:.300}"
                    self.failed.append(said)
                    continue
            reports[kind].save(self.results, f"{question}-{kind}")
        if reports:
            kind, first = next(iter(reports.items()))
            title = first.question.removesuffix(f", {kind}")
            table = SideBySide(title, reports)
            self.text += ["", f"### {title}", "", table.table()]
            self.goals += table.goal_lines()
            self.reports += reports.values()
            print("\n".join(self.text[-4:]), flush=True)

    def _peers(self, question: str, kind: str) -> dict[str, Any]:
        if question in PEERED:
            return {"pyisolate": self.pyisolate}
        if question in BESIDE_COMFYUI:
            return {"comfyui": self.comfyui if kind == self.kinds[0] else None}
        return {}

    def far_off(self, factor: float) -> list[str]:
        """Ratios of medians that are more than ``factor`` times what is aimed at: no noise of a machine does that."""
        return [
            f"{goal.what} / {goal.against}: {report.reached(goal):.2f} ({report.question})"
            for report in self.reports
            for goal in report.goals
            if goal.is_ratio_of_medians and report.reached(goal) > factor * goal.at_most
        ]

    @property
    def missing(self) -> list[str]:
        """What is not in the tables, and why."""
        return [*self.left_out, *self.failed]

    def page(self) -> str:
        """All of it."""
        facts = "; ".join(f"{key} {value}" for key, value in machine().items())
        peers = [f"ComfyUI {self.comfyui.version} on Python {self.comfyui.build}"] if self.comfyui else []
        peers += [f"pyisolate {self.pyisolate.version} without its bubblewrap"] if self.pyisolate else []
        lines = [
            f"Taken {datetime.now(UTC):%Y-%m-%d} on: {facts}.",
            f"Beside: {'; '.join(peers) or 'no peers'}.{' Few samples (--quick).' if self.quick else ''}",
            *(["", "Left out:", *(f"- {line}" for line in self.missing)] if self.missing else []),
            "",
            "### What was aimed at, and what was reached",
            "",
            goals_table(self.goals),
            "",
            *(f"![{plot.stem}]({plot.parent.name}/{plot.name})" for plot in self.drawn),
            *self.text,
        ]
        return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer and smaller samples")
    parser.add_argument(
        "--isolation",
        choices=["runc", "gvisor"],
        action="append",
        help="only this one (default: every one that the engine has)",
    )
    parser.add_argument("--only", action="append", help="only this question, by the name of its file")
    parser.add_argument("--no-peers", action="store_true", help="nothing from the package index")
    parser.add_argument("--comfyui", type=Path, default=_named("RINGFENCE_BENCH_COMFYUI"))
    parser.add_argument("--comfyui-python", type=Path, default=_named("RINGFENCE_BENCH_COMFYUI_PYTHON"))
    parser.add_argument("--write", action="store_true", help="put tables and plots into docs/")
    parser.add_argument(
        "--far-off", type=float, help="fail where a ratio is more than so many times what is aimed at"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    known = [name for name in (*SANDBOXES, *SERVERS) if importlib.util.find_spec(f"benchmarks.{name}")]
    if unknown := set(options.only or ()) - set(known):
        parser.error(f"there is no question {', '.join(sorted(unknown))}: {', '.join(known)}")
    comfyui = None
    if options.comfyui is not None:
        if options.comfyui_python is None:
            parser.error("--comfyui needs --comfyui-python: a Python that has what ComfyUI requires")
        comfyui = ComfyUI(options.comfyui.resolve(), options.comfyui_python.absolute())
    run = Run(options.quick, options.isolation or isolations(), comfyui, options.results)
    asked = [name for name in known if not options.only or name in options.only]
    run.prepare(peers=not options.no_peers and any(name in PEERED for name in asked))
    for name in asked:
        run.ask(name)
    if not options.no_peers:
        drawn = PAGE.parent / "performance" if options.write else options.results / "plots"
        try:
            run.drawn = plots.draw(options.results, drawn, options.results / "environments")
        except LeftOutError as error:
            run.left_out.append(f"plots: {error}")
    page = run.page()
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "page.md").write_text(page + "\n", encoding="utf-8")
    print(
        "\n".join(
            ["", "### Goals", "", goals_table(run.goals), "", *(f"left out: {line}" for line in run.missing)]
        )
    )
    if options.write:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        _, _, after = rest.partition(END)
        PAGE.write_text(f"{before}{BEGIN}\n{page}\n{END}{after}", encoding="utf-8")
    wrong = [*run.failed, *(run.far_off(options.far_off) if options.far_off else ())]
    if wrong:
        sys.exit("\n".join(["", "error: failed, or far from what is aimed at:", *wrong]))


def _named(variable: str) -> Path | None:
    return Path(os.environ[variable]) if os.environ.get(variable) else None


if __name__ == "__main__":
    main()

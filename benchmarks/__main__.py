"""Run every benchmark in one process run and print the tables; ``--quick`` takes fewer samples.

``--write`` puts the tables into docs/performance.md between its marks.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

from benchmarks import cold_start, density, pool, round_trip, tensor_trip
from benchmarks.report import Report, isolations, machine

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/performance.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    parser.add_argument(
        "--isolation",
        choices=["runc", "gvisor"],
        action="append",
        help="only this one (default: every one that the engine has)",
    )
    parser.add_argument("--write", action="store_true", help="put the tables into docs/performance.md")
    parser.add_argument("--results", type=Path, default=ROOT / "build/benchmarks")
    options = parser.parse_args()
    text = [
        f"Taken {datetime.now(UTC):%Y-%m-%d} on: " + "; ".join(f"{k} {v}" for k, v in machine().items()) + "."
    ]
    with tempfile.TemporaryDirectory(prefix="ringfence-bench-") as folder:
        chosen = options.isolation or isolations()
        for module, isolation in product((round_trip, tensor_trip, cold_start, pool, density), chosen):
            measure = module.measure(Path(folder), quick=options.quick, isolation=isolation)
            report: Report = asyncio.run(measure)
            report.save(options.results, f"{module.__name__.rpartition('.')[2]}-{isolation}")
            text += ["", f"### {report.question}", "", report.table()]
            print("\n".join(text[-3:]), flush=True)
    if options.write:
        page = PAGE.read_text(encoding="utf-8")
        before, _, rest = page.partition(BEGIN)
        _, _, after = rest.partition(END)
        PAGE.write_text(f"{before}{BEGIN}\n" + "\n".join(text) + f"\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Fuzz for longer than a test run does: ``python -m tests.unit.fuzz [--seconds N] [TARGET...]``.

What reaches lines of ours that nothing before it reached is kept as a seed, and so is what goes wrong, under
``found-...``; those are printed at the end, and the exit status says whether there were any. Commit the new seeds.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from tests.unit.api.attacked import attacked_from
from tests.unit.fuzz.http_targets import http_targets
from tests.unit.fuzz.mutations import damaged, keep, seeds_of
from tests.unit.fuzz.targets import TARGETS, Target

ROOT = Path(__file__).resolve().parents[3]
OURS = tuple(str(ROOT / room) for room in ("api", "engine", "sandbox", "policies", "runtime"))


Watch = Callable[[Any], None]


class Reached:
    """Which lines of ours ran, in this thread."""

    def __init__(self) -> None:
        self.lines: set[tuple[str, int]] = set()

    def __call__(self, frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        """As ``sys.settrace`` wants it."""
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        if event == "line":
            self.lines.add((frame.f_code.co_filename, frame.f_lineno))
        return self


def fuzz(name: str, target: Target, seconds: float, chance: random.Random, watch: Watch) -> list[Path]:
    """Until the time is over; what went wrong. ``watch`` sets the tracer of the thread in which the target works."""
    seeds = list(seeds_of(name).values())
    reached = Reached()
    found: dict[str, Path] = {}
    count = added = 0
    end = time.monotonic() + seconds

    def run(raw: bytes) -> bool:
        before = len(reached.lines)
        watch(reached)
        try:
            target(raw)
        except Exception:
            watch(None)
            kind = traceback.format_exc().splitlines()[-3:]
            if (where := " ".join(kind)[:300]) not in found:
                found[where] = keep(name, raw, "found")
                print(f"{name}: {where}", file=sys.stderr)
        finally:
            watch(None)
        return len(reached.lines) > before

    for raw in seeds:
        run(raw)
    while time.monotonic() < end:
        raw = damaged(chance.choice(seeds), chance, seeds)
        count += 1
        if run(raw):
            seeds.append(raw)
            keep(name, raw, "kept")
            added += 1
    print(f"{name}: {count} inputs, {len(reached.lines)} lines, {added} seeds more, {len(found)} findings")
    return list(found.values())


def main() -> int:
    """See the module's text."""
    parser = argparse.ArgumentParser(prog="python -m tests.unit.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target")
    parser.add_argument(
        "--start", type=int, default=None, help="of the random numbers; else each run is another"
    )
    chosen = parser.parse_args()
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as directory, attacked_from(Path(directory)) as (at, portal):
        targets = {**TARGETS, **http_targets(at, portal)}
        if unknown := set(chosen.targets) - targets.keys():
            parser.error(f"there is no target {min(unknown)}; there are {', '.join(targets)}")
        chance = random.Random(chosen.start)
        found = []
        for name in chosen.targets or targets:
            watch = sys.settrace if name in TARGETS else partial(portal.call, sys.settrace)
            found += fuzz(name, targets[name], chosen.seconds, chance, watch)
    print("\n".join(f"found: {path}" for path in found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

"""What does a call of a trivial node cost, host to container and back, over an open session?"""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks import floors
from benchmarks.floors import ECHO
from benchmarks.house import IMAGE, house
from benchmarks.peers.processes import Measured
from benchmarks.report import Report
from sandbox import NodeCall, Value

OURS = "node call"
INSIDE = "the same echo, its other end in a container"
PEER = "pyisolate: call of a trivial method"


async def measure(
    folder: Path, *, quick: bool, isolation: str = "runc", pyisolate: Measured | None = None
) -> Report:
    runs = 500 if quick else 5000
    report = Report(f"Round trip of a trivial node, {isolation}")
    report.add(ECHO, await floors.unix_echo(runs))
    (folder / "echo").mkdir()
    with floors.container(IMAGE, folder / "echo", isolation) as start:
        report.add(INSIDE, await floors.unix_echo(runs, folder=folder / "echo", start=start), floor=ECHO)
    if pyisolate is not None:
        report.add(PEER, pyisolate.calls, floor=ECHO)
    samples = []
    async with house(folder, isolation=isolation) as built:
        session = await built.session("bench-a")
        for i in range(runs + 50):
            call = NodeCall(
                prompt_id="bench",
                node_id="1",
                class_type="BenchNothing",
                inputs={"value": (Value(i),)},
                instance="1",
            )
            begin = time.perf_counter()
            await session.execute(call, lambda progress: None)
            if i >= 50:
                samples.append((time.perf_counter() - begin) * 1000)
    report.add(OURS, samples, floor=ECHO)
    report.aim(OURS, ECHO, 3.0)
    report.aim(OURS, PEER, 0.5)
    report.aim(OURS, OURS, 4.0, "p99")
    return report

"""How long from nothing to the first result of a node, and where does the time go?"""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks import floors
from benchmarks.house import IMAGE, TENANT, House, house
from benchmarks.report import Report
from sandbox import NodeCall, Value
from sandbox.session import ExtensionSession

PARTS = ("create", "attach", "start", "connect", "hello", "load")


async def measure(folder: Path, *, quick: bool, isolation: str = "runc") -> Report:
    runs = 2 if quick else 8
    report = Report(f"Cold start, no pool, {isolation}")
    bare, torch = "docker run, bare python", "docker run, import torch"
    report.add(bare, floors.docker_run(IMAGE, "pass", runs, isolation))
    report.add(torch, floors.docker_run(IMAGE, "import torch", runs, isolation))
    async with house(folder, isolation=isolation) as built:
        light = [
            await _first_result(built, f"light-{i}", "BenchNothing", Value(1), "value") for i in range(runs)
        ]
        heavy = [await _first_result(built, f"heavy-{i}", "BenchMake", Value(1), "mib") for i in range(runs)]
    for part in PARTS:
        report.add(f"start: {part}", [sample[part] for sample in (*light, *heavy)])
    report.add("no torch: first call", [sample["call"] for sample in light])
    report.add("no torch: to the first result", [sample["all"] for sample in light], floor=bare)
    report.add("torch: first call, which imports it", [sample["call"] for sample in heavy])
    report.add("torch: to the first result", [sample["all"] for sample in heavy], floor=torch)
    report.aim("no torch: to the first result", bare, 1.2)
    report.aim("torch: to the first result", torch, 1.2)
    return report


async def _first_result(
    built: House, name: str, class_type: str, value: Value, input_name: str
) -> dict[str, float]:
    """ms of each part; ``all`` from the request for a session to the first result."""
    begin = time.perf_counter()
    session = await built.session(name)
    loaded = time.perf_counter()
    call = NodeCall(
        prompt_id="bench", node_id="1", class_type=class_type, inputs={input_name: (value,)}, instance="1"
    )
    result = await session.execute(call, lambda progress: None)
    end = time.perf_counter()
    assert result.slots is not None
    for slot in result.slots:
        for item in slot:
            built.store.release(item)
    assert isinstance(session, ExtensionSession)
    parts = {part: seconds * 1000 for part, seconds in session.start_seconds.items()}
    await built.manager.stop(TENANT, session.sandbox)
    return {**parts, "call": (end - loaded) * 1000, "all": (end - begin) * 1000}

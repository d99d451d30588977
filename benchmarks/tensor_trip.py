"""What does a tensor cost from one sandbox to the next, with adoption and with the copy that adoption saves?"""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks import floors
from benchmarks.house import House, house
from benchmarks.report import Report
from sandbox import NodeCall, StoreLimits, Value

SIZES_MIB = (1, 16, 64, 256)
HANDED_KIB = (1, 1 << 10, 256 << 10, 1 << 20)


async def measure(folder: Path, *, quick: bool, isolation: str = "runc") -> Report:
    runs = 3 if quick else 15
    report = Report(f"A tensor made in one sandbox and read in another, {isolation}")
    # gVisor keeps files open, so that no lease is granted: every output is copied, and there is nothing to switch off.
    adopted = "adopted" if isolation == "runc" else "copied"
    floor: dict[int, tuple[str, str]] = {}
    async with house(folder, isolation=isolation) as built:
        for mib in SIZES_MIB:
            copied, written = floor[mib] = f"{mib} MiB: memcpy", f"{mib} MiB: written once to tmpfs"
            report.add(copied, floors.memcpy(mib << 20, runs))
            report.add(written, floors.write_tmpfs(mib << 20, runs))
            make, take = await trips(built, mib, runs)
            report.add(f"{mib} MiB: made and {adopted}", make, floor=written)
            report.add(f"{mib} MiB: handed to the next sandbox", take, floor=copied)
        for kib in HANDED_KIB:
            _, take = await trips(built, kib / 1024, runs)
            size = f"{kib} KiB" if kib < 1024 else f"{kib >> 10} MiB"
            first = f"{HANDED_KIB[0]} KiB: hand-over alone"
            report.add(f"{size}: hand-over alone", take, floor=None if kib == HANDED_KIB[0] else first)
        for node, what in (
            ("BenchDouble", "in, and a new one back"),
            ("BenchPass", "in, and back unchanged"),
        ):
            report.add(f"256 MiB: {what}", await there_and_back(built, 256, node, runs), floor=floor[256][1])
    if isolation != "runc":
        return report
    async with house(folder, isolation=isolation, limits=StoreLimits(spare_bytes=0)) as built:
        for mib in SIZES_MIB:
            make, _ = await trips(built, mib, runs)
            report.add(f"{mib} MiB: made and adopted (no pages filled again)", make, floor=floor[mib][1])
    async with house(folder, isolation=isolation, may_adopt=False) as built:
        for mib in SIZES_MIB:
            make, _ = await trips(built, mib, runs)
            report.add(f"{mib} MiB: made and copied (adoption off)", make, floor=floor[mib][1])
    return report


async def there_and_back(built: House, mib: int, node: str, runs: int) -> list[float]:
    """ms to hand a tensor that another sandbox made to a node that returns one of the same size."""
    maker, taker = await built.session("bench-a"), await built.session("bench-b")
    samples = []
    for i in range(runs + 2):
        made = await maker.execute(_call("BenchMake", "kib", Value(mib << 10)), lambda progress: None)
        assert made.slots is not None
        value = made.slots[0][0]
        begin = time.perf_counter()
        back = await taker.execute(_call(node, "image", value), lambda progress: None)
        took = (time.perf_counter() - begin) * 1000
        assert back.slots is not None
        built.store.release(back.slots[0][0])
        built.store.release(value)
        if i >= 2:
            samples.append(took)
    return samples


async def trips(built: House, mib: float, runs: int) -> tuple[list[float], list[float]]:
    """ms to make a tensor in one sandbox and own it; ms to hand it to another and get an answer."""
    maker, taker = await built.session("bench-a"), await built.session("bench-b")
    make, take = [], []
    for i in range(runs + 2):
        begin = time.perf_counter()
        made = await maker.execute(_call("BenchMake", "kib", Value(int(mib * 1024))), lambda progress: None)
        between = time.perf_counter()
        assert made.slots is not None
        value = made.slots[0][0]
        begin_take = time.perf_counter()
        await taker.execute(_call("BenchTake", "image", value), lambda progress: None)
        end = time.perf_counter()
        built.store.release(value)
        if i >= 2:
            make.append((between - begin) * 1000)
            take.append((end - begin_take) * 1000)
    return make, take


def _call(class_type: str, name: str, value: Value) -> NodeCall:
    return NodeCall(
        prompt_id="bench", node_id="1", class_type=class_type, inputs={name: (value,)}, instance="1"
    )

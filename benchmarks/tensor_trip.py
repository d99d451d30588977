"""What does a tensor cost from one sandbox to the next, with adoption and with the copy that adoption saves?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks import floors
from benchmarks.floors import ECHO
from benchmarks.house import IMAGE, House, house
from benchmarks.peers.processes import Measured
from benchmarks.report import Report
from sandbox import TAKEN, FastPath, NodeCall, NodeResult, Session, Value, take_fast_paths

SIZES_KIB = (1, 1 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20)
WARM_UP = 2
REST_S = 0.02
"""After so long whoever waits for a call sleeps as deeply as ever here (an echo takes no longer after 100 ms)."""
RESTED = f"{ECHO}, after {REST_S * 1000:.0f} ms of rest"
LARGE = 256 << 10
"""The size that aims are about."""


async def measure(
    folder: Path, *, quick: bool, isolation: str = "runc", pyisolate: Measured | None = None
) -> Report:
    runs = 3 if quick else 15
    report = Report(f"A tensor made in one sandbox and read in another, {isolation}")
    made = "made and owned by the host"
    most = LARGE if quick else SIZES_KIB[-1]
    sizes = [kib for kib in SIZES_KIB if kib <= most]
    floor: dict[int, tuple[str, str]] = {}
    report.add(ECHO, await floors.unix_echo(500))
    report.add(RESTED, await floors.unix_echo(50, before=partial(asyncio.sleep, REST_S)), floor=ECHO)
    bare = floors.made_in_container(IMAGE, [kib << 10 for kib in sizes], 3 if quick else 5, isolation)
    async with house(folder, isolation=isolation) as built:
        for kib, in_container in zip(sizes, bare, strict=True):
            times = runs if kib <= LARGE else 5
            copied, written = floor[kib] = f"{size(kib)}: memcpy", f"{size(kib)}: written once to tmpfs"
            report.add(copied, floors.memcpy(kib << 10, times))
            report.add(written, floors.write_tmpfs(kib << 10, times))
            report.add(
                f"{size(kib)}: made and written once to tmpfs in a bare container",
                in_container,
                floor=written,
            )
            report.add(echo_after(kib), await floors.echo_after_writing(kib << 10, times))
            make, take, rested, double, cold = await trips(built, kib, times)
            report.add(f"{size(kib)}: {made}", make, floor=written)
            report.add(without(kib), cold)
            report.add(handed(kib), take, floor=copied)
            report.add(after_rest(kib), rested, floor=RESTED)
            peer = f"{size(kib)}: pyisolate, shared: a fresh one in and a new one back"
            if pyisolate is not None and kib >> 10 in pyisolate.into_and_back:
                report.add(peer, pyisolate.into_and_back[kib >> 10])
            report.add(
                back(kib), double, floor=peer if any(row.what == peer for row in report.rows) else None
            )
            report.aim(back(kib), peer, 0.5)
    report.aim(f"{size(LARGE)}: {made}", floor[LARGE][1], 1.15)
    for kib in sizes[1:]:
        report.aim(handed(kib), handed(sizes[0]), 1.5)
    for kib in sizes[1:]:
        report.aim(after_rest(kib), after_rest(sizes[0]), 1.5)
    report.notes.append(_coldness(report, sizes))
    # gVisor keeps files open, so that no lease is granted: every output is copied, and there is nothing to switch off.
    if isolation != "runc":
        return report
    taken = set(TAKEN)
    take_fast_paths(taken - {FastPath.ADOPTED_OUTPUTS})
    try:
        async with house(folder, isolation=isolation) as built:
            for kib in sizes:
                make, *_ = await trips(built, kib, runs if kib <= LARGE else 5)
                report.add(f"{size(kib)}: {made}, adoption off", make, floor=floor[kib][1])
    finally:
        take_fast_paths(taken)
    return report


def _coldness(report: Report, sizes: Sequence[int]) -> str:
    """How much of what a large tensor costs more is no tensor's."""
    medians = {row.what: row.p50 for row in report.rows}

    def beside_the_first(row: Callable[[int], str], kib: int) -> float:
        return medians[row(kib)] / medians[row(sizes[0])]

    def more(kib: int) -> float:
        return medians[handed(kib)] - medians[without(kib)]

    said = []
    for kib in sizes[1:]:
        echo, call = beside_the_first(echo_after, kib), beside_the_first(without, kib)
        said.append(f"{size(kib)} {echo:.2f} and {call:.2f} times, {more(kib):.2f} ms")
    return (
        f"a bare echo after another process wrote as much, and a call without a tensor after one was made, beside "
        f"those after {size(sizes[0])}; and how much more than that call handing the tensor on takes: "
        f"{'; '.join(said)} ({size(sizes[0])}: {more(sizes[0]):.2f} ms)"
    )


def size(kib: int) -> str:
    """As people write it."""
    return f"{kib} KiB" if kib < 1 << 10 else f"{kib >> 10} MiB" if kib < 1 << 20 else f"{kib >> 20} GiB"


def handed(kib: int) -> str:
    """What a row is called."""
    return f"{size(kib)}: handed to the next sandbox"


def after_rest(kib: int) -> str:
    """What a row is called."""
    return f"{handed(kib)} after {REST_S * 1000:.0f} ms of rest"


def without(kib: int) -> str:
    """What a row is called."""
    return f"{size(kib)}: a call without a tensor, after one was made"


def echo_after(kib: int) -> str:
    """What a row is called."""
    return f"{size(kib)}: {ECHO}, after another process wrote as much"


def back(kib: int) -> str:
    """What a row is called."""
    return f"{size(kib)}: a fresh one into a sandbox and a new one back"


async def trips(built: House, kib: int, runs: int) -> tuple[list[float], ...]:
    """ms to make a tensor in one sandbox and own it; to hand it to another and get a number, at once and after a rest;
    or a new tensor; and of a call without any tensor in that other one, made when the first has just filled one."""
    maker, taker = await built.session("bench-a"), await built.session("bench-b")
    make, take, double, cold = [], [], [], []
    for i in range(runs + WARM_UP):
        took, value = await _timed(maker, _call("BenchFill", "kib", Value(kib)))
        took_take, _ = await _timed(taker, _call("BenchTake", "image", value))
        built.store.release(value)
        _, other = await _timed(maker, _call("BenchFill", "kib", Value(kib)))
        took_cold, _ = await _timed(taker, _call("BenchNothing", "value", Value(i)))
        built.store.release(other)
        _, fresh = await _timed(maker, _call("BenchFill", "kib", Value(kib)))
        took_double, new = await _timed(taker, _call("BenchDouble", "image", fresh))
        built.store.release(fresh)
        built.store.release(new)
        if i >= WARM_UP:
            make.append(took)
            take.append(took_take)
            double.append(took_double)
            cold.append(took_cold)
    return make, take, await _rested(built, kib, runs), double, cold


async def _rested(built: House, kib: int, runs: int) -> list[float]:
    """Apart from the others: whoever has rested is slow for some calls more."""
    maker, taker = await built.session("bench-a"), await built.session("bench-b")
    rested = []
    for i in range(runs + WARM_UP):
        _, value = await _timed(maker, _call("BenchFill", "kib", Value(kib)))
        await asyncio.sleep(REST_S)
        took, _ = await _timed(taker, _call("BenchTake", "image", value))
        built.store.release(value)
        if i >= WARM_UP:
            rested.append(took)
    return rested


async def _timed(session: Session, call: NodeCall) -> tuple[float, Value]:
    begin = time.perf_counter()
    result: NodeResult = await session.execute(call, lambda progress: None)
    took = (time.perf_counter() - begin) * 1000
    assert result.slots is not None
    return took, result.slots[0][0]


def _call(class_type: str, name: str, value: Value) -> NodeCall:
    return NodeCall(
        prompt_id="bench", node_id="1", class_type=class_type, inputs={name: (value,)}, instance="1"
    )

"""What a pool of spares saves: the first call of an extension, and the one after its sandbox was killed."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio

from benchmarks import floors
from benchmarks.house import IMAGE, TENANT, House, house
from benchmarks.report import Report
from sandbox import EndedError, ManagerLimits, NodeCall, Session, Value

LIMITS = ManagerLimits(spares=1, spare_settle_s=0.0)
NAME = "heavy"
FIRST, KILLED = "from the pool: first call", "killed, then the next result"


async def measure(folder: Path, *, quick: bool, isolation: str = "runc") -> Report:
    runs = 3 if quick else 20
    report = Report(f"From the pool: an extension whose node makes a torch tensor, {isolation}")
    floor = "docker run, import torch"
    report.add(floor, floors.docker_run(IMAGE, "import torch", 2 if quick else 5, isolation))
    async with house(folder, isolation=isolation) as built:
        cold = [await _cold(built) for _ in range(2 if quick else 5)]
    report.add("no pool: first call", cold, floor=floor)
    async with house(folder, isolation=isolation, limits=LIMITS) as built:
        await _call(await built.session(NAME), built)  # known from here on, and that it uses torch
        first = [await _after(built, _stopped) for _ in range(runs)]
        killed = [await _after(built, _killed) for _ in range(runs)]
        assert built.manager.pool.missed == 1, built.manager.pool
    report.notes.append(
        "the extension had been called since the start: spares are of extensions that are known"
    )
    report.add(FIRST, first, floor=floor)
    report.add(KILLED, killed, floor=floor)
    report.aim(FIRST, None, 20)
    report.aim(FIRST, None, 60, "p99")
    report.aim(KILLED, None, 30)
    return report


async def _cold(built: House) -> float:
    begin = time.perf_counter()
    session = await built.session(NAME)
    await _call(session, built)
    took = (time.perf_counter() - begin) * 1000
    await built.manager.stop(TENANT, session.sandbox)
    return took


async def _after(built: House, end: Callable[[House, Session], Awaitable[None]]) -> float:
    """ms from the request for a session to the first result, its sandbox before having been ended."""
    session = await built.session(NAME)
    await _call(session, built)
    await built.manager.pool_filled(1)
    await end(built, session)
    begin = time.perf_counter()
    await _call(await built.session(NAME), built)
    return (time.perf_counter() - begin) * 1000


async def _stopped(built: House, session: Session) -> None:
    await built.manager.stop(TENANT, session.sandbox)


async def _killed(built: House, session: Session) -> None:
    """A node that does not end meets the kernel's kill; the caller learns of it, and asks again."""
    (info,) = [info for info in built.manager.list() if info.id == session.sandbox]
    await anyio.run_process(["docker", "kill", str(info.container)])
    try:
        await _call(session, built)
    except EndedError:
        return
    raise AssertionError("a killed sandbox answered")


async def _call(session: Session, built: House) -> None:
    call = NodeCall(
        prompt_id="bench", node_id="1", class_type="BenchMake", inputs={"mib": (Value(1),)}, instance="1"
    )
    result = await session.execute(call, lambda progress: None)
    for slot in result.slots or ():
        for item in slot:
            built.store.release(item)

"""What an idle sandbox weighs, without torch and with it, beside a bare import; and what a hundred do to the host.

The host's calls are compared by turns: with one sandbox, with all, and with the one again when the others are gone, so
that nothing but the others differs and what the machine does meanwhile is on both sides. A round's p99 is one sample:
one bad moment of the machine is one round, not the figure.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import anyio
import anyio.to_thread
import docker

from benchmarks import memory
from benchmarks.house import IMAGE, TENANT, House, house
from benchmarks.report import Report
from sandbox import ManagerLimits, NodeCall, Session, Value
from sandbox.launcher.spec import RUNTIMES

ALONE, LIVING = "node call, one sandbox lives", "node call, all live"
ALONE_P99, LIVING_P99 = f"{ALONE}: a round's p99", f"{LIVING}: a round's p99"
ROUNDS = 5
"""Before and after the others: so many rounds of each kind twice."""
_SETTLE_S = 15.0
"""What the engine still does after a hundred starts, and three looks at a sandbox that is idle."""
BARE_TORCH = "container that imports torch and nothing else"
BARE_PYTHON = "container that runs Python and nothing else"
LIGHT, HEAVY = "sandbox without torch", "sandbox with torch"
SIZES = {"runc": (80, 20), "gvisor": (40, 10)}
"""Sandboxes without torch and with it. gVisor's need some processor each while they wait, and starting a hundred beside
the containers to compare with them took over ten minutes on two cores."""
_PATIENCE_S = 600
"""Fifty gVisors leave a machine of two cores little for the next start."""
BARE = {
    BARE_TORCH: "import sys, torch; print('up', flush=True); sys.stdin.read()",
    BARE_PYTHON: "import sys; print('up', flush=True); sys.stdin.read()",
}


async def measure(folder: Path, *, quick: bool, isolation: str = "runc") -> Report:
    light, heavy = (6, 2) if quick else SIZES[isolation]
    report = Report(f"{light + heavy} idle sandboxes, {heavy} of them with torch, {isolation}")
    async with house(folder, isolation=isolation, limits=ManagerLimits(max_sandboxes=128)) as built:
        first = await built.session("light-0")
        calls = 200 if quick else 2000
        await _round_trips(
            built, first, calls
        )  # a host that has just started has everything to do for the first time
        alone = await _rounds(built, first, calls)
        for number in range(1, light):
            await _use(built, await built.session(f"light-{number}"), "BenchNothing", "value")
        for number in range(heavy):
            await _use(built, await built.session(f"heavy-{number}"), "BenchMake", "mib")
        await anyio.sleep(0 if quick else _SETTLE_S)
        living = await _rounds(built, first, calls)
        bare = await anyio.to_thread.run_sync(_bare, heavy, isolation)
        try:
            found = await anyio.to_thread.run_sync(_weights, built, bare)
        finally:
            await anyio.to_thread.run_sync(_remove, [each for made in bare.values() for each in made])
        await anyio.sleep(0 if quick else _SETTLE_S)
        living += await _rounds(built, first, calls)
        for info in built.manager.list():
            if info.id != first.sandbox:
                await built.manager.stop(TENANT, info.id)
        await anyio.sleep(0 if quick else _SETTLE_S)
        alone += await _rounds(built, first, calls)
    report.add(ALONE, [call for taken in alone for call in taken])
    report.add(LIVING, [call for taken in living for call in taken], floor=ALONE)
    report.add(ALONE_P99, [_p99(taken) for taken in alone])
    report.add(LIVING_P99, [_p99(taken) for taken in living], floor=ALONE_P99)
    report.add(BARE_PYTHON, found[BARE_PYTHON], unit="MiB")
    report.add(LIGHT, found[LIGHT], floor=BARE_PYTHON, unit="MiB")
    report.add(BARE_TORCH, found[BARE_TORCH], unit="MiB")
    report.add(HEAVY, found[HEAVY], floor=BARE_TORCH, unit="MiB")
    report.notes.append(f"{light} without torch, {heavy} with it")
    if not quick and isolation == "gvisor":
        report.notes.append(
            "not a hundred: an idle one needs some processor, and their starts took over ten minutes"
        )
    report.aim(LIGHT, None, 12.0)
    report.aim(HEAVY, BARE_TORCH, 10.0, is_difference=True)
    report.aim(LIVING_P99, ALONE_P99, 1.2)
    return report


async def _rounds(built: House, session: Session, calls: int) -> list[list[float]]:
    return [await _round_trips(built, session, calls) for _ in range(ROUNDS)]


def _p99(taken: Sequence[float]) -> float:
    return statistics.quantiles(taken, n=100)[-1]


async def _round_trips(built: House, session: Session, count: int) -> list[float]:
    taken = []
    for _ in range(count):
        begin = time.perf_counter()
        await _use(built, session, "BenchNothing", "value")
        taken.append((time.perf_counter() - begin) * 1000)
    return taken


async def _use(built: House, session: Session, class_type: str, name: str) -> None:
    call = NodeCall(
        prompt_id="bench", node_id="1", class_type=class_type, inputs={name: (Value(1),)}, instance="1"
    )
    result = await session.execute(call, lambda progress: None)
    for slot in result.slots or ():
        for item in slot:
            built.store.release(item)


def _bare(count: int, isolation: str) -> dict[str, list[str]]:
    """So many containers of each kind that wait, with no option of ours but the runtime, started one by one."""
    client = docker.from_env(timeout=_PATIENCE_S)
    made: dict[str, list[str]] = {what: [] for what in BARE}
    try:
        for what, code in BARE.items():
            for _ in range(count):
                container = client.containers.run(
                    IMAGE, ["-c", code], entrypoint="/opt/venv/bin/python", detach=True, stdin_open=True,
                    runtime=RUNTIMES[isolation], network_mode="none", labels=["ringfence-benchmark"],
                )  # fmt: skip
                made[what].append(str(container.id))
                next(iter(container.logs(stream=True)))
    except BaseException:
        _remove([each for started in made.values() for each in started])
        raise
    finally:
        client.close()
    return made


def _remove(containers: Sequence[str]) -> None:
    client = docker.from_env(timeout=_PATIENCE_S)
    try:
        for container in containers:
            client.containers.get(container).remove(force=True)
    finally:
        client.close()


def _weights(built: House, bare: Mapping[str, Sequence[str]]) -> dict[str, list[float]]:
    """MiB of each container, all its processes together. All live meanwhile: what they share counts in parts."""
    client = docker.from_env()
    try:
        found: dict[str, list[float]] = {LIGHT: [], HEAVY: []}
        for info in built.manager.list():
            kind = HEAVY if "heavy" in info.extensions[0] else LIGHT
            found[kind].append(memory.of_container(client, str(info.container)))
        for what, containers in bare.items():
            found[what] = [memory.of_container(client, container) for container in containers]
        return found
    finally:
        client.close()

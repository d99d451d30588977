"""What an idle sandbox weighs, without torch and with it, beside a bare import; and what a hundred do to the host."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import anyio
import anyio.to_thread
import docker

from benchmarks import memory
from benchmarks.house import IMAGE, House, house
from benchmarks.report import Report
from sandbox import ManagerLimits, NodeCall, Session, Value
from sandbox.launcher.spec import RUNTIMES

ALONE, LIVING = "node call, one sandbox lives", "node call, all live"
BARE_TORCH = "container that imports torch and nothing else"
LIGHT, HEAVY = "sandbox without torch", "sandbox with torch"
SIZES = {"runc": (80, 20), "gvisor": (40, 10)}
"""Sandboxes without torch and with it. gVisor's need some processor each while they wait, and starting a hundred beside
the containers to compare with them took over ten minutes on two cores."""
_PATIENCE_S = 600
"""Fifty gVisors leave a machine of two cores little for the next start."""
BARE = "import sys, torch; print('up', flush=True); sys.stdin.read()"


async def measure(folder: Path, *, quick: bool, isolation: str = "runc") -> Report:
    light, heavy = (6, 2) if quick else SIZES[isolation]
    report = Report(f"{light + heavy} idle sandboxes, {heavy} of them with torch, {isolation}")
    async with house(folder, isolation=isolation, limits=ManagerLimits(max_sandboxes=128)) as built:
        first = await built.session("light-0")
        alone = await _round_trips(built, first, 200 if quick else 2000)
        for number in range(1, light):
            await _use(built, await built.session(f"light-{number}"), "BenchNothing", "value")
        for number in range(heavy):
            await _use(built, await built.session(f"heavy-{number}"), "BenchMake", "mib")
        living = await _round_trips(built, first, 200 if quick else 2000)
        bare = await anyio.to_thread.run_sync(_bare_torch, heavy, isolation)
        try:
            found = await anyio.to_thread.run_sync(_weights, built, bare)
        finally:
            await anyio.to_thread.run_sync(_remove, bare)
    report.add(ALONE, alone)
    report.add(LIVING, living, floor=ALONE)
    report.add(BARE_TORCH, found["bare"], unit="MiB")
    report.add(LIGHT, found["light"], unit="MiB")
    report.add(HEAVY, found["heavy"], floor=BARE_TORCH, unit="MiB")
    report.notes.append(f"{isolation}: {light} without torch, {heavy} with it")
    report.aim(LIGHT, None, 12.0)
    report.aim(HEAVY, BARE_TORCH, 10.0, is_difference=True)
    report.aim(LIVING, ALONE, 1.2, "p99", figure_against="p99")
    return report


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


def _bare_torch(count: int, isolation: str) -> list[str]:
    """Containers that import torch and wait, with no option of ours but the runtime; started one after the other."""
    client = docker.from_env(timeout=_PATIENCE_S)
    made: list[str] = []
    try:
        for _ in range(count):
            container = client.containers.run(
                IMAGE, ["-c", BARE], entrypoint="/opt/venv/bin/python", detach=True, stdin_open=True,
                runtime=RUNTIMES[isolation], network_mode="none", labels=["ringfence-benchmark"],
            )  # fmt: skip
            made.append(str(container.id))
            next(iter(container.logs(stream=True)))
    except BaseException:
        _remove(made)
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


def _weights(built: House, bare: Sequence[str]) -> dict[str, list[float]]:
    """MiB of each container, all its processes together."""
    client = docker.from_env()
    try:
        found: dict[str, list[float]] = {"light": [], "heavy": [], "bare": []}
        for info in built.manager.list():
            kind = "heavy" if "heavy" in info.extensions[0] else "light"
            found[kind].append(memory.of_container(client, str(info.container)))
        found["bare"] = [memory.of_container(client, container) for container in bare]
        return found
    finally:
        client.close()

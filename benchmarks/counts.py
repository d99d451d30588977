"""What the hot paths of the host cost in calls of functions, which no other work on the machine changes.

A node call to a real worker (a child of this process, without walls: the host's side is the same), and a node of a
chain in the engine over sessions that do nothing, without and with a client whose socket takes all that it is told.
Each figure is compared with what is written here, and long chains with each other, so that a change that makes the host
do more for each node is seen where times would be noise.

    python -m benchmarks.counts [--results DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import anyio
from starlette.websockets import WebSocket

from api.gathered import AT_ONCE
from api.telling import Teller
from api.websocket_clients import Connection, Connections
from benchmarks.house import ROOT, TENANT, OnePack
from engine import Engine, PromptRequest
from engine.testing import FakeNode, FakeSessions, until_ended
from policies import ExtensionName, PolicyStore
from sandbox import NodeCall, Places, SandboxManager, TensorStore, Value
from sandbox.testing import UnconfinedLauncher

NODE_CALL = "a node call over an open session"
CHAINS = {length: f"a node of a chain of {length:,}" for length in (100, 1_000, 4_000)}
TOLD = "a node of a chain of 100 that a client hears of"
AT_MOST = {NODE_CALL: 168.0, TOLD: 435.0, CHAINS[100]: 368.0, CHAINS[1_000]: 243.0, CHAINS[4_000]: 237.0}
"""Calls of functions (Python's and C's) for each: a tenth to a quarter more than it takes."""
FLAT = 1.3
"""How much more a node of one long chain may cost than one of another."""


@dataclass(frozen=True, slots=True)
class Count:
    """One figure beside what it may be."""

    what: str
    calls: float
    at_most: float

    @property
    def is_too_much(self) -> bool:
        return self.calls > self.at_most


def measure() -> list[Count]:
    """All figures."""
    with tempfile.TemporaryDirectory(prefix="rf-") as folder:  # a socket's path must be short
        found = {NODE_CALL: asyncio.run(_node_calls(Path(folder)))}
    for length, what in CHAINS.items():
        found[what] = asyncio.run(_chain(length))
    found[TOLD] = asyncio.run(_chain(100, is_told=True))
    return [Count(what, round(calls, 1), AT_MOST[what]) for what, calls in found.items()]


def steepness(counts: list[Count]) -> float:
    """The dearest node of a long chain over the cheapest; a short one has more of what a prompt costs by itself."""
    chains = [count.calls for count in counts if count.what in (CHAINS[1_000], CHAINS[4_000])]
    return max(chains) / min(chains)


async def counted(work: Callable[[], Awaitable[object]]) -> int:
    """How many calls of functions happen in this thread while ``work`` is done."""
    profile = cProfile.Profile()
    profile.enable()
    try:
        await work()
    finally:
        profile.disable()
    return sum(entry.callcount for entry in profile.getstats())


async def _node_calls(folder: Path, times: int = 300) -> float:
    places = Places("counts", folder / "data", folder / "shm", folder / "run")
    (folder / "policies").mkdir()
    policies = PolicyStore(folder / "policies")
    async with (
        UnconfinedLauncher(places) as launcher,
        TensorStore(places) as store,
        SandboxManager(
            launcher=launcher, policies=policies, extensions=OnePack(), store=store, places=places
        ) as manager,
    ):
        session = await manager.acquire(TENANT, ExtensionName("counts"))

        async def work() -> None:
            for number in range(times):
                call = NodeCall(
                    prompt_id="counts",
                    node_id="1",
                    class_type="BenchNothing",
                    inputs={"value": (Value(number),)},
                    instance="1",
                )
                await session.execute(call, lambda _: None)

        await work()
        return await counted(work) / times


async def _chain(length: int, *, is_told: bool = False) -> float:
    step = FakeNode("Step", lambda value: (value + 1,), {"value": ["INT", {}]}, outputs=("INT",))
    end = FakeNode("End", lambda value: (), {"value": ["INT", {}]}, outputs=(), output_node=True)
    engine = FakeSessions(step, end).engine()
    seeds = iter((1, 2))
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(engine)
        if is_told:
            await _listen(engine, stack)

        async def work() -> None:
            prompt = {"0": {"class_type": "Step", "inputs": {"value": next(seeds)}}}
            for number in range(1, length - 1):
                prompt[str(number)] = {"class_type": "Step", "inputs": {"value": [str(number - 1), 0]}}
            prompt["end"] = {"class_type": "End", "inputs": {"value": [str(length - 2), 0]}}
            submitted = await engine.submit(TENANT, PromptRequest(prompt=prompt, client_id="counts"))
            entry = await until_ended(engine, TENANT, submitted.prompt_id)
            assert entry["status"]["status_str"] == "success"

        await work()  # what is done once for each process or class is not asked about
        return await counted(work) / length


async def _listen(engine: Engine, stack: AsyncExitStack) -> None:
    """A client, from the engine's events to the frames that its connection is handed."""
    scope = {"type": "websocket", "extensions": {AT_ONCE: len}}  # takes them all
    connection = Connection(WebSocket(scope, _nothing, _nothing), TENANT, "counts")
    connections = Connections(1)
    connections.add(connection)
    events = await stack.enter_async_context(engine.subscribe(TENANT))
    tasks = await stack.enter_async_context(anyio.create_task_group())
    tasks.start_soon(Teller(connection, connections, events).tell, tasks.cancel_scope)
    stack.callback(tasks.cancel_scope.cancel)


async def _nothing(*_: object) -> Any:
    raise AssertionError("all is taken at once")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.counts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--results", type=Path, default=ROOT / "build/benchmarks")
    options = parser.parse_args()
    counts = measure()
    steep = steepness(counts)
    options.results.mkdir(parents=True, exist_ok=True)
    body = {
        "python": sys.version,
        "counts": [asdict(count) for count in counts],
        "steepness": round(steep, 3),
    }
    (options.results / "counts.json").write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    print("| what | calls of functions | at most |\n| --- | --- | --- |")
    for count in counts:
        print(f"| {count.what} | {count.calls:.0f} | {count.at_most:.0f} |")
    print(f"dearest node of a long chain over the cheapest: {steep:.2f} (at most {FLAT})")
    sys.exit(1 if steep > FLAT or any(count.is_too_much for count in counts) else 0)


if __name__ == "__main__":
    main()

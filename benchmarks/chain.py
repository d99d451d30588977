"""What does a trivial node cost in a long prompt, with a client listening, and does the cost stay flat?

A whole server with one tenant: chains in one sandbox, chains that alternate between two, 50,000 nodes, and 8 nodes that
block at the same time; the same of ComfyUI, where a checkout is given; and, as the floor, of a server that does no more
than it must (``bare_server.py``). Wall time is from sending the prompt to hearing that it succeeded; host CPU is the
server process's own over the same span (user and system), which a loaded machine does not change much (ComfyUI runs its
nodes in that process, ours does not).

    python -m benchmarks.chain [--quick] [--isolation gvisor] [--lengths 10 100 ...] [--repeat N]
                               [--comfyui DIR --comfyui-python FILE]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from benchmarks.peers import bare
from benchmarks.peers.servers import ComfyUI
from benchmarks.policy_files import changed, isolated_by
from benchmarks.report import Report
from benchmarks.served import ROOT, Served, server
from benchmarks.talking import Client, Prompt, RefusedError, add_packs

LENGTHS = (10, 100, 1_000, 10_000)
COMFYUI_LENGTHS = (10, 100, 1_000)
MOST = 50_000
BLOCKERS = 8
PACK = """
import time


class BenchStep{number}:
    RETURN_TYPES = ("INT",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls):
        return {{"required": {{"value": ("INT", {{"default": 0}})}}}}

    def run(self, value):
        return (value + 1,)


class BenchEnd{number}:
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {{"required": {{"value": ("INT", {{"default": 0}})}}}}

    def run(self, value):
        return {{"ui": {{"value": [value]}}}}


class BenchBlock{number}:
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {{"required": {{"seed": ("INT", {{"default": 0}})}}}}

    def run(self, seed):
        time.sleep(0.5)
        return ()


NODE_CLASS_MAPPINGS = {{kind.__name__: kind for kind in (BenchStep{number}, BenchEnd{number}, BenchBlock{number})}}
"""


def chain(length: int, seed: int, packs: int = 1) -> Prompt:
    """``length`` nodes, each fed by the one before, the last an output; taken in turn from ``packs`` packs."""
    prompt: Prompt = {"1": {"class_type": "BenchStep0", "inputs": {"value": seed}}}
    for position in range(2, length):
        prompt[str(position)] = {
            "class_type": f"BenchStep{(position - 1) % packs}",
            "inputs": {"value": [str(position - 1), 0]},
        }
    prompt[str(length)] = {"class_type": "BenchEnd0", "inputs": {"value": [str(length - 1), 0]}}
    return prompt


def blockers(seed: int) -> Prompt:
    """Nodes that know nothing of each other, each in a sandbox of its own."""
    return {
        str(number): {"class_type": f"BenchBlock{number}", "inputs": {"seed": seed}}
        for number in range(BLOCKERS)
    }


def packs(count: int) -> dict[str, str]:
    """Packs by name: code."""
    return {f"bench-step-{number}": PACK.format(number=number) for number in range(count)}


def measure(
    folder: Path,
    *,
    quick: bool,
    isolation: str = "runc",
    comfyui: ComfyUI | None = None,
    lengths: Sequence[int] | None = None,
    repeat: int | None = None,
    most: int | None = None,
) -> Report:
    """Everything; what is not said is as many as are worth it."""
    lengths = lengths or ((10, 100, 1_000) if quick else LENGTHS)
    repeat = repeat or (3 if quick else 7)
    most = (0 if quick else MOST) if most is None else most
    report = Report(f"A chain of trivial nodes through a whole server, a client listening, {isolation}")
    with (
        _clients(folder, isolation, comfyui) as (ours, process, theirs),
        bare.server(folder / "bare") as least,
    ):
        floor = Floor(least, Client(least))
        for client in (ours, theirs, floor.client):
            if client is not None:
                client.runs(partial(chain, 20), 3)
        for sandboxes in (1, 2):
            for length in lengths:
                times = repeat if length <= 1_000 else min(repeat, 3)
                _measure_chain(report, ours, theirs, floor, sandboxes, length, times)
        for length in sorted({most // 2, most} - set(lengths)) if most > 1 else ():
            before = process.memory_info().rss
            _measure_chain(report, ours, None, None, 1, length, 1)
            grown = (process.memory_info().rss - before) / 2**20
            report.notes.append(f"the host grew by {grown:.0f} MiB over the {length:,} nodes of one prompt")
        ours.run(blockers)  # starts the sandboxes
        report.add(blocking("ours"), ours.runs(blockers, repeat)[0])
        if theirs is not None:
            report.add(blocking("ComfyUI"), theirs.runs(blockers, min(repeat, 2))[0])
    flat = [name(1, length) for length in lengths]
    for what in flat:
        report.aim(what, None, 0.3)
    report.aim(flat[0], flat[-1], 1.3)
    report.aim(flat[-1], flat[0], 1.3)
    for length in lengths:
        report.aim(name(2, length), name(1, length), 2.0)
        report.aim(name(1, length), comfyui_name(length), 1.0)
    if most:
        report.aim(name(1, most), name(1, most // 2), 1.3)
    report.aim(blocking("ours"), None, 600)
    return report


def name(sandboxes: int, length: int) -> str:
    """What the row of a chain is called."""
    where = "one sandbox" if sandboxes == 1 else "two sandboxes in turn"
    return f"{where}, {length:,} nodes: a node"


def comfyui_name(length: int) -> str:
    """What the row of ComfyUI's is called."""
    return f"ComfyUI, {length:,} nodes: a node"


def floor_name(length: int) -> str:
    """What the row of the bare server is called."""
    return f"floor, {length:,} nodes: a node"


def blocking(who: str) -> str:
    """What the row of the blocking nodes is called."""
    return f"{who}: {BLOCKERS} independent nodes that block 0.5 s each"


@dataclass(frozen=True, slots=True)
class Floor:
    """The bare server and who sends it prompts."""

    served: Served
    client: Client

    def like(self, ours: Client, length: int, make: Callable[[int], Prompt]) -> tuple[float, float]:
        """A prompt of which the client hears as much as of ours, which just ran."""
        bare.plan(self.served, {length: (ours.frames, ours.frame_bytes)})
        return self.client.run(make)


@contextmanager
def _clients(
    folder: Path, isolation: str, comfyui: ComfyUI | None
) -> Iterator[tuple[Client, psutil.Process, Client | None]]:
    """Ours with its process, and ComfyUI's: both servers run, and turns are taken, so that what else the machine does
    falls on both."""
    with ExitStack() as stack:
        theirs = None
        if comfyui is not None:
            (folder / "comfyui").mkdir()
            theirs = Client(stack.enter_context(comfyui.server(folder / "comfyui", packs(BLOCKERS))))
        (folder / "data").mkdir()
        policies = changed(folder / "policies", isolated_by(isolation))
        served = stack.enter_context(server(folder / "data", {"RINGFENCE_POLICIES_DIR": str(policies)}))
        add_packs(served.url, folder / "packs", packs(BLOCKERS))
        yield Client(served), psutil.Process(served.pid), theirs


def _measure_chain(
    report: Report,
    ours: Client,
    theirs: Client | None,
    floor: Floor | None,
    sandboxes: int,
    length: int,
    times: int,
) -> None:
    peer = theirs if sandboxes == 1 and length in COMFYUI_LENGTHS else None
    floor = floor if sandboxes == 1 else None
    make, what, least = partial(chain, length, packs=sandboxes), name(sandboxes, length), floor_name(length)
    taken: dict[str, list[float]] = {}

    def add(row: str, cpu_row: str, pair: tuple[float, float]) -> None:
        for key, value in zip((row, cpu_row), pair, strict=True):
            taken.setdefault(key, []).append(value / length)

    for _ in range(times):
        if peer is not None:
            theirs_row = comfyui_name(length)
            try:
                add(theirs_row, f"{theirs_row}, its CPU", peer.run(make))
            except RefusedError as error:
                report.notes.append(f"ComfyUI, {length:,} nodes: {error}")
                peer = None
        found = ours.run(make)
        if floor is not None:
            add(least, f"{least}, its CPU", floor.like(ours, length, make))
        add(what, f"{what}, host CPU", found)
    for row, samples in taken.items():
        known = {known.what for known in report.rows}
        report.add(row, samples, floor=least if row == what and least in known else None)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chain", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short chains, few runs")
    parser.add_argument("--isolation", choices=["runc", "gvisor"], default="runc")
    parser.add_argument("--lengths", type=int, nargs="+")
    parser.add_argument("--repeat", type=int)
    parser.add_argument("--most", type=int, help="nodes of the largest prompt; 0: none")
    parser.add_argument("--comfyui", type=Path)
    parser.add_argument("--comfyui-python", type=Path)
    parser.add_argument("--results", type=Path, default=ROOT / "build/benchmarks")
    options = parser.parse_args()
    peer = ComfyUI(options.comfyui, options.comfyui_python) if options.comfyui else None
    with tempfile.TemporaryDirectory(prefix="ringfence-bench-") as folder:
        report = measure(
            Path(folder),
            quick=options.quick,
            isolation=options.isolation,
            comfyui=peer,
            lengths=options.lengths,
            repeat=options.repeat,
            most=options.most,
        )
    report.save(options.results, f"chain-{options.isolation}")
    print(report.table())


if __name__ == "__main__":
    main()

"""What does a trivial node cost in a long prompt, with a client listening, and does the cost stay flat?

A whole server with one tenant: chains in one sandbox, chains that alternate between two, 50,000 nodes, and 8 nodes that
block at the same time. Wall time is from sending the prompt to hearing that it succeeded; host CPU is the server
process's own over the same span (user and system), which a loaded machine does not change much.

    python -m benchmarks.chain [--quick] [--lengths 10 100 ...] [--repeat N] [--write-json DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import psutil
from websockets.sync.client import ClientConnection, connect

from benchmarks.flood import OPERATOR, ROOT, SERVE, server
from benchmarks.report import machine

LENGTHS = (10, 100, 1_000, 10_000)
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


@dataclass(frozen=True, slots=True)
class Figure:
    """One prompt, sent several times; each figure is the median. ``frames``: what the client was sent."""

    what: str
    nodes: int
    wall_ms: float
    host_cpu_ms: float
    frames: int
    frame_bytes: int

    @property
    def per_node(self) -> str:
        return f"{self.wall_ms / self.nodes:.3f}"

    @property
    def cpu_per_node(self) -> str:
        return f"{self.host_cpu_ms / self.nodes:.3f}"


class Client:
    """Sends prompts and listens."""

    def __init__(self, url: str, process: psutil.Process) -> None:
        self._headers = {"Authorization": f"Bearer {OPERATOR}"}
        self._http = httpx2.Client(base_url=url, headers=self._headers, timeout=600)
        self._url = url
        self._process = process
        self._seed = time.time_ns() % 2**31

    def run(self, prompt: dict[str, Any]) -> tuple[float, float, int, int]:
        """Wall and host CPU in ms, and how many frames of how many bytes came meanwhile."""
        client = uuid.uuid4().hex
        address = f"{self._url.replace('http', 'ws')}/ws?clientId={client}"
        with connect(address, additional_headers=self._headers, max_size=None) as events:
            body = json.dumps({"prompt": prompt, "client_id": client}).encode()
            cpu, began = self._cpu_s(), time.perf_counter()
            answer = self._http.post("/prompt", content=body, headers={"Content-Type": "application/json"})
            if answer.status_code != 200:
                raise RuntimeError(f"the prompt was refused: {answer.text:.500}")
            frames, size = _until_success(events, answer.json()["prompt_id"])
            return (
                (time.perf_counter() - began) * 1000,
                (self._cpu_s() - cpu) * 1000,
                frames,
                size,
            )

    def figure(self, what: str, make: Any, nodes: int, repeat: int) -> Figure:
        runs = []
        for _ in range(repeat):
            self._seed += 1
            runs.append(self.run(make(self._seed)))
        wall, cpu, frames, size = (statistics.median(column) for column in zip(*runs, strict=True))
        return Figure(what, nodes, wall, cpu, int(frames), int(size))

    def _cpu_s(self) -> float:
        # The kernel's clock of another process's CPU time, as clock_getcpuclockid(3) names it: exact to the nanosecond.
        return time.clock_gettime((~self._process.pid << 3) | 2)


def _until_success(events: ClientConnection, prompt_id: str) -> tuple[int, int]:
    frames = size = 0
    while True:
        frame = events.recv(timeout=600)
        frames, size = frames + 1, size + len(frame)
        # Nearly all frames are of no interest, and reading them would be the client's time, not the host's.
        if not isinstance(frame, str) or not frame.startswith('{"type":"execution_'):
            continue
        event = json.loads(frame)
        if event["type"] in ("execution_error", "execution_interrupted"):
            raise RuntimeError(event)
        if event["type"] == "execution_success" and event["data"]["prompt_id"] == prompt_id:
            return frames, size


def chain(length: int, seed: int, packs: int = 1) -> dict[str, Any]:
    """``length`` nodes, each fed by the one before, the last an output; taken in turn from ``packs`` packs."""
    prompt: dict[str, Any] = {"1": {"class_type": "BenchStep0", "inputs": {"value": seed}}}
    for position in range(2, length):
        prompt[str(position)] = {
            "class_type": f"BenchStep{(position - 1) % packs}",
            "inputs": {"value": [str(position - 1), 0]},
        }
    prompt[str(length)] = {"class_type": "BenchEnd0", "inputs": {"value": [str(length - 1), 0]}}
    return prompt


def blockers(seed: int) -> dict[str, Any]:
    """Nodes that know nothing of each other, each in a sandbox of its own."""
    return {
        str(number): {"class_type": f"BenchBlock{number}", "inputs": {"seed": seed}}
        for number in range(BLOCKERS)
    }


def measure(lengths: tuple[int, ...], repeat: int, *, most: int, only_chain: bool) -> list[Figure]:
    figures = []
    with tempfile.TemporaryDirectory(prefix="ringfence-bench-") as folder:
        data = Path(folder) / "data"
        data.mkdir()
        with server(data) as served:
            url = served.url
            for number in range(2 if only_chain else BLOCKERS):
                add_pack(url, Path(folder), f"bench-step-{number}", PACK.format(number=number))
            host = psutil.Process(served.pid)
            client = Client(url, host)
            client.figure("warm", lambda seed: chain(20, seed, packs=2), 20, 3)
            for packs, length in ((packs, length) for packs in (1, 2) for length in lengths):
                what = "one sandbox" if packs == 1 else "two sandboxes in turn"
                times = max(repeat if length <= 1_000 else min(repeat, 3), 1)
                figures.append(client.figure(what, partial(chain, length, packs=packs), length, times))
                print(_line(figures[-1]), flush=True)
            if most:
                before = host.memory_info().rss
                figures.append(client.figure("one sandbox", lambda seed: chain(most, seed), most, 1))
                grown = (host.memory_info().rss - before) / 2**20
                print(_line(figures[-1]), f" host grew by {grown:.0f} MiB", flush=True)
            if not only_chain:
                client.figure("warm", blockers, BLOCKERS, 1)
                figures.append(client.figure("blocking 0.5 s, independent", blockers, BLOCKERS, repeat))
                print(_line(figures[-1]), flush=True)
    return figures


def add_pack(url: str, folder: Path, name: str, code: str) -> None:
    """Write a pack and add it to the server."""
    pack = folder / name
    pack.mkdir()
    (pack / "__init__.py").write_text(code, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RINGFENCE_URL": url, "RINGFENCE_TOKEN": OPERATOR}
    command = [sys.executable, "-c", SERVE, "extension", "add", str(pack)]
    done = subprocess.run(
        command, env=environment, check=False, capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    if done.returncode:
        raise RuntimeError(done.stderr)


def _line(figure: Figure) -> str:
    return (
        f"| {figure.what} | {figure.nodes} | {figure.wall_ms:.1f} | {figure.per_node} | {figure.cpu_per_node} "
        f"| {figure.frames} | {figure.frame_bytes / 1024:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chain", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short chains, few runs")
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS))
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--most", type=int, default=MOST, help="nodes of the largest prompt; 0: none")
    parser.add_argument("--only-chain", action="store_true", help="leave out the blocking nodes")
    parser.add_argument("--write-json", type=Path)
    options = parser.parse_args()
    if options.quick:
        options.lengths, options.repeat, options.most = [10, 100, 1_000], 3, 0
    print("| what | nodes | wall ms | ms a node | host CPU ms a node | frames | KiB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    figures = measure(
        tuple(options.lengths), options.repeat, most=options.most, only_chain=options.only_chain
    )
    if options.write_json:
        options.write_json.mkdir(parents=True, exist_ok=True)
        body = {"machine": machine(), "figures": [asdict(figure) for figure in figures]}
        (options.write_json / f"chain-{os.getpid()}.json").write_text(json.dumps(body, indent=1) + "\n")


if __name__ == "__main__":
    main()

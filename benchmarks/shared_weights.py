"""What do several sandboxes weigh that hold the same file of weights, beside as many plain processes that load it?

A node takes the file by ``TorchDictFolderFilename`` and reads every number of it. What the weights weigh is what all
sandboxes together weigh (PSS) more than they did with torch loaded and no weights. The plain processes load the file in
two ways: into memory of their own, and mapped, as safetensors does it where all of them see one file. A copy in the
object store is one more than a mapped file takes, whose pages are the kernel's to drop and read again.
"""

from __future__ import annotations

import json
import math
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import anyio.to_thread
import docker

from benchmarks import memory
from benchmarks.house import ROOT, TENANT, House, house
from benchmarks.report import Report
from sandbox import NodeCall, Session, Value

PACK = ROOT / "benchmarks" / "weights_pack"
FILE = "shared.safetensors"
TENSORS = 8
_PLAIN = """
import sys, time
import torch, safetensors.torch
def read(path):
    with open(path, "rb") as file:
        return safetensors.torch.load(file.read())
load = {"loaded": read, "mapped": safetensors.torch.load_file}[sys.argv[2]]
print(float(torch.ones(1)), flush=True)
for line in sys.stdin:
    begin = time.perf_counter()
    held = load(sys.argv[1])
    took = time.perf_counter() - begin
    total = sum(float(tensor.sum()) for tensor in held.values())
    print(took * 1000, flush=True)
"""
FLOOR = "the file"
TIMES = {"loaded": "a plain process reads it", "mapped": "a plain process maps it"}
FIRST, NEXT = "the first sandbox gets it", "each further sandbox gets it"


async def measure(folder: Path, *, quick: bool, isolation: str = "runc") -> Report:
    mib, counts = (64, (1, 2)) if quick else (256, (1, 2, 4, 8))
    report = Report(f"The same {mib} MiB of weights in several sandboxes, {isolation}")
    weights = write(folder / "tenants" / TENANT / "models" / "loras" / FILE, mib)
    report.add(FLOOR, [weights.stat().st_size / 2**20], unit="MiB")
    times: dict[str, list[float]] = {}
    for count in counts:
        for way in ("loaded", "mapped"):
            with Plain(weights, way, count) as plain:
                more, took = await anyio.to_thread.run_sync(plain.load)
            report.add(plain_name(count, way), [more], floor=FLOOR, unit="MiB")
            times.setdefault(TIMES[way], []).extend(took)
        more, took = await _in_sandboxes(folder, isolation, count)
        report.add(name(count), [more], floor=FLOOR, unit="MiB")
        times.setdefault(FIRST, []).append(took[0])
        times.setdefault(NEXT, []).extend(took[1:])
    for what, samples in times.items():
        report.add(what, samples)
    report.aim(name(counts[-1]), name(counts[0]), 1.1)
    report.aim(name(counts[-1]), plain_name(counts[-1], "loaded"), 1.3 / counts[-1])
    return report


def name(count: int) -> str:
    """What a row is called."""
    return f"{count} sandbox{'es' if count > 1 else ''}: the weights in all"


def plain_name(count: int, way: str) -> str:
    """What a row is called."""
    process = "1 plain process that" if count == 1 else f"{count} plain processes that"
    verb = {"loaded": "read", "mapped": "map"}[way]
    return f"{process} {verb}{'s' if count == 1 else ''} it: the weights in all"


def write(path: Path, mib: int) -> Path:
    """A safetensors file of that many MiB of float32."""
    count = mib * 2**20 // 4 // TENSORS
    header: dict[str, Any] = {
        f"w{number}": {
            "dtype": "F32",
            "shape": [count],
            "data_offsets": [number * count * 4, (number + 1) * count * 4],
        }
        for number in range(TENSORS)
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _ in range(mib):
            file.write(struct.pack("<f", math.pi) * (2**20 // 4))
    return path


class Plain:
    """Processes of this machine that hold the weights, without walls."""

    def __init__(self, weights: Path, way: str, count: int) -> None:
        command = [sys.executable, "-c", _PLAIN, str(weights), way]
        self._processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(count)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.communicate(timeout=60)  # the end of what it reads is its end

    def load(self) -> tuple[float, list[float]]:
        """MiB that all of them weigh more when each holds the weights; and the ms that each took to have them."""
        for process in self._processes:
            _said(process)
        before = self._weight()
        took = []
        for process in self._processes:
            assert process.stdin is not None
            print(file=process.stdin, flush=True)
            took.append(float(_said(process)))
        return self._weight() - before, took

    def _weight(self) -> float:
        return memory.of_processes(process.pid for process in self._processes)


def _said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"a plain process ended with status {process.wait()}")
    return line


async def _in_sandboxes(folder: Path, isolation: str, count: int) -> tuple[float, list[float]]:
    async with house(folder, isolation=isolation, pack=PACK, models=True) as built:
        sessions = [await built.session(f"weights-{number}") for number in range(count)]
        for session in sessions:
            await _call(session, "BenchTorch")
        before = await anyio.to_thread.run_sync(_weight, built)
        took = []
        for session in sessions:
            begin = time.perf_counter()
            await _call(session, "BenchHold")
            took.append((time.perf_counter() - begin) * 1000)
            await _call(session, "BenchRead")
        return await anyio.to_thread.run_sync(_weight, built) - before, took


async def _call(session: Session, class_type: str) -> None:
    call = NodeCall(
        prompt_id="bench", node_id="1", class_type=class_type, inputs={"file": (Value(FILE),)}, instance="1"
    )
    await session.execute(call, lambda progress: None)


def _weight(built: House) -> float:
    containers: Sequence[str] = [str(info.container) for info in built.manager.list()]
    client = docker.from_env()
    try:
        return sum(memory.of_container(client, container) for container in containers)
    finally:
        client.close()

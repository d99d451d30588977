"""What does ``image * value`` on a picture of 1024x1024 cost per node, here and in ComfyUI's own process?

The cost of a node is what a long chain takes beyond a short one, by the nodes it has more: what a prompt costs before
and after its nodes is not in it. The floor is what a node in a process of its own cannot leave out: the multiplication
(with as many threads as the policy gives a sandbox processors), and one copy of its result into a file in memory that
the next node reads; nobody is told of it, and the file has its pages already. It has the settings of a sandbox's
environment for memory and copies. ComfyUI copies nothing and takes as many threads as there are processors: the rows of
CPU say what of the difference is work. Ours is the host's alone, without the sandbox's.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from benchmarks.peers.servers import ComfyUI
from benchmarks.policy_files import changed, isolated_by
from benchmarks.report import Report
from benchmarks.served import server
from benchmarks.talking import Client, Prompt, add_packs
from sandbox.launcher.spec import MEMORY

SHORT, LONG = 4, 34
PACK = """
class BenchCanvas:
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"seed": ("INT", {"default": 0})}}

    def run(self, seed):
        import torch

        return (torch.full((1, 1024, 1024, 3), 0.5),)


class BenchTimes:
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",), "value": ("FLOAT", {"default": 1.0})}}

    def run(self, image, value):
        return (image * value,)


class BenchLook:
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",)}}

    def run(self, image):
        return {"ui": {"value": [float(image[0, 0, 0, 0])]}}


NODE_CLASS_MAPPINGS = {kind.__name__: kind for kind in (BenchCanvas, BenchTimes, BenchLook)}
"""
FLOOR = "floor: multiplied and copied once, a node"
_FLOOR = """
import ctypes, mmap, sys, tempfile, time
import torch
torch.set_num_threads(1)
count = 1024 * 1024 * 3
files = []
for _ in range(2):
    file = tempfile.TemporaryFile(dir="/dev/shm")
    file.truncate(count * 4)
    files.append(torch.frombuffer(mmap.mmap(file.fileno(), count * 4), dtype=torch.float32).fill_(0.5))
for line in sys.stdin:
    nodes = int(line)
    begin = time.perf_counter()
    for number in range(nodes):
        made = files[number % 2] * 1.0001
        ctypes.memmove(files[(number + 1) % 2].data_ptr(), made.data_ptr(), count * 4)
        del made
    print((time.perf_counter() - begin) * 1000 / nodes, flush=True)
"""
OURS, THEIRS = "ours: image * value, a node", "ComfyUI in process: image * value, a node"


def measure(folder: Path, *, quick: bool, isolation: str = "runc", comfyui: ComfyUI | None = None) -> Report:
    servers, runs = (1, 5) if quick else (5, 9)
    report = Report(f"A picture of 1024x1024x3 through a chain of nodes that multiply it, {isolation}")
    samples: defaultdict[str, list[float]] = defaultdict(list)
    used: defaultdict[str, list[float]] = defaultdict(list)
    # Two sandboxes of one tree differ by up to a seventh for as long as they live.
    for number in range(servers):
        with _clients(folder / str(number), isolation, comfyui) as clients, _floor() as least:
            for client in clients.values():
                for length in (SHORT, LONG, LONG):
                    client.run(partial(pictures, length))
            for _ in range(runs):  # by turns, so that what else the machine does falls on all
                samples[FLOOR].append(least())
                for who, client in clients.items():
                    took, cpu = per_node(client)
                    samples[who].append(took)
                    used[who].append(cpu)
    for who, found in samples.items():
        report.add(who, found, floor=None if who == FLOOR else FLOOR)
        if who in used:
            report.add(f"{who}, {'host' if who == OURS else 'its'} CPU", used[who])
    report.aim(OURS, THEIRS, 1.1)
    report.notes.append(f"servers of each, one after the other: {servers}, each with {runs} runs")
    return report


@contextmanager
def _clients(folder: Path, isolation: str, comfyui: ComfyUI | None) -> Iterator[dict[str, Client]]:
    """Servers that have the nodes, and a client of each."""
    folder.mkdir()
    packs = {"bench-image": PACK}
    clients: dict[str, Client] = {}
    with ExitStack() as stack:
        if comfyui is not None:
            (folder / "comfyui").mkdir()
            clients[THEIRS] = Client(stack.enter_context(comfyui.server(folder / "comfyui", packs)))
        (folder / "data").mkdir()
        policies = changed(folder / "policies", isolated_by(isolation))
        served = stack.enter_context(server(folder / "data", {"RINGFENCE_POLICIES_DIR": str(policies)}))
        add_packs(served.url, folder / "packs", packs)
        clients[OURS] = Client(served)
        yield clients


@contextmanager
def _floor() -> Iterator[Callable[[], float]]:
    """A function that has as many nodes run as the chain has, and tells the ms of each."""
    process = subprocess.Popen(
        [sys.executable, "-c", _FLOOR],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **MEMORY},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    asked, answers = process.stdin, process.stdout

    def run() -> float:
        print(LONG - SHORT, file=asked, flush=True)
        return float(answers.readline())

    run()
    try:
        yield run
    finally:
        process.communicate(timeout=60)


def per_node(client: Client) -> tuple[float, float]:
    """ms of one node, and the server process's own CPU ms."""
    short, least = client.run(partial(pictures, SHORT))
    long, most = client.run(partial(pictures, LONG))
    return (long - short) / (LONG - SHORT), (most - least) / (LONG - SHORT)


def pictures(length: int, seed: int) -> Prompt:
    """A canvas, ``length`` multiplications, and a look at one number."""
    prompt: Prompt = {"0": {"class_type": "BenchCanvas", "inputs": {"seed": seed}}}
    for position in range(1, length + 1):
        prompt[str(position)] = {
            "class_type": "BenchTimes",
            "inputs": {"image": [str(position - 1), 0], "value": 1.0 + seed % 1000 / 1e6},
        }
    prompt["end"] = {"class_type": "BenchLook", "inputs": {"image": [str(length), 0]}}
    return prompt

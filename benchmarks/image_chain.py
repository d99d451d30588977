"""What does ``image * value`` on a picture of 1024x1024 cost per node, here and in ComfyUI's own process?

The cost of a node is what a long chain takes beyond a short one, by the nodes it has more: what a prompt costs before
and after its nodes is not in it.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks.flood import server
from benchmarks.peers.servers import ComfyUI
from benchmarks.report import Report
from benchmarks.talking import Client, Prompt, add_packs

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
OURS, THEIRS = "ours: image * value, a node", "ComfyUI in process: image * value, a node"


def measure(folder: Path, *, quick: bool, comfyui: ComfyUI | None = None) -> Report:
    runs = 5 if quick else 25
    report = Report("A picture of 1024x1024x3 through a chain of nodes that multiply it")
    with ExitStack() as stack:
        clients: dict[str, Client] = {}
        if comfyui is not None:
            (folder / "comfyui").mkdir()
            peer = stack.enter_context(comfyui.server(folder / "comfyui", {"bench-image": PACK}))
            clients[THEIRS] = Client(peer)
        (folder / "data").mkdir()
        served = stack.enter_context(server(folder / "data"))
        add_packs(served.url, folder / "packs", {"bench-image": PACK})
        clients[OURS] = Client(served)
        for client in clients.values():
            for length in (SHORT, LONG, LONG):
                client.run(partial(pictures, length))
        samples: dict[str, list[float]] = {who: [] for who in clients}
        for _ in range(runs):  # by turns, so that what else the machine does falls on both
            for who, client in clients.items():
                samples[who].append(per_node(client))
    for who, found in samples.items():
        report.add(who, found, floor=THEIRS if who == OURS and comfyui else None)
    report.aim(OURS, THEIRS, 1.1)
    return report


def per_node(client: Client) -> float:
    """ms of one node."""
    short, _ = client.run(partial(pictures, SHORT))
    long, _ = client.run(partial(pictures, LONG))
    return (long - short) / (LONG - SHORT)


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

"""What does `image * value` on 1024x1024x3 cost per node of a chain, through a whole server and within ComfyUI?

ComfyUI runs from a checkout of yours, in a process of its own, driven through its executor with no server around it;
here a client sends prompts to a server and listens. Both run the same three classes, and take turns. A node's figure is
the time of a long chain less that of a short one, over the nodes between.

    python -m benchmarks.image_chain --comfyui CHECKOUT [--comfyui-python PYTHON] [--nodes 20] [--repeat 7]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.chain import Client, add_pack
from benchmarks.flood import server
from benchmarks.report import machine

SHORT = 2
PACK = """
import torch


class BenchImage:
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"
    CATEGORY = "bench"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"seed": ("INT", {"default": 0, "max": 2**40})}}

    def run(self, seed):
        return (torch.full((1, 1024, 1024, 3), 0.5 + seed % 7 / 100),)


class BenchScale:
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"
    CATEGORY = "bench"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",), "value": ("FLOAT", {"default": 1.0})}}

    def run(self, image, value):
        return (image * value,)


class BenchLook:
    RETURN_TYPES = ()
    FUNCTION = "run"
    CATEGORY = "bench"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",)}}

    def run(self, image):
        return {"ui": {"value": [float(image[0, 0, 0, 0])]}}


NODE_CLASS_MAPPINGS = {"BenchImage": BenchImage, "BenchScale": BenchScale, "BenchLook": BenchLook}
"""
#: Reads prompts, one a line, and answers with the ms that each took.
IN_PROCESS = """
import json, sys, time
checkout, pack = sys.argv[1:3]
sys.argv = ["main.py", "--cpu"]
sys.path.insert(0, checkout)
answers, sys.stdout = sys.stdout, sys.stderr
import comfy.options
comfy.options.enable_args_parsing()
import execution, nodes
scope = {}
exec(pack, scope)
nodes.NODE_CLASS_MAPPINGS.update(scope["NODE_CLASS_MAPPINGS"])

class Nobody:
    client_id = last_node_id = last_prompt_id = None
    sockets_metadata = {}

    def send_sync(self, *_, **__):
        pass

executor = execution.PromptExecutor(Nobody())
for number, line in enumerate(sys.stdin):
    prompt = json.loads(line)
    begin = time.perf_counter()
    executor.execute(prompt, str(number), {}, ["look"])
    took = (time.perf_counter() - begin) * 1000
    if not executor.success:
        raise SystemExit("the prompt failed")
    print(took, file=answers, flush=True)
"""


def chain(length: int, seed: int) -> dict[str, Any]:
    """An image, ``length`` multiplications one after the other, and a look at what came out."""
    prompt: dict[str, Any] = {"0": {"class_type": "BenchImage", "inputs": {"seed": seed}}}
    for position in range(1, length + 1):
        inputs = {"image": [str(position - 1), 0], "value": 0.999}
        prompt[str(position)] = {"class_type": "BenchScale", "inputs": inputs}
    prompt["look"] = {"class_type": "BenchLook", "inputs": {"image": [str(length), 0]}}
    return prompt


@contextmanager
def comfyui(checkout: Path, python: str) -> Iterator[Callable[[dict[str, Any]], float]]:
    """Runs a prompt in ComfyUI; ms."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [python, "-c", IN_PROCESS, str(checkout), PACK],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, cwd=checkout,
            env={**os.environ, "PYTHONPATH": ""},
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def run(prompt: dict[str, Any]) -> float:
            stdin.write(json.dumps(prompt) + "\n")
            stdin.flush()
            answer = stdout.readline()
            if not answer:
                log.seek(0)
                raise RuntimeError(log.read().decode(errors="replace")[-2000:])
            return float(answer)

        try:
            yield run
        finally:
            stdin.close()
            process.wait(60)
            stdout.close()


def measure(checkout: Path | None, python: str, nodes: int, repeat: int) -> dict[str, float]:
    """ms a node, by who ran it."""
    with tempfile.TemporaryDirectory(prefix="ringfence-bench-") as folder:
        data = Path(folder) / "data"
        data.mkdir()
        with server(data) as served:
            add_pack(served.url, Path(folder), "bench-image", PACK)
            client = Client(served.url, psutil.Process(served.pid))
            runners: dict[str, Callable[[dict[str, Any]], float]] = {
                "Ringfence": lambda prompt: client.run(prompt)[0]
            }
            if checkout is None:
                return _taken(runners, nodes, repeat)
            with comfyui(checkout, python) as run:
                return _taken({"ComfyUI in process": run, **runners}, nodes, repeat)


def _taken(
    runners: dict[str, Callable[[dict[str, Any]], float]], nodes: int, repeat: int
) -> dict[str, float]:
    samples: dict[tuple[str, int], list[float]] = {}
    for turn in range(repeat + 2):
        for length in (SHORT, nodes):
            for who, run in runners.items():
                took = run(chain(length, turn))
                if turn >= 2:  # the first ones start sandboxes and fill caches
                    samples.setdefault((who, length), []).append(took)
    middle = {key: statistics.median(values) for key, values in samples.items()}
    return {who: (middle[who, nodes] - middle[who, SHORT]) / (nodes - SHORT) for who in runners}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.image_chain", description=__doc__)
    parser.add_argument("--comfyui", type=Path, help="a checkout of ComfyUI; without one it is left out")
    parser.add_argument(
        "--comfyui-python", default=sys.executable, help="a Python that has what ComfyUI needs"
    )
    parser.add_argument("--nodes", type=int, default=20)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--write-json", type=Path)
    options = parser.parse_args()
    if options.nodes <= SHORT:
        parser.error(f"--nodes: more than {SHORT}, please")
    checkout = options.comfyui.resolve() if options.comfyui else None
    figures = measure(checkout, options.comfyui_python, options.nodes, options.repeat)
    floor = figures.get("ComfyUI in process")
    print("| `image * value`, 1024x1024x3 | ms a node | against |", "| --- | --- | --- |", sep="\n")
    for who, took in figures.items():
        against = f"{took / floor:.2f} x ComfyUI in process" if floor and who == "Ringfence" else ""
        print(f"| {who} | {took:.3f} | {against} |")
    if options.write_json:
        options.write_json.mkdir(parents=True, exist_ok=True)
        body = {"machine": machine(), "ms_a_node": figures}
        (options.write_json / "image_chain.json").write_text(json.dumps(body, indent=1) + "\n")


if __name__ == "__main__":
    main()

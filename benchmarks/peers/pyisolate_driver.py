"""Runs in pyisolate's own environment: calls of a trivial method, and tensors there and back; prints JSON.

python pyisolate_driver.py FOLDER CALLS TENSOR_RUNS MIB...
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyisolate
import torch
from pyisolate_extension import Bench

EXTENSION = Path(__file__).resolve().parent / "pyisolate_extension"
WARM_UP = 50


def config(name: str, *, share_torch: bool) -> Any:
    return pyisolate.ExtensionConfig(
        name=name,
        module_path=str(EXTENSION),
        isolated=True,
        dependencies=[],
        apis=[],
        share_torch=share_torch,
        share_cuda_ipc=False,
        sandbox_mode=pyisolate.SandboxMode.DISABLED,  # its plain processes: what it calls its sandbox costs more
    )


async def main(folder: str, calls: int, runs: int, sizes: Sequence[int]) -> dict[str, Any]:
    manager = pyisolate.ExtensionManager(Bench, pyisolate.ExtensionManagerConfig(venv_root_path=folder))
    found: dict[str, Any] = {
        "version": pyisolate.__version__,
        "torch": torch.__version__,
        "into_and_back": {},
        "into": {},
    }
    try:
        bench = manager.load_extension(config("bench-shared", share_torch=True))
        found["calls"] = await timed(bench, calls)
        for mib in sizes:
            there_and_back, there = [], []
            for _ in range(runs + 2):
                fresh = torch.ones(mib * 1024 * 1024 // 4, dtype=torch.float32)
                began = time.perf_counter()
                back = await bench.transform(fresh)
                there_and_back.append((time.perf_counter() - began) * 1000)
                assert float(back[-1]) == 2.0
                del back
                fresh = torch.ones(mib * 1024 * 1024 // 4, dtype=torch.float32)
                began = time.perf_counter()
                assert await bench.take(fresh) == 1.0
                there.append((time.perf_counter() - began) * 1000)
                del fresh
            found["into_and_back"][mib], found["into"][mib] = there_and_back[2:], there[2:]
    finally:
        manager.stop_all_extensions()
    return found


async def timed(extension: Any, calls: int) -> list[float]:
    samples = []
    for number in range(calls + WARM_UP):
        began = time.perf_counter()
        assert await extension.nothing(number) == number
        if number >= WARM_UP:
            samples.append((time.perf_counter() - began) * 1000)
    return samples


if __name__ == "__main__":
    folder, calls, runs, *sizes = sys.argv[1:]
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # its uv
    print(json.dumps(asyncio.run(main(folder, int(calls), int(runs), [int(size) for size in sizes]))))

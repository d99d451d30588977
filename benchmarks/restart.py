"""From starting a host that has a hundred extensions to the first result of a node in a sandbox.

Their descriptions are kept by content, so no sandbox of theirs starts for the catalogue (``core``'s does: its lists of
files are live); the one that a prompt needs starts then.

    python -m benchmarks.restart [--extensions N] [--runs N] [--isolation gvisor] [--write-json DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx2

from api.settings import Settings
from api.wiring import wire
from benchmarks.policy_files import changed, isolated_by
from benchmarks.report import Report, machine
from benchmarks.served import OPERATOR, as_installed, server
from policies import LOCAL_TENANT

RESULT = "until the first result from a sandbox"
FLOOR = "floor: a Python that imports the libraries, and nothing else"
_LIBRARIES = """
import gc
gc.disable()
import blake3, fastapi, h11, orjson, prometheus_client, psutil, pydantic_settings, ruamel.yaml, sqlalchemy.ext.asyncio
import typer, uvicorn, websockets
"""
"""What the server's modules import of others' before it takes a prompt."""
NODE = """
class Node:
    INPUT_TYPES = classmethod(lambda cls: {{"required": {{"number": ("INT", {{"default": 0, "max": 2**31}})}}}})
    RETURN_TYPES = ("INT",)
    FUNCTION = "run"
    OUTPUT_NODE = True
    CATEGORY = "bench"

    def run(self, number):
        return {{"ui": {{"number": [number]}}, "result": (number + 1,)}}


NODE_CLASS_MAPPINGS = {{"Bench{number}": Node}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.restart", description=__doc__)
    parser.add_argument("--extensions", type=int, default=100)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--isolation", choices=["runc", "gvisor"], default="runc")
    parser.add_argument("--write-json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ringfence-restart-") as name:
        report = starts(Path(name), options.extensions, options.runs, options.isolation)
    print(f"{machine()}\n\n### {report.question}\n\n{report.table()}")
    if options.write_json:
        report.save(options.write_json, f"restart-{options.isolation}")


def measure(folder: Path, *, quick: bool, isolation: str = "runc") -> Report:
    """As the whole run asks it."""
    return starts(folder, 10 if quick else 100, 2 if quick else 5, isolation)


def starts(folder: Path, extensions: int, runs: int, isolation: str = "runc") -> Report:
    report = Report(f"Starting a host with {extensions} extensions, {isolation}")
    changed(folder / "policies", isolated_by(isolation))  # where the server finds them by itself
    asyncio.run(_register(folder, extensions))
    _until_result(folder)  # not counted: the first has modules to compile
    listed, taken, least = [], [], []
    _imported()
    for _ in range(runs):
        least.append(_imported())
        listed.append(_until_listed(folder, extensions))
        taken.append(_until_result(folder))
    report.add(FLOOR, least)
    report.add("until it takes prompts", [ready for ready, _ in taken])
    report.add("until all nodes are listed (/object_info)", listed)
    report.add(RESULT, [result for _, result in taken], floor=FLOOR)
    report.aim(RESULT, None, 3000)
    return report


async def _register(folder: Path, extensions: int) -> None:
    """As the host does it, in this process: each is read in a sandbox once."""
    name = f"restart-{folder.name[-8:].lower().replace('_', '-')}"
    shm, run = Path(f"/dev/shm/ringfence-{name}"), Path(f"/run/ringfence-{name}")
    settings = Settings(
        data_dir=folder, instance=name.strip("-"), shm_dir=shm, run_dir=run, frontend_dir="none", pool=0
    )
    try:
        async with wire(settings) as services:
            for number in range(extensions):
                pack = folder / f"bench-{number}"
                pack.mkdir()
                (pack / "__init__.py").write_text(NODE.format(number=number))
                info = await services.engine.extensions.add(LOCAL_TENANT, pack)
                if info.state != "ready":
                    raise RuntimeError(f"{info}")
    finally:
        shutil.rmtree(shm, ignore_errors=True)
        shutil.rmtree(run, ignore_errors=True)


def _imported() -> float:
    """ms of a process that does no more than that."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", _LIBRARIES], check=True, env=as_installed(os.environ))
    return (time.perf_counter() - began) * 1000


def _until_listed(folder: Path, extensions: int) -> float:
    """ms from starting the process until every node is listed."""
    began = time.perf_counter()
    with server(folder) as served, httpx2.Client(base_url=served.url, timeout=60) as http:
        known = http.get("/object_info").json()
        listed = time.perf_counter() - began
        assert sum(name.startswith("Bench") for name in known) == extensions
        _check_started(http, {"core"})
    return listed * 1000


def _until_result(folder: Path) -> tuple[float, float]:
    """ms from starting the process until it is ready, and until a node's first result."""
    began = time.perf_counter()
    with server(folder) as served, httpx2.Client(base_url=served.url, timeout=60) as http:
        ready = time.perf_counter() - began
        node = {"class_type": "Bench0", "inputs": {"number": time.time_ns() % 2**31}}
        answer = http.post("/prompt", json={"prompt": {"1": node}})
        answer.raise_for_status()
        wanted = answer.json()["prompt_id"]
        while wanted not in (entry := http.get(f"/history/{wanted}").json()):
            time.sleep(0.01)
        result = time.perf_counter() - began
        assert entry[wanted]["status"]["status_str"] == "success", entry
        _check_started(http, {"core", "bench-0"})
    return ready * 1000, result * 1000


def _check_started(http: httpx2.Client, may: set[str]) -> None:
    """No other sandbox was started than it took."""
    operator = {"Authorization": f"Bearer {OPERATOR}"}
    sandboxes = http.get("/ringfence/v1/sandboxes", headers=operator).json()["sandboxes"]
    started = {name for sandbox in sandboxes for name in sandbox["extensions"]}
    assert started <= may, started


if __name__ == "__main__":
    main()

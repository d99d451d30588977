"""The floor of a server of prompts (``bare_server.py``), started as the others are."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx2

from benchmarks.flood import ROOT, Served


@contextmanager
def server(folder: Path) -> Iterator[Served]:
    """It runs; ``folder`` is its own."""
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.bare_server", str(port), str(folder)], cwd=ROOT
    )
    served = Served(f"http://127.0.0.1:{port}", process.pid, "")
    try:
        deadline = time.monotonic() + 60
        while not _is_ready(served.url):
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError("the bare server does not start")
            time.sleep(0.05)
        yield served
    finally:
        process.terminate()
        process.wait(30)


def plan(
    served: Served,
    frames: Mapping[int, tuple[int, int]],
    *,
    commits: bool = True,
    echoes: bool = True,
) -> None:
    """What it is to do: frames and their bytes, by the number of nodes; and what of the rest."""
    body = {
        "frames": {str(nodes): pair for nodes, pair in frames.items()},
        "commits": commits,
        "echoes": echoes,
    }
    httpx2.post(f"{served.url}/plan", json=body).raise_for_status()


def _is_ready(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/ready").status_code == 200
    except httpx2.HTTPError:
        return False

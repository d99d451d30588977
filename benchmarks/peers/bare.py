"""The floor of a server of prompts (``bare_server.py``), started as the others are."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx2

from benchmarks.served import ROOT, Served, free_port, running


@contextmanager
def server(folder: Path) -> Iterator[Served]:
    """It runs; ``folder`` is its own."""
    folder.mkdir()
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.bare_server", str(port), str(folder)], cwd=ROOT
    )
    served = Served(f"http://127.0.0.1:{port}", process.pid, "")
    with running(process, f"{served.url}/ready", lambda: "the bare server does not start"):
        yield served


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

"""Servers that a measurement starts, asks over loopback and ends."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx2

from benchmarks.weights import Weighed

ROOT = Path(__file__).resolve().parents[1]
OPERATOR = "bench-operator-token-of-enough-characters"
SERVE = "from api.cli import main; main()"
_READY_S = 180
_ENDED_S = 60


@dataclass(frozen=True, slots=True)
class Served:
    """A server that runs."""

    url: str
    pid: int
    instance: str


def free_port() -> int:
    """A port of loopback that nobody listens on, just now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def running(process: subprocess.Popen[bytes], ready: str, said: Callable[[], str]) -> Iterator[None]:
    """The process answers at the URL ``ready``; it is ended when the block is.

    Raises:
        RuntimeError: it does not start; with what it ``said``.
    """
    try:
        deadline = time.monotonic() + _READY_S
        while not _is_ready(ready):
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError(said())
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        try:
            process.wait(_ENDED_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _is_ready(url: str) -> bool:
    try:
        return httpx2.get(url).status_code == 200
    except httpx2.HTTPError:
        return False


@contextlib.contextmanager
def server(
    folder: Path,
    more: Mapping[str, str] | None = None,
    *,
    weight: Weighed | None = None,
    serve: str = SERVE,
) -> Iterator[Served]:
    """A server of this checkout, with directories of its own; ``more`` environment variables."""
    port = free_port()
    name = f"flood-{os.getpid()}"
    places = {"SHM_DIR": f"/dev/shm/ringfence-{name}", "RUN_DIR": f"/run/ringfence-{name}"}
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "RINGFENCE_DATA_DIR": str(folder),
        "RINGFENCE_INSTANCE": name,
        "RINGFENCE_PORT": str(port),
        "RINGFENCE_OPERATOR_TOKEN": OPERATOR,
        "RINGFENCE_LOG_LEVEL": "warning",
        "RINGFENCE_FRONTEND_DIR": "none",
        **{f"RINGFENCE_{key}": value for key, value in places.items()},
        **(more or {}),
    }
    log = folder / "server.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", serve, "serve"], env=environment, stderr=stream, cwd=ROOT
        )
    url = f"http://127.0.0.1:{port}"
    if weight is not None:
        weight.take(process.pid)
    try:
        with running(process, f"{url}/readyz", log.read_text):
            yield Served(url, process.pid, name)
    finally:
        for place in places.values():
            shutil.rmtree(place, ignore_errors=True)

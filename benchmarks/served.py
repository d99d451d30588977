"""Servers that a measurement starts, asks over loopback and ends."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

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


def as_installed(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a program that keeps its compiled modules, as the images do, whatever this shell says."""
    return {name: value for name, value in environment.items() if name != "PYTHONDONTWRITEBYTECODE"}


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
    # Not by the client that measures with: making one takes a good part of a processor that the server starts on.
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == HTTPStatus.OK)
    except OSError:
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
        **as_installed(os.environ),
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

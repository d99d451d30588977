"""The floors of this machine: what the same work costs with nothing of ours around it."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sandbox.launcher.spec import RUNTIMES

ECHO_PROCESS = """
import socket, struct, sys, json
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
def read(n):
    b = b""
    while len(b) < n:
        p = s.recv(n - len(b))
        if not p: raise SystemExit
        b += p
    return b
while True:
    body = read(struct.unpack(">I", read(4))[0])
    out = json.dumps(json.loads(body)).encode()
    s.sendall(struct.pack(">I", len(out)) + out)
"""


ECHO = "bare Unix socket, JSON echo"
"""What the row of ``unix_echo`` is called."""
WARM_UP = 50
Start = Callable[[str], Awaitable[object]]


async def _start_here(path: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(sys.executable, "-c", ECHO_PROCESS, path)


async def unix_echo(
    runs: int,
    *,
    bytes_: int = 200,
    folder: Path | None = None,
    start: Start = _start_here,
    before: Callable[[], Awaitable[None]] | None = None,
) -> list[float]:
    """JSON echo of ``bytes_`` between an asyncio process and a blocking one over a bare Unix socket; ms.

    Ahead of each this process awaits ``before``, if there is one. ``start`` begins the other end, which finds the
    socket ``s`` in ``folder`` (else a new one) and ends by itself.
    """
    samples: list[float] = []
    connected: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Future()
    message = {"jsonrpc": "2.0", "id": 0, "method": "x", "params": {"pad": "x" * bytes_}}
    with tempfile.TemporaryDirectory() as new:
        path = str((folder or Path(new)) / "s")
        server = await asyncio.start_unix_server(lambda *streams: connected.set_result(streams), path)
        child = await start(path)
        async with server, asyncio.timeout(120):
            reader, writer = await connected
            try:
                for i in range(runs + WARM_UP):
                    if before is not None:
                        await before()
                    begin = time.perf_counter()
                    message["id"] = i
                    body = json.dumps(message).encode()
                    writer.write(len(body).to_bytes(4, "big") + body)
                    size = int.from_bytes(await reader.readexactly(4), "big")
                    json.loads(await reader.readexactly(size))
                    if i >= WARM_UP:
                        samples.append((time.perf_counter() - begin) * 1000)
            finally:
                writer.close()
                if isinstance(child, asyncio.subprocess.Process):
                    await child.wait()
    return samples


WRITE_PROCESS = """
import os, sys, tempfile
block = os.urandom(1 << 20)
for line in sys.stdin:
    left = int(line)
    with tempfile.TemporaryFile(dir="/dev/shm") as file:
        while left:
            left -= os.write(file.fileno(), block[:left])
    print(flush=True)
"""


async def echo_after_writing(nbytes: int, runs: int) -> list[float]:
    """``unix_echo``, each after a third process has written ``nbytes`` once to a fresh file in /dev/shm and let go of
    it; ms.

    What warms up does so after a little, but for the last two: fifty times a GiB would take half a minute.
    """
    third = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITE_PROCESS, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert third.stdin is not None
    assert third.stdout is not None
    said, heard = third.stdin, third.stdout
    each = itertools.chain(itertools.repeat(1 << 10, WARM_UP - 2), itertools.repeat(nbytes))

    async def written() -> None:
        said.write(f"{next(each)}\n".encode())
        await heard.readuntil(b"\n")

    try:
        return await unix_echo(runs, before=written)
    finally:
        said.close()
        await third.wait()


@contextmanager
def container(image: str, folder: Path, isolation: str) -> Iterator[Start]:
    """Starts the other end of an echo in a container that sees ``folder``, with the engine's own walls and no more."""
    with _container_name("echo") as name:

        async def start(path: str) -> asyncio.subprocess.Process:
            return await asyncio.create_subprocess_exec(
                "docker", "run", "--rm", "--name", name, "--runtime", RUNTIMES[isolation], "--network", "none",
                "--volume", f"{folder}:/echo", "--entrypoint", "/opt/venv/bin/python", image,
                "-I", "-c", ECHO_PROCESS, f"/echo/{Path(path).name}",
            )  # fmt: skip

        yield start


@contextmanager
def _container_name(what: str) -> Iterator[str]:
    """A container's name; who has it is gone afterwards, however it ended."""
    name = f"ringfence-benchmark-{what}-{os.getpid()}"
    try:
        yield name
    finally:
        subprocess.run(["docker", "rm", "--force", name], check=False, capture_output=True, timeout=120)


def write_tmpfs(nbytes: int, runs: int) -> list[float]:
    """Writing ``nbytes`` once to a fresh file in /dev/shm with write(); ms."""
    data = memoryview(os.urandom(min(nbytes, 1 << 20)) * max(1, nbytes >> 20))
    samples = []
    for _ in range(runs):
        with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
            begin = time.perf_counter()
            written = 0
            while written < nbytes:
                written += os.write(file.fileno(), data[written:])
            samples.append((time.perf_counter() - begin) * 1000)
    return samples


MAKE = """
import json, os, sys, time, torch
runs = int(sys.argv[1])
for nbytes in map(int, sys.argv[2:]):
    samples = []
    for _ in range(runs):
        begin = time.perf_counter()
        data = memoryview(torch.ones(nbytes // 4).numpy()).cast("B")
        with open("/made/tensor", "wb", buffering=0) as file:
            while data:
                data = data[file.write(data):]
        samples.append((time.perf_counter() - begin) * 1000)
        os.unlink("/made/tensor")
    print(json.dumps(samples), flush=True)
"""


def made_in_container(image: str, sizes: Sequence[int], runs: int, isolation: str) -> list[list[float]]:
    """A new tensor of each of ``sizes`` bytes, written once to a file in /dev/shm, in a container with the engine's own
    walls and no more; ms. One thread, as a policy's one processor gives a sandbox."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder, _container_name("made") as name:
        said = _docker_run(
            ["--name", name, "--runtime", RUNTIMES[isolation], "--network", "none",
             "--env", "OMP_NUM_THREADS=1", "--env", "OPENBLAS_NUM_THREADS=1",
             "--volume", f"{folder}:/made", "--entrypoint", "/opt/venv/bin/python", image,
             "-I", "-c", MAKE, str(runs), *map(str, sizes)],
            timeout_s=600,
        )  # fmt: skip
    return [json.loads(line) for line in said.splitlines()]


def memcpy(nbytes: int, runs: int) -> list[float]:
    """Copying ``nbytes`` between two warm buffers in one process; ms."""
    import numpy as np

    source = np.ones(nbytes, dtype=np.uint8)
    target = np.zeros_like(source)
    samples = []
    for _ in range(runs):
        begin = time.perf_counter()
        np.copyto(target, source)
        samples.append((time.perf_counter() - begin) * 1000)
    return samples


def docker_run(image: str, code: str, runs: int, isolation: str) -> list[float]:
    """``docker run`` of the image with no option of ours, until the code ended; ms."""
    samples = []
    runtime = ["--runtime", RUNTIMES[isolation], "--network", "none"]
    for _ in range(runs):
        begin = time.perf_counter()
        _docker_run([*runtime, image, "/opt/venv/bin/python", "-I", "-c", code], timeout_s=120)
        samples.append((time.perf_counter() - begin) * 1000)
    return samples


def _docker_run(arguments: Sequence[str], *, timeout_s: float) -> bytes:
    """What the container said. Libraries complain under gVisor and go on, so its complaints are told on failure alone.

    Raises:
        RuntimeError: it failed; with its last words.
    """
    done = subprocess.run(
        ["docker", "run", "--rm", *arguments], check=False, capture_output=True, timeout=timeout_s
    )
    if done.returncode != 0:
        words = done.stderr.decode("utf-8", "replace")[-2000:]
        raise RuntimeError(f"a container of a floor ended with {done.returncode}: {words!r}")
    return done.stdout

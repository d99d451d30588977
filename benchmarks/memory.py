"""What containers and processes weigh: their proportional share of memory (PSS), as the kernel counts it."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import docker

from sandbox.launcher import cgroups

_KCMP: Final = {"x86_64": 312, "aarch64": 272}
_KCMP_VM: Final = 1


def of_container(client: docker.DockerClient, container: str) -> float:
    """MiB of all processes of a running container, what others share of them in proportion.

    They are found by the cgroup: gVisor's own processes are what its sandbox weighs, and the engine, asked for a
    container's processes, names those that its kernel runs, by numbers that mean nothing here.
    """
    state = client.api.inspect_container(container)["State"]
    if not state["Running"]:
        raise RuntimeError(
            f"container {container[:12]} has ended with status {state['ExitCode']}"
            f"{', out of memory' if state['OOMKilled'] else ''}"
        )
    place = cgroups.find(container, state["Pid"]).memory
    if place is None:
        raise RuntimeError(f"the memory cgroup of container {container[:12]} cannot be found")
    return of_processes(int(line) for line in (place / "cgroup.procs").read_text("ascii").split())


def of_processes(pids: Iterable[int]) -> float:
    """MiB of these processes together; an address space that several of them share counts once."""
    counted: list[int] = []
    total = 0
    for pid in pids:
        if not any(_share_memory(pid, other) for other in counted):
            counted.append(pid)
            total += _pss_kib(pid)
    return total / 1024


def _pss_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise RuntimeError(f"the kernel does not say what process {pid} weighs")


def _share_memory(one: int, other: int) -> bool:
    """Whether two processes run in one address space, as those in which gVisor's kernel runs its programs do."""
    libc = ctypes.CDLL(None, use_errno=True)
    found = libc.syscall(_KCMP[platform.machine()], one, other, _KCMP_VM, 0, 0)
    if found < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"processes {one} and {other} cannot be compared: {os.strerror(number)}")
    return bool(found == 0)

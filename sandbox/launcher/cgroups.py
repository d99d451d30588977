"""A container's kernel counters from its cgroup files (v1 and v2): 1 ms where the engine's ``stats`` takes 1 s."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sandbox.launcher.parents import places_of
from sandbox.launcher.verbs import Usage

ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Cgroup:
    """Where the counters of one container are; None for a controller that cannot be found."""

    memory: Path | None
    pids: Path | None
    unified: bool
    cpu: Path | None = None

    def usage(self) -> Usage:
        """What it uses now; None for whatever cannot be read. Blocking."""
        if self.unified:
            return Usage(
                memory=_number(self.memory, "memory.current"),
                pids=_number(self.pids, "pids.current"),
                oom_kills=_entry(self.memory, "memory.events", "oom_kill"),
                pids_refused=_entry(self.pids, "pids.events", "max"),
                cpu_s=_seconds(_entry(self.cpu, "cpu.stat", "usage_usec"), 1e6),
                memory_peak=_number(self.memory, "memory.peak"),
                file_cache=_sum(self.memory, "memory.stat", ("inactive_file", "active_file")),
                pids_peak=_number(self.pids, "pids.peak"),
            )
        return Usage(
            memory=_number(self.memory, "memory.usage_in_bytes"),
            pids=_number(self.pids, "pids.current"),
            oom_kills=_entry(self.memory, "memory.oom_control", "oom_kill"),
            pids_refused=_entry(self.pids, "pids.events", "max"),
            cpu_s=_seconds(_number(self.cpu, "cpuacct.usage"), 1e9),
            memory_peak=_number(self.memory, "memory.max_usage_in_bytes"),
            file_cache=_sum(self.memory, "memory.stat", ("total_inactive_file", "total_active_file")),
            pids_peak=_number(self.pids, "pids.peak"),
        )


def find(
    container: str, pid: int, root: Path = ROOT, proc: Path = Path("/proc"), *, parent: str = ""
) -> Cgroup:
    """The cgroup of a running container: of its main process where we see that, else by custom. Blocking."""
    unified = (root / "cgroup.controllers").exists()
    own = _of_process(proc / str(pid) / "cgroup") if pid > 0 else {}
    customs = places_of(container, parent)
    if unified:
        found = _first(root, [own.get(""), *customs])
        return Cgroup(found, found, unified=True, cpu=found)
    return Cgroup(
        memory=_first(root / "memory", [own.get("memory"), *customs]),
        pids=_first(root / "pids", [own.get("pids"), *customs]),
        unified=False,
        cpu=_first(root / "cpuacct", [own.get("cpuacct"), *customs]),
    )


def _of_process(path: Path) -> dict[str, str]:
    """Controller to path, from ``/proc/<pid>/cgroup``; the v2 hierarchy has the empty name."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    found: dict[str, str] = {}
    for line in lines:
        _, controllers, where = line.split(":", 2)
        found.update(dict.fromkeys(controllers.split(","), where))
    return found


def _first(base: Path, names: list[str | None]) -> Path | None:
    for name in names:
        if name and name != "/" and (base / name.lstrip("/")).is_dir():
            return base / name.lstrip("/")
    return None


def _number(directory: Path | None, name: str) -> int | None:
    if directory is None:
        return None
    try:
        return int((directory / name).read_text())
    except (OSError, ValueError):
        return None


def _seconds(count: int | None, per_second: float) -> float | None:
    return None if count is None else count / per_second


def _sum(directory: Path | None, name: str, keys: tuple[str, ...]) -> int | None:
    found = [_entry(directory, name, key) for key in keys]
    numbers = [number for number in found if number is not None]
    return sum(numbers) if len(numbers) == len(keys) else None


def _entry(directory: Path | None, name: str, key: str) -> int | None:
    if directory is None:
        return None
    try:
        for line in (directory / name).read_text().splitlines():
            word, _, number = line.partition(" ")
            if word == key:
                return int(number)
    except (OSError, ValueError):
        return None
    return None

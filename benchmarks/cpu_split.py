"""Who used the processor meanwhile: seconds by process of a server, of its sandboxes, and of the container engine."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sandbox.launcher.cgroups import find

_TICKS = os.sysconf("SC_CLK_TCK")
_ENGINE = ("dockerd", "containerd", "containerd-shim")


@dataclass(frozen=True, slots=True)
class Split:
    """CPU seconds so far, by who used them."""

    seconds: Mapping[str, float]

    def since(self, before: Split) -> dict[str, float]:
        """What was used between two looks; what ended in between is not seen."""
        return {who: round(used - before.seconds.get(who, 0.0), 2) for who, used in self.seconds.items()}


def look(processes: Mapping[str, int], instance: str) -> Split:
    """Now: the named processes, each tenant's sandboxes of ``instance``, the engine and the whole machine."""
    seconds = {who: _of_process(pid) for who, pid in processes.items()}
    for tenant, used in _sandboxes(instance).items():
        seconds[f"sandboxes of {tenant}"] = used
    seconds["container engine"] = sum(
        _of_process(int(entry.name))
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and _command(entry).startswith(_ENGINE)
    )
    user, nice, system, idle = map(int, Path("/proc/stat").read_text().split()[1:5])
    seconds["everything on the machine"] = (user + nice + system) / _TICKS
    seconds["idle"] = idle / _TICKS
    return Split(seconds)


def _of_process(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _command(entry: Path) -> str:
    try:
        return (entry / "comm").read_text().strip()
    except OSError:
        return ""


def _sandboxes(instance: str) -> dict[str, float]:
    listed = _docker("ps", "-q", "--no-trunc", "--filter", f"label=ringfence.instance={instance}").split()
    found: dict[str, float] = {}
    for container in json.loads(_docker("inspect", *listed)) if listed else []:
        tenant = container["Config"]["Labels"].get("ringfence.tenant", "no tenant")
        used = find(container["Id"], container["State"]["Pid"]).usage().cpu_s or 0.0
        found[tenant] = found.get(tenant, 0.0) + used
    return found


def _docker(*words: str) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=False, timeout=30)
    return done.stdout

"""What this machine lacks for running Ringfence, and what to do about each.

Works without a server: ``ringfence doctor`` calls ``examine`` itself, and so does the server's own route. The container
engine is ``doctor_engine.py``'s to look at; what runs, and what runtimes cost, ``doctor_running.py``'s.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from api import doctor_engine
from api.doctor_check import Check, Run, run_command, size_text
from api.open_files import OPEN_FILES_ADVICE, OPEN_FILES_NEEDED
from policies import seccomp_profile
from sandbox import (
    AdvisoryDatabase,
    AdvisoryDatabaseError,
)

PYTHON_WANTED = (3, 11)
SHM_WANTED = 1024**3
DISK_WANTED = 5 * 1024**3
OPEN_FILES_WANTED = 16384


class Wanted(Protocol):
    """The settings that the checks look at."""

    @property
    def data_dir(self) -> Path: ...
    @property
    def shm_dir(self) -> Path: ...
    @property
    def node_image(self) -> str: ...
    @property
    def osv_dir(self) -> Path | None: ...


def examine(settings: Wanted, *, run: Run | None = None) -> list[Check]:
    """Look at everything. Blocks for a few seconds at most."""
    run = run or run_command
    return [
        _python(),
        *doctor_engine.examine(run, data_dir=settings.data_dir, node_image=settings.node_image),
        _own_profile(),
        _open_files(),
        _shm(settings.shm_dir),
        _data_dir(settings.data_dir),
        _advisories(settings.osv_dir),
    ]


def report(checks: Sequence[Check]) -> dict[str, Any]:
    """The checks as one JSON document."""
    return {
        "ok": all(check.verdict != "missing" for check in checks),
        "checks": [asdict(check) for check in checks],
    }


def _advisories(path: Path | None) -> Check:
    if path is None or path.is_char_device():
        return Check("vulnerabilities", "ok", "no database is set (RINGFENCE_OSV_DIR); nothing is looked up")
    try:
        facts = AdvisoryDatabase(path).facts()
    except AdvisoryDatabaseError as error:
        return Check("vulnerabilities", "warning", error.message, error.hint)
    found = f"{facts.entries} entries, the newest of {facts.newest or 'an unknown date'}"
    if facts.refused:
        return Check(
            "vulnerabilities",
            "warning",
            f"{found}; {facts.refused} cannot be read",
            "fetch the database again",
        )
    return Check("vulnerabilities", "ok", found)


def _python() -> Check:
    found = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info[:2] < PYTHON_WANTED:
        return Check("python", "missing", found, "install Python 3.11 or newer")
    return Check("python", "ok", found)


def _own_profile() -> Check:
    try:
        calls = len({name for entry in json.loads(seccomp_profile())["syscalls"] for name in entry["names"]})
    except (OSError, ValueError, KeyError) as error:
        return Check(
            "seccomp profile", "missing", f"cannot be read: {type(error).__name__}", "install Ringfence again"
        )
    return Check("seccomp profile", "ok", f"{calls} system calls allowed by name, all others refused")


def _open_files() -> Check:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # the server raises its own limit to this one
    if hard == resource.RLIM_INFINITY:
        return Check("open files", "ok", "no limit")
    found = f"at most {hard} per process"
    if hard < OPEN_FILES_NEEDED:
        return Check("open files", "missing", found, OPEN_FILES_ADVICE)
    if hard < OPEN_FILES_WANTED:
        return Check("open files", "warning", found, OPEN_FILES_ADVICE)
    return Check("open files", "ok", found)


def _shm(directory: Path) -> Check:
    place = _existing(directory)
    kind = _file_system(place)
    if kind != "tmpfs":
        return Check(
            "shared memory",
            "missing",
            f"{directory} is on {kind or 'an unknown file system'}, not on a tmpfs",
            "set RINGFENCE_SHM_DIR to a directory below /dev/shm; in a container, mount the machine's /dev/shm",
        )
    space = os.statvfs(place)
    total, free = space.f_blocks * space.f_frsize, space.f_bavail * space.f_frsize
    found = f"{size_text(free)} of {size_text(total)} free in {directory}"
    if total < SHM_WANTED:
        return Check(
            "shared memory",
            "warning",
            found,
            "tensors live there; make it larger: mount -o remount,size=8G /dev/shm (a container: --shm-size)",
        )
    return Check("shared memory", "ok", found)


def _data_dir(directory: Path) -> Check:
    place = _existing(directory)
    if not os.access(place, os.W_OK | os.X_OK):
        return Check(
            "data directory",
            "missing",
            f"{directory} cannot be written by uid {os.geteuid()}",
            "run as its owner, or set RINGFENCE_DATA_DIR to a directory of your own",
        )
    free = shutil.disk_usage(place).free
    found = f"{directory}, {size_text(free)} free"
    if free < DISK_WANTED:
        advice = "environments with their own torch take 2 GiB each; make room, or set RINGFENCE_DATA_DIR"
        return Check("data directory", "warning", found, advice)
    return Check("data directory", "ok", found)


def _existing(path: Path) -> Path:
    """The path itself, or the nearest directory above it that exists."""
    for candidate in (path, *path.parents):
        if candidate.is_dir():
            return candidate
    return Path("/")


def _file_system(path: Path) -> str:
    best, kind = -1, ""
    resolved = path.resolve()
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    for line in mounts.splitlines():
        fields = line.split()
        mount = Path(fields[1].replace("\\040", " "))
        if resolved.is_relative_to(mount) and len(mount.parts) >= best:
            best, kind = len(mount.parts), fields[2]
    return kind

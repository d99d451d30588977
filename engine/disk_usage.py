"""How much disk a tenant's files take: counted by walking over them now and then, and by what is known in between.

Allocated bytes count (a sparse file of terabytes takes what it takes), a file with several names counts once, and no
link is followed. Blocking and bounded; quotas.py decides when and in which thread.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_DEPTH: Final = 128
_BLOCK: Final = 512


@dataclass(slots=True)
class DiskUsage:
    """What was found."""

    bytes: int = 0
    files: int = 0
    is_whole: bool = True
    """False when the walk ended at its bound: there is more."""


def measure(roots: Iterable[Path], *, most_files: int) -> DiskUsage:
    """What lies below ``roots``; ends once more than ``most_files`` were seen. Blocking."""
    found = DiskUsage()
    seen: set[tuple[int, int]] = set()
    for root in roots:
        try:
            here = os.open(root, _FLAGS)
        except OSError:
            continue  # nothing there yet
        try:
            _walk(here, found, seen, most_files, 0)
        finally:
            os.close(here)
    return found


def _walk(here: int, found: DiskUsage, seen: set[tuple[int, int]], most: int, depth: int) -> None:
    below: list[str] = []
    with os.scandir(here) as entries:
        for entry in entries:
            if found.files > most:
                found.is_whole = False
                return
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue  # gone since the listing
            found.files += 1
            if stat.S_ISDIR(status.st_mode):
                below.append(entry.name)
            elif status.st_nlink > 1:
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
            found.bytes += status.st_blocks * _BLOCK
    if depth >= _DEPTH:
        found.is_whole = found.is_whole and not below
        return
    for name in below:
        try:
            there = os.open(name, _FLAGS, dir_fd=here)
        except OSError:
            continue  # gone, or swapped for a link
        try:
            _walk(there, found, seen, most, depth + 1)
        finally:
            os.close(there)

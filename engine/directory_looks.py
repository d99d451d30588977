"""Whether anything was added to, removed from or renamed in some directories since somebody looked.

What a directory lists changes its own time of change, so a look remembers those of all directories below the roots and
comparing asks for nothing else. What cannot be watched so (links, too many directories, what is not seen from here)
gives no look at all: then nobody can say that nothing changed. Blocking.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MOST_DIRECTORIES: Final = 2_000
MOST_NAMES: Final = 20_000
_SETTLED_NS: Final = 50_000_000
"""Times of change are as coarse as the kernel's tick: what changed a moment ago may change again at the same time."""
_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW

_Mark = tuple[int, int, int] | None


@dataclass(frozen=True, slots=True)
class Root:
    """A directory (or file) to watch."""

    path: Path
    may_be_absent: bool
    """Whether its absence is a fact, and not only that it cannot be seen from here."""


@dataclass(frozen=True, slots=True)
class Look:
    """What was there: each directory's identity and time of change; None for a root that was not there."""

    marks: tuple[tuple[str, _Mark], ...]

    def still_holds(self) -> bool:
        """True when nothing was added, removed or renamed since."""
        return all(_mark(path) == mark for path, mark in self.marks)


def look(roots: Sequence[Root]) -> Look | None:
    """Look at everything below the roots; None when changes there could not be noticed."""
    marks: dict[str, _Mark] = {}
    names = 0
    pending: list[str] = []
    for root in roots:
        mark = _mark(str(root.path))
        if mark is None and not root.may_be_absent:
            return None
        marks[str(root.path)] = mark
        if mark is not None and not root.path.is_file():
            pending.append(str(root.path))
    while pending:
        path = pending.pop()
        try:
            descriptor = os.open(path, _FLAGS)
        except OSError:  # a link, too
            return None
        try:
            marks[path] = _mark(descriptor)
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    names += 1
                    if names > MOST_NAMES or entry.is_symlink():
                        return None
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(f"{path}/{entry.name}")
        except OSError:
            return None
        finally:
            os.close(descriptor)
        if len(marks) + len(pending) > MOST_DIRECTORIES:
            return None
    settled = time.time_ns() - _SETTLED_NS
    if any(mark is not None and mark[2] > settled for mark in marks.values()):
        return None
    return Look(tuple(marks.items()))


def _mark(place: str | int) -> _Mark:
    try:
        found = os.fstat(place) if isinstance(place, int) else os.lstat(place)
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_mtime_ns)

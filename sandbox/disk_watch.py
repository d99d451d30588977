"""What a sandbox adds to its writable directories on disk, looked at while it lives.

There is no kernel quota without privileges that a sandbox's host should not have, so the directories are walked several
times a second, at most a tenth of the time. Counted is what belongs to the sandbox's own user id: allocated bytes (a
sparse file costs what it takes; one that is longer than the cap is refused by the kernel, see RLIMIT_FSIZE in spec.py)
and names. What cannot be looked into, by permission or depth, is answered with its end: it could hide anything.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import anyio
from anyio.lowlevel import RunVar

from policies import EffectivePolicy, TenantPath, own_folder
from sandbox.launcher.verbs import SandboxRequest

BUSY_LOOK_S: Final = 0.25
IDLE_LOOK_S: Final = 5.0
FIRST_LOOK_S: Final = 0.05
"""After a call has begun in a sandbox that rested: at once there is nothing to see, and the look would take the host's
interpreter just when a short call's answer comes."""
LOOK_SHARE: Final = 9
"""A pause is at least so many times as long as the look before it took."""
_THREADS: Final = 2
_limiter: RunVar[anyio.CapacityLimiter] = RunVar("ringfence_disk_threads")
_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_DEPTH: Final = 64
_BLOCK: Final = 512


def writable_directories(tenant: Path, policy: EffectivePolicy, request: SandboxRequest) -> list[Path]:
    """The tenant's directories that a sandbox may write to; ``mounts.py`` mounts the same."""
    own = own_folder(request.names[0], request.group)
    found = []
    for entry in policy.paths:
        if isinstance(entry, TenantPath) and entry.access == "rw":
            parts = entry.tenant.split("/")
            found.append(tenant.joinpath(*parts, *(() if entry.scope == "tenant" else (own,))))
        elif not isinstance(entry, TenantPath) and entry.access == "rw":
            found.append(Path(entry.host))
    return found


def disk_threads() -> anyio.CapacityLimiter:
    """The few threads that all sandboxes' directories are walked in."""
    try:
        return _limiter.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(_THREADS)
        _limiter.set(limiter)
        return limiter


@dataclass(slots=True)
class Found:
    """What belongs to a sandbox below its directories."""

    bytes: int = 0
    files: int = 0
    hidden: str = ""
    """What could not be looked into."""
    by_root: list[tuple[int, int]] = field(default_factory=list)
    """Bytes and files below each root."""


@dataclass(slots=True)
class DiskWatch:
    """The directories of one sandbox, what was in them at the start of its current call, and what is now."""

    roots: Sequence[Path]
    uid: int
    most_files: int
    base: Found | None = None
    last: Found | None = None
    first: Found | None = None
    """What was there when the sandbox began."""
    is_called: bool = False
    """Whether a call has begun since the last pause."""
    called: anyio.Event = field(default_factory=anyio.Event)
    """Set when that is so."""
    took_s: float = 0.0
    """The look before."""

    def begin_call(self) -> None:
        """From here on it counts anew, against what was there when somebody last looked."""
        self.base = self.last
        if not self.is_called:
            self.is_called = True
            self.called.set()

    async def pause(self, soonest: float, latest: float) -> None:
        """Wait until ``latest`` (seconds of the monotonic clock), or until a call has begun and had time to write
        something, but to ``soonest`` at least: calls that follow each other without a pause are looked at as often as
        one that lasts, not once each."""
        await anyio.sleep(max(0.0, soonest - time.monotonic()))
        if not self.is_called:
            with anyio.move_on_after(max(0.0, latest - time.monotonic())):
                await self.called.wait()
                await anyio.sleep(FIRST_LOOK_S)
        self.is_called = False
        self.called = anyio.Event()

    def look(self) -> Found:
        """Count. Blocking; ends early once there are far more names than may be."""
        began = time.monotonic()
        most = (self.base.files if self.base else 10**7) + self.most_files
        found = Found()
        seen: set[tuple[int, int]] = set()
        for root in self.roots:
            before = found.bytes, found.files
            try:
                here = os.open(root, _FLAGS)
            except OSError:
                found.by_root.append((0, 0))
                continue
            try:
                self._walk(here, found, seen, most, 0)
            finally:
                os.close(here)
            found.by_root.append((found.bytes - before[0], found.files - before[1]))
        self.took_s = time.monotonic() - began
        return found

    def grown(self, found: Found) -> tuple[int, int, int]:
        """Bytes and names added since the call began, and bytes since the last look."""
        if self.base is None:
            self.base = self.first = found
        since_last = found.bytes - (self.last or found).bytes
        self.last = found
        return found.bytes - self.base.bytes, found.files - self.base.files, since_last

    def added(self, found: Found) -> list[tuple[int, int]]:
        """Bytes and names that each root has more than when the sandbox began."""
        first = self.first or found
        return [(b - b0, f - f0) for (b, f), (b0, f0) in zip(found.by_root, first.by_root, strict=True)]

    def _walk(self, here: int, found: Found, seen: set[tuple[int, int]], most: int, depth: int) -> None:
        below: list[tuple[str, bool]] = []
        with os.scandir(here) as entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                except OSError:
                    continue  # gone since the listing
                is_own = status.st_uid == self.uid
                if stat.S_ISDIR(status.st_mode):
                    below.append((entry.name, is_own))
                if not is_own:
                    continue
                found.files += 1
                if found.files > most:
                    return
                if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
                    if (status.st_dev, status.st_ino) in seen:
                        continue
                    seen.add((status.st_dev, status.st_ino))
                found.bytes += status.st_blocks * _BLOCK
        for name, is_own in below:
            if found.files > most or found.hidden:
                return
            if depth >= _DEPTH:
                found.hidden = f"directories more than {_DEPTH} deep"
                return
            try:
                there = os.open(name, _FLAGS, dir_fd=here)
            except PermissionError:
                if is_own:
                    found.hidden = "a directory that nobody else may read"
                continue
            except OSError:
                continue  # gone, or swapped for a link
            try:
                self._walk(there, found, seen, most, depth + 1)
            finally:
                os.close(there)

"""Directories that stay what they were found to be until the engine has mounted them, whatever a host does meanwhile.

The engine follows a path as root, some time after we looked at it. All that a sandbox mounts lies in directories of the
host, so a host in somebody else's hands could put a link there in between. While a start is under way each directory of
such a path therefore belongs to a uid that nobody runs as, and is sticky: whoever is neither its owner nor holds
CAP_FOWNER, which the host does not, may then add names to it and rename or remove none that is held, not even as root
with CAP_DAC_OVERRIDE. A lock on each directory says for how many starts, of how many launchers, it is held.
"""

from __future__ import annotations

import fcntl
import logging
import os
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from sandbox.errors import StartError
from sandbox.places import Places

log = logging.getLogger(__name__)

_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LOCK_S: Final = 5.0
_DEPTH: Final = 12


class Holder:
    """Holds directories of one instance still. All of it blocks."""

    def __init__(self, places: Places, uid: int, elsewhere: tuple[Path, ...] = ()) -> None:
        """``uid`` is nobody's; what lies in ``elsewhere`` is not the host's to change."""
        self._roots = tuple(dict.fromkeys((places.data, places.shm_root, places.run_root)))
        self._uid = uid
        self._elsewhere = elsewhere
        self._one_at_a_time = threading.Lock()
        """To look at an owner and change it is two steps, and starts are made in threads."""
        self._owners: dict[tuple[int, int], int] = {}
        """Of roots that belonged to somebody else than us: the operator may keep them in a directory of theirs."""

    @contextmanager
    def held(self, sources: Iterable[Path]) -> Iterator[None]:
        """Every directory from this instance's own ones down to each of ``sources``, held until the end.

        Where we are not root nothing is held: such a host runs as the user that we run as.

        Raises:
            StartError: one of them is a link, somebody else's, was exchanged just now, or cannot be held.
        """
        with ExitStack() as stack:
            if os.geteuid() == 0:
                seen: dict[Path, int] = {}
                for source in sources:
                    self._hold(source, seen, stack)
            yield

    def release_all(self) -> int:
        """Give back what a launcher held that was killed meanwhile; returns how many directories it were."""
        count = 0
        for root in self._roots if os.geteuid() == 0 else ():
            try:
                fd = os.open(root.resolve(), _OPEN)
            except OSError:
                continue
            try:
                count += self._release_below(fd, 0)
            finally:
                os.close(fd)
        return count

    # -- taking ------------------------------------------------------------------------------------------------------

    def _hold(self, source: Path, seen: dict[Path, int], stack: ExitStack) -> None:
        if any(source.is_relative_to(place) for place in self._elsewhere):
            return
        found = [
            (real, source.relative_to(base).parts)
            for root in self._roots
            for real in (root.resolve(),)
            for base in (root, real)
            if source.is_relative_to(base)
        ]
        if not found:
            return  # the operator's own directory, by a policy's name
        here, parts = max(found, key=lambda item: len(item[0].parts))
        fd = seen.get(here)
        if fd is None:
            fd = seen[here] = self._take(here, None, "", stack)
        for part in parts:
            here /= part
            known = seen.get(here)
            if known is None:
                known = seen[here] = self._take(here, fd, part, stack)
            fd = known

    def _take(self, path: Path, parent: int | None, name: str, stack: ExitStack) -> int:
        try:
            fd = os.open(path, _OPEN) if parent is None else os.open(name, _OPEN, dir_fd=parent)
        except OSError as error:
            raise _changed(path, error.strerror or "gone") from None
        stack.callback(os.close, fd)
        status = os.fstat(fd)
        if status.st_uid not in (os.geteuid(), self._uid) and parent is not None:
            raise _changed(path, "it is a sandbox's own")
        _lock(fd, path)
        stack.callback(self._give_back, fd, path)
        try:
            self._own(fd)
        except OSError as error:
            raise StartError(
                f"{path} cannot be held while it is mounted: {error.strerror}",
                "keep it on a file system with owners, such as ext4 or xfs, and give the launcher CAP_CHOWN",
            ) from None
        # Until a moment ago the name could be given to another directory; from here on it cannot. But a rename that
        # was allowed before may still be under way, and a look at the name does not wait for it. A change of the
        # parent, even to what it is, does: both take the kernel's lock of that directory.
        if parent is not None:
            os.fchown(parent, -1, -1)
            try:
                now = os.stat(name, dir_fd=parent, follow_symlinks=False)
            except OSError as error:
                raise _changed(path, error.strerror or "gone") from None
            if (now.st_dev, now.st_ino) != (status.st_dev, status.st_ino):
                raise _changed(path, "another stands there")
        return fd

    def _own(self, fd: int) -> None:
        with self._one_at_a_time:
            try:
                self._make_nobodys(fd)
            except PermissionError:
                # Another launcher did it between our look and our change, and only an owner sets modes.
                if os.fstat(fd).st_uid != self._uid:
                    raise

    def _make_nobodys(self, fd: int) -> None:
        status = os.fstat(fd)
        if status.st_uid == self._uid:
            return
        if status.st_uid != os.geteuid():
            self._owners[status.st_dev, status.st_ino] = status.st_uid
            os.fchown(fd, os.geteuid(), -1)  # only an owner sets modes, where CAP_FOWNER is not held
        os.fchmod(fd, stat.S_IMODE(status.st_mode) | stat.S_ISVTX)
        os.fchown(fd, self._uid, -1)

    # -- giving back -------------------------------------------------------------------------------------------------

    def _give_back(self, fd: int, path: Path) -> None:
        try:
            # Only the last who holds it gets the lock alone.
            with self._one_at_a_time:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._disown(fd)
        except BlockingIOError:
            return
        except OSError as error:
            log.error("%s could not be given back to the host: %s", path, error.strerror)  # noqa: TRY400

    def _disown(self, fd: int) -> None:
        status = os.fstat(fd)
        if status.st_uid != self._uid:
            return
        mode = stat.S_IMODE(status.st_mode)
        os.fchown(fd, os.geteuid(), -1)
        if not mode & stat.S_IWOTH:  # what everybody may write to was sticky before
            os.fchmod(fd, mode & ~stat.S_ISVTX)
        owner = self._owners.pop((status.st_dev, status.st_ino), None)
        if owner is not None:
            os.fchown(fd, owner, -1)

    def _release_below(self, fd: int, depth: int) -> int:
        if os.fstat(fd).st_uid != self._uid or depth > _DEPTH:
            return 0
        count = 1
        with os.scandir(fd) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        for name in names:
            try:
                below = os.open(name, _OPEN, dir_fd=fd)
            except OSError:
                continue
            try:
                count += self._release_below(below, depth + 1)
            finally:
                os.close(below)
        self._give_back(fd, Path(f"a directory of {depth} levels"))
        return count


def _lock(fd: int, path: Path) -> None:
    """Shared with all who hold it. A host that keeps a lock of its own there gets an error, and nobody waits for it."""
    deadline = time.monotonic() + _LOCK_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise _changed(path, "somebody keeps it locked") from None
            time.sleep(0.005)
        else:
            return


def _changed(path: Path, why: str) -> StartError:
    return StartError(f"{path} cannot be mounted: {why}", "leave it alone while a sandbox starts")

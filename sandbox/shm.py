"""Files in /dev/shm that the host makes, a sandbox fills, and nobody changes any more: the kernel's part of it.

The host creates and allocates every file, so it owns name, inode and pages (the pages count against the host's
memory, not the producer's). The sandbox may only open and fill it: the directory is not the sandbox's to change.
``freeze`` then asks the kernel for the word that no descriptor and no mapping anywhere can write to it. Synchronous;
everything here but ``create`` and ``copy`` takes microseconds on tmpfs, whatever the size. Who may hold how much
stands in ``tensors/``.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import stat
from pathlib import Path
from typing import Final, NamedTuple

from sandbox import huge_pages

log = logging.getLogger(__name__)

F_SETLEASE: Final = fcntl.F_SETLEASE
F_GETLEASE: Final = fcntl.F_GETLEASE
F_SETSIG: Final = 10
BREAK_SIGNAL: Final = signal.SIGURG
"""What the kernel sends when a lease breaks. Not the default SIGIO: that one kills a process without a handler, so
a sandbox could end the host in the moment before one is installed; SIGURG is ignored by default."""

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_COPY_STEP = 64 * 1024 * 1024


class FileRefusedError(Exception):
    """A sandbox's output file is not what it was announced to be; the text says in what way."""


class Made(NamedTuple):
    """A new file."""

    fd: int
    """Read-only."""
    huge: int
    """How many bytes from the first on lie in huge pages, as far as we asked for them."""


def create(path: Path, nbytes: int) -> Made:
    """Make a file of ``nbytes`` allocated bytes that anybody who reaches it may fill; return a read-only descriptor.

    The descriptor is opened before the file's mode lets a sandbox in, and no writable one of ours stays open: ours
    would stand in the way of the lease as well as theirs.

    Raises:
        OSError: ENOSPC when /dev/shm is full; nothing is left behind.
    """
    writer = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    reader = -1
    huge = 0
    try:
        if nbytes:
            # The size first: a tmpfs mounted with huge=within_size gives huge pages only to what lies within it.
            os.ftruncate(writer, nbytes)
            huge = huge_pages.fill(writer, nbytes)
            os.posix_fallocate(writer, 0, nbytes)
        reader = os.open(path, _READ)
        _hear_of_breaks(reader)
        os.fchmod(writer, 0o666)
    except BaseException:
        if reader >= 0:
            os.close(reader)
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(writer)
    return Made(reader, huge)


def create_again(fd: int, nbytes: int, source: Path | str, path: Path | str) -> None:
    """Let a sandbox fill a file of its own once more, under a new name: one that nobody has open but ``fd``.

    Raises:
        FileRefusedError: somebody has it open or mapped, or it is not what it was.
    """
    if is_open_elsewhere(fd):
        raise FileRefusedError("somebody still has it open")
    check_extent(fd, nbytes)
    _hear_of_breaks(fd)
    os.rename(source, path)  # noqa: PTH104  (as in ``tensors/adoption.py``)
    os.fchmod(fd, 0o666)


def _hear_of_breaks(fd: int) -> None:
    """Say what the kernel sends to whom when a lease on ``fd`` breaks; forgotten when one is given up."""
    fcntl.fcntl(fd, F_SETSIG, BREAK_SIGNAL)
    # The process, not the calling thread: a thread that has ended would not be told.
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())


def write(path: Path, data: bytes) -> int:
    """Make a read-only file that holds ``data``; return a read-only descriptor.

    Raises:
        OSError: ENOSPC when /dev/shm is full; nothing is left behind.
    """
    writer = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o400)
    try:
        os.ftruncate(writer, len(data))  # as in ``create``
        view = memoryview(data)
        while view:
            view = view[os.write(writer, view) :]
        os.fchmod(writer, 0o444)
        return os.open(path, _READ)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(writer)


def freeze(fd: int) -> bool:
    """Take write permission away and ask for a read lease; False when somebody can still write.

    ``fd`` comes from ``create`` or went through ``create_again``, where it was said what is sent when the lease breaks.
    The order matters: after the chmod nobody new gets in, then the lease is granted only if nobody is in. An open that
    passed its permission check before the chmod and completes after the lease breaks it, which is noticed.
    """
    os.fchmod(fd, 0o444)
    try:
        fcntl.fcntl(fd, F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return False
    except OSError as error:
        # No leases here (fs.leases-enable=0, a user namespace): a copy is always right, trust never is.
        log.warning("no file lease on this machine, outputs are copied: %s", error.strerror)
        return False
    return True


def lease_holds(fd: int) -> bool:
    """False once somebody tries (or tried) to open the file for writing."""
    return fcntl.fcntl(fd, F_GETLEASE) == fcntl.F_RDLCK


def is_open_elsewhere(fd: int) -> bool:
    """Whether anybody but ``fd`` has the file open or mapped. Ends a read lease on ``fd``."""
    try:
        fcntl.fcntl(fd, F_SETLEASE, fcntl.F_WRLCK)
    except OSError:
        return True
    fcntl.fcntl(fd, F_SETLEASE, fcntl.F_UNLCK)
    return False


def destroy(fd: int) -> None:
    """Empty an output that nobody but its maker could reach, and close it.

    Unlinking alone would leave the pages to a maker that keeps the file open: ours, and counted for nobody. Emptied,
    they are gone; what the maker writes from now on counts against its own memory.
    """
    try:
        # A lease of our own would make our own truncation wait until it is broken by force (fs.lease-break-time).
        fcntl.fcntl(fd, F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        pass  # none was held
    try:
        os.fchmod(fd, 0o600)
        os.truncate(f"/proc/self/fd/{fd}", 0)
    except OSError as error:
        log.warning("an output could not be emptied: %s", error.strerror)
    finally:
        os.close(fd)


def check_extent(fd: int, nbytes: int) -> None:
    """See that the file holds exactly ``nbytes`` real bytes under one name.

    Raises:
        FileRefusedError: resized, holes punched (a reader would be charged for them), or linked elsewhere.
    """
    status = os.fstat(fd)
    if status.st_size != nbytes:
        raise FileRefusedError(f"it holds {status.st_size} bytes, announced were {nbytes}")
    if status.st_blocks * 512 < nbytes:
        raise FileRefusedError(f"it has holes: {status.st_blocks * 512} of {nbytes} bytes are allocated")
    if status.st_nlink != 1 or not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        raise FileRefusedError("it is no longer the plain file with one name that the host made")


def copy(source: int, path: Path, nbytes: int) -> int:
    """Copy the bytes of a file that may change meanwhile into a new read-only one; return its descriptor.

    ``sendfile``, never a mapping: a mapping of a file that a sandbox can truncate is a SIGBUS for the host.

    Raises:
        FileRefusedError: the file was shorter than announced.
        OSError: ENOSPC when /dev/shm is full.
    """
    target = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o400)
    try:
        os.ftruncate(target, nbytes)  # as in ``create``
        huge_pages.fill(target, nbytes)
        offset = 0
        while offset < nbytes:
            sent = os.sendfile(target, source, offset, min(_COPY_STEP, nbytes - offset))
            if sent == 0:
                raise FileRefusedError(f"it ended at {offset} bytes, announced were {nbytes}")
            offset += sent
        os.fchmod(target, 0o444)
        return os.open(path, _READ)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(target)


def read(fd: int, nbytes: int) -> bytes:
    """The first ``nbytes`` bytes of the file, by reading, not mapping.

    Raises:
        FileRefusedError: the file is shorter.
    """
    pieces: list[bytes] = []
    offset = 0
    while offset < nbytes:
        piece = os.pread(fd, min(_COPY_STEP, nbytes - offset), offset)
        if not piece:
            raise FileRefusedError(f"it ended at {offset} bytes, announced were {nbytes}")
        pieces.append(piece)
        offset += len(piece)
    return b"".join(pieces)

"""Huge pages for large files on a tmpfs that gives none by itself.

Making the pages of a file, mapping them and freeing them costs as much as filling them, and all three go by the page:
with pages of 2 MiB little is left of them. A mount option (``huge=``) has to be set by whoever mounts /dev/shm;
``MADV_COLLAPSE`` (Linux 6.1) makes huge pages of one file at our asking. Only ever asked for, never relied on: what the
kernel does not give is allocated page by page as before. Synchronous; 0.1 to 0.4 ms for each page of 2 MiB.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import mmap
import os
import time
from functools import cache
from pathlib import Path
from typing import Any, Final

from sandbox.fast_paths import FastPath, takes

log = logging.getLogger(__name__)

MADV_COLLAPSE: Final = 25
ASK_AGAIN_S: Final = 60.0
"""After the kernel said that it does not do this."""
_SIZE_FILE: Final = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
_FEWEST: Final = 2
"""Pages that a file must have room for: asking costs some 0.1 ms in itself."""
_AT_ONCE: Final = 8
_WORTH_S: Final = 0.0007
"""What small pages for 2 MiB cost from their making to their end; the kernel may have to tidy up to find a huge one."""
_GRACE_S: Final = 0.02
_MAP_FIXED: Final = 0x10
_MAP_NORESERVE: Final = 0x4000
_PROT_NONE: Final = 0


@cache
def page_size() -> int:
    """Bytes of a huge page; 0 where this kernel has none."""
    try:
        return int(_SIZE_FILE.read_text("ascii"))
    except (OSError, ValueError):
        return 0


def collapse_memory(start: int, nbytes: int) -> int:
    """Ask for huge pages where this process has memory at these addresses; the errno of what was not done, or 0."""
    return ctypes.get_errno() if _libc().madvise(start, nbytes, MADV_COLLAPSE) else 0


def fill(fd: int, nbytes: int) -> int:
    """Give a new, empty file of our own, ``nbytes`` long, as many huge pages as fit and can be had at little cost.

    Nobody else may be able to open it yet. How many bytes from the first on lie in huge pages that we asked for.

    Raises:
        OSError: ENOSPC when the file system is full.
    """
    size = page_size()
    whole = nbytes // size * size if size else 0
    if whole < _FEWEST * size or _refusal.holds() or not takes(FastPath.HUGE_PAGES):
        return 0
    os.pwrite(fd, b"\0", 0)
    if os.fstat(fd).st_blocks * 512 >= size:
        return 0  # the mount gives them by itself
    reserved = _mapped(whole + size, -1, 0)
    if not reserved:
        return 0
    try:
        start = -(-reserved // size) * size
        return _collapse(fd, start, whole, size) if _mapped(whole, fd, start) else 0
    finally:
        _libc().munmap(reserved, whole + size)


def _collapse(fd: int, start: int, whole: int, size: int) -> int:
    step = _AT_ONCE * size
    until = time.thread_time() + whole // size * _WORTH_S + _GRACE_S
    for at in range(0, whole, step):
        end = min(at + step, whole)
        for page in range(at, end, size):
            os.pwrite(fd, b"\0", page)  # what is empty altogether is not collapsed
        if number := collapse_memory(start + at, end - at):
            _refusal.heard(number)
            return at
        if time.thread_time() > until:
            return end
    return whole


class _Refusal:
    """When the kernel said that it does not do this: an old one, forbidden, or the file system is all but full."""

    def __init__(self) -> None:
        self._ask_again = 0.0
        self._was_told = False

    def holds(self) -> bool:
        return time.monotonic() < self._ask_again

    def heard(self, number: int) -> None:
        if number in {errno.EAGAIN, errno.EBUSY, errno.ENOMEM}:
            return  # not this time
        self._ask_again = time.monotonic() + ASK_AGAIN_S
        if not self._was_told:
            self._was_told = True
            log.info(
                "the kernel makes no huge pages of files (%s): large tensors cost more", os.strerror(number)
            )


_refusal = _Refusal()


def _mapped(nbytes: int, fd: int, at: int) -> int:
    """Map ``nbytes`` of a file at an address, or, without a file, reserve as many addresses; 0 when it cannot be."""
    flags = (
        mmap.MAP_SHARED | _MAP_FIXED if fd >= 0 else mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    )
    # Never written or read through: a mapping of a file that somebody cuts short would be the end of this process.
    found = _libc().mmap(at or None, nbytes, mmap.PROT_READ if fd >= 0 else _PROT_NONE, flags, fd, 0)
    return 0 if found in {None, ctypes.c_void_p(-1).value} else int(found)


@cache
def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return libc

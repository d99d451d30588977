"""Mappings of files, large ones at addresses that suit huge pages.

No descriptor is kept (``mmap.mmap`` keeps one for each mapping until 3.13: a list of a thousand frames would use up the
sandbox's file limit). The addresses of large mappings stay reserved for the next one of that size, a few of them:
reserving and giving back are two of the four calls of the kernel that a mapping takes.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any, Final

SHARED: Final = 0x01
PRIVATE: Final = 0x02
HUGE_PAGE: Final = 2 << 20
ALIGNED: Final = 2 * HUGE_PAGE
"""From here on a file may have huge pages, which are mapped as such only at addresses of which they are a divisor."""
_KEPT: Final = 4
_KEPT_BYTES: Final = 64 << 20
"""No more addresses than these are kept, of mappings no larger than this: a pack may have asked for a cap on them."""
_FIXED, _ANONYMOUS, _NORESERVE = 0x10, 0x20, 0x4000
_NONE, _READ_WRITE = 0, 3
_DONTFORK: Final = 10
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_libc: Any = None

Window = tuple[int, int, int, int]
"""Where a mapping is and how long; and where the addresses that it took begin, and how many they are."""
_free: list[Window] = []


def mapped(fd: int, nbytes: int, kind: int) -> Window:
    """Map the first bytes of a file, ``SHARED`` or ``PRIVATE`` (copy-on-write), for reading and writing.

    Raises:
        MemoryError: it cannot be mapped.
    """
    if _libc is None:
        _load()
    if nbytes < ALIGNED:
        address = _libc.mmap(None, nbytes, _READ_WRITE, kind, fd, 0)
        if address not in _FAILED:
            return address, nbytes, address, nbytes
    else:
        window = _reserved(nbytes)
        if window is not None:
            if _libc.mmap(window[0], nbytes, _READ_WRITE, kind | _FIXED, fd, 0) not in _FAILED:
                return window
            number = ctypes.get_errno()
            _libc.munmap(window[2], window[3])
            ctypes.set_errno(number)
    raise MemoryError(f"a file of {nbytes} bytes cannot be mapped: {os.strerror(ctypes.get_errno())}")


def unmapped(window: Window) -> None:
    """End a mapping. Any thread may, at any moment: also one that is in here already (a destructor)."""
    address, nbytes, start, length = window
    if (
        ALIGNED <= nbytes <= _KEPT_BYTES
        and len(_free) < _KEPT
        # In its place what nothing can use, so that nothing else comes to lie there.
        and _libc.mmap(address, nbytes, _NONE, PRIVATE | _ANONYMOUS | _NORESERVE | _FIXED, -1, 0)
        not in _FAILED
    ):
        _free.append(window)
    else:
        _libc.munmap(start, length)


def not_for_children(window: Window) -> None:
    """See that a process that is forked meanwhile does not have this mapping."""
    _libc.madvise(window[0], window[1], _DONTFORK)


def _reserved(nbytes: int) -> Window | None:
    """Addresses that nothing else uses, the first of which suits huge pages; None: there are none.

    What lies before and after the file stays reserved with it: addresses cost nothing.
    """
    for window in _free:
        if window[1] == nbytes:
            try:
                _free.remove(window)
            except ValueError:  # another thread has it
                continue
            return window
    length = -(-nbytes // _PAGE) * _PAGE + HUGE_PAGE
    start = _libc.mmap(None, length, _NONE, PRIVATE | _ANONYMOUS | _NORESERVE, -1, 0)
    if start in _FAILED:
        return None
    return -(-start // HUGE_PAGE) * HUGE_PAGE, nbytes, start, length


def _load() -> None:
    global _libc
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    _libc = libc


_FAILED: Final = frozenset({None, ctypes.c_void_p(-1).value})

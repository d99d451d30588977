"""The server's own objects in huge pages, once what stays of them is there.

They lie scattered over a hundred MiB, of which each request touches a little everywhere: in pages of 4 KiB the
processor spends a twentieth of the event loop's time on finding them. Asked for once (``MADV_COLLAPSE``, Linux 6.1),
and never relied on: what the kernel does not give stays as it is.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from sandbox import MADV_COLLAPSE, FastPath, huge_page_size, takes

SETTLED_S: Final = 10.0
"""After the start, which has other work for the processor: then caches are filled, and sandboxes started."""
_FULL: Final = 0.75
"""So much of a huge page must be in use already: the rest is taken from then on. Stacks of threads are mostly empty."""
_MAPS: Final = Path("/proc/self/maps")
_MEMORY: Final = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) rw-p [0-9a-f]+ 00:00 0 *(?:\[heap\])?$", re.MULTILINE)
"""Memory of this process alone, and of no file."""


def move_when_settled() -> None:
    """Have it done by a thread, once this event loop has served for ``SETTLED_S``."""
    loop = asyncio.get_running_loop()
    loop.call_later(SETTLED_S, lambda: loop.run_in_executor(None, move_into_huge_pages))


def move_into_huge_pages() -> int:
    """Ask for a huge page wherever one would be well used; bytes of those that there are now.

    Blocking, a tenth of a second where the kernel has to tidy up for them; other threads go on meanwhile.
    """
    size = huge_page_size()
    if not size or not takes(FastPath.HUGE_HEAP):
        return 0
    maps, made = _maps(), 0
    if not maps:
        return 0
    libc = _libc()
    for start, end in list(_joined(_well_used(libc, maps, size))):
        if not libc.madvise(start, end - start, MADV_COLLAPSE):
            made += end - start
    return made


def _joined(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Neighbours in one piece: before each asking the kernel tidies up on every processor."""
    start = end = 0
    for first, last in ranges:
        if first != end:
            if end:
                yield start, end
            start = first
        end = last
    if end:
        yield start, end


def _well_used(libc: Any, maps: str, size: int) -> Iterator[tuple[int, int]]:
    small = os.sysconf("SC_PAGE_SIZE")
    pages = size // small
    for found in _MEMORY.finditer(maps):
        first, last = -(-int(found[1], 16) // size) * size, int(found[2], 16) // size * size
        if first >= last:
            continue
        seen = (ctypes.c_ubyte * ((last - first) // small))()
        if libc.mincore(first, last - first, seen):
            continue  # it is gone again
        used = bytes(seen).translate(_BITS)
        for place, at in enumerate(range(first, last, size)):
            if used.count(1, place * pages, (place + 1) * pages) >= pages * _FULL:
                yield at, at + size


_BITS: Final = bytes(number & 1 for number in range(256))
"""Of what mincore(2) says of a page the lowest bit counts."""


def _maps() -> str:
    try:
        return _MAPS.read_text("ascii", "replace")
    except OSError:  # no /proc here
        return ""


def _libc() -> Any:
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    return libc

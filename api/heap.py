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
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from sandbox import FastPath, collapse_memory, huge_page_size, takes

SETTLED_S: Final = 10.0
"""After the start, which has other work for the processor: then caches are filled, and sandboxes started."""
_FULL: Final = 0.75
"""So much of a huge page must be in use already: the rest is taken from then on. Stacks of threads are mostly empty."""
_MAPS: Final = Path("/proc/self/maps")
_MEMORY: Final = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) rw-p [0-9a-f]+ 00:00 0 *(?:\[heap\])?$", re.MULTILINE)
"""Memory of this process alone, and of no file."""
_BITS: Final = bytes(number & 1 for number in range(256))
"""Of what mincore(2) says of a page the lowest bit counts."""


def move_when_settled() -> None:
    """Have it done by a thread of its own, once this event loop has served for ``SETTLED_S``."""
    mover = threading.Thread(target=move_into_huge_pages, name="huge-heap", daemon=True)
    asyncio.get_running_loop().call_later(SETTLED_S, mover.start)


def move_into_huge_pages() -> None:
    """Ask for a huge page wherever one would be well used.

    Blocking, a tenth of a second where the kernel has to tidy up for them; other threads go on meanwhile.
    """
    size = huge_page_size()
    if size and takes(FastPath.HUGE_HEAP):
        for start, end in _joined(_well_used(size)):
            collapse_memory(start, end - start)


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


def _well_used(size: int) -> Iterator[tuple[int, int]]:
    small = os.sysconf("SC_PAGE_SIZE")
    pages = size // small
    for found in _MEMORY.finditer(_maps()):
        first, last = -(-int(found[1], 16) // size) * size, int(found[2], 16) // size * size
        if first >= last:
            continue
        used = _resident(first, last - first, small)
        for place, at in enumerate(range(first, last, size)):
            if used.count(1, place * pages, (place + 1) * pages) >= pages * _FULL:
                yield at, at + size


def _resident(start: int, nbytes: int, page: int) -> bytes:
    """For each page 1 where it is in memory; nothing where the mapping is gone again."""
    seen = (ctypes.c_ubyte * (nbytes // page))()
    refused = ctypes.CDLL(None).mincore(ctypes.c_void_p(start), ctypes.c_size_t(nbytes), seen)
    return b"" if refused else bytes(seen).translate(_BITS)


def _maps() -> str:
    try:
        return _MAPS.read_text("ascii", "replace")
    except OSError:  # no /proc here
        return ""

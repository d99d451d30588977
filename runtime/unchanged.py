"""Which mapped inputs nobody has written to: the kernel knows, whatever wrote (torch, numpy, C, another thread).

An input is mapped private. Its pages are the file's until somebody writes to one; from then on that page is this
process's own. So an input without a page of its own is what the host granted, byte for byte, and can be handed on by
its name instead of being copied into a new file.
"""

from __future__ import annotations

import os
from typing import Final

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_ENTRY: Final = 8
_PRESENT_OR_SWAPPED: Final = 0xC0
_FILE: Final = 0x20
#: By the highest byte of an entry of /proc/self/pagemap: whether the page is the process's own.
_OWN: Final = frozenset(top for top in range(256) if top & _PRESENT_OR_SWAPPED and not top & _FILE)
_STEP: Final = 1 << 20


def is_unchanged(address: int, nbytes: int) -> bool:
    """Whether every page of a private mapping is still its file's. False where the kernel does not tell."""
    try:
        fd = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        at = address // _PAGE * _ENTRY
        end = -(-(address + nbytes) // _PAGE) * _ENTRY
        while at < end:
            entries = os.pread(fd, min(_STEP, end - at), at)
            if not entries or len(entries) % _ENTRY or not _OWN.isdisjoint(entries[_ENTRY - 1 :: _ENTRY]):
                return False
            at += len(entries)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True

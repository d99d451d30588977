"""How much of the machine's memory is left, and how much the cache mode *ram* leaves free."""

from __future__ import annotations

from typing import Final, NamedTuple

import psutil

GIB: Final = 1024**3


class Memory(NamedTuple):
    """Bytes of the whole machine; results in /dev/shm count as used."""

    available: int
    total: int


def read_memory() -> Memory:
    """As it is now."""
    found = psutil.virtual_memory()
    return Memory(found.available, found.total)


def headroom(total: int, gibibytes: int) -> int:
    """What is to stay free whatever runs: as set, else a tenth of the machine within 2 to 10 GiB."""
    return gibibytes * GIB or min(max(total // 10, 2 * GIB), 10 * GIB)


def comfort(total: int) -> int:
    """Below this, results that no running prompt names go: all of the machine, at most 96 GiB."""
    return min(total, 96 * GIB)

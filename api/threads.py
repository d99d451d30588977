"""Threads for work that a tenant can make long, few of each kind: the rest of the server keeps its own.

No tenant holds more than half of those of one kind: its further work waits for its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar

from api.logging import current_tenant

T = TypeVar("T")

_FILE_THREADS = 8
_PARSE_THREADS = 2  # a parser holds the interpreter's lock: more at once are not faster, only larger together

_files: RunVar[anyio.CapacityLimiter] = RunVar("ringfence_file_threads")
_parsers: RunVar[anyio.CapacityLimiter] = RunVar("ringfence_parse_threads")


@dataclass(slots=True)
class _Gate:
    """What one tenant may hold of one kind, as long as it wants any."""

    semaphore: anyio.Semaphore
    users: int = 0


_gates: RunVar[dict[tuple[str, str], _Gate]] = RunVar("ringfence_thread_gates")


async def file_work(work: Callable[[], T]) -> T:
    """Run work on a tenant's files."""
    return await _fairly(work, _files, _FILE_THREADS)


async def parse_work(work: Callable[[], T]) -> T:
    """Run the parsing of a large body."""
    return await _fairly(work, _parsers, _PARSE_THREADS)


async def _fairly(work: Callable[[], T], kind: RunVar[anyio.CapacityLimiter], threads: int) -> T:
    limiter = _limiter(kind, threads)
    key = (str(id(kind)), current_tenant())
    own = _tenants()
    gate = own.setdefault(key, _Gate(anyio.Semaphore(max(1, threads // 2))))
    gate.users += 1
    try:
        async with gate.semaphore:
            return await anyio.to_thread.run_sync(work, limiter=limiter)
    finally:
        gate.users -= 1
        if not gate.users:
            del own[key]


def _tenants() -> dict[tuple[str, str], _Gate]:
    try:
        return _gates.get()
    except LookupError:
        gates: dict[tuple[str, str], _Gate] = {}
        _gates.set(gates)
        return gates


def _limiter(kind: RunVar[anyio.CapacityLimiter], threads: int) -> anyio.CapacityLimiter:
    try:
        return kind.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(threads)
        kind.set(limiter)
        return limiter

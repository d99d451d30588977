"""Threads for work that a tenant can make long, few of each kind: the rest of the server keeps its own.

Not here: fairness between tenants within one kind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar

T = TypeVar("T")

_FILE_THREADS = 8
_PARSE_THREADS = 2  # a parser holds the interpreter's lock: more at once are not faster, only larger together

_files: RunVar[anyio.CapacityLimiter] = RunVar("ringfence_file_threads")
_parsers: RunVar[anyio.CapacityLimiter] = RunVar("ringfence_parse_threads")


async def file_work(work: Callable[[], T]) -> T:
    """Run work on a tenant's files."""
    return await anyio.to_thread.run_sync(work, limiter=_limiter(_files, _FILE_THREADS))


async def parse_work(work: Callable[[], T]) -> T:
    """Run the parsing of a large body."""
    return await anyio.to_thread.run_sync(work, limiter=_limiter(_parsers, _PARSE_THREADS))


def _limiter(kind: RunVar[anyio.CapacityLimiter], threads: int) -> anyio.CapacityLimiter:
    try:
        return kind.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(threads)
        kind.set(limiter)
        return limiter

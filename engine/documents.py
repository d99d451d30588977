"""Encoding and decoding of documents that a tenant can make large: off the event loop, few at a time.

Not here: what a document says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar

from engine.database import decode, encode

LARGE: Final = 64 * 1024
"""Bytes from which on a thread is worth its price."""
_THREADS: Final = (
    2  # a parser holds the interpreter's lock: more at once are not faster, only larger together
)
_limiter: RunVar[anyio.CapacityLimiter] = RunVar("ringfence_document_threads")


async def decoded(rows: Sequence[tuple[str, bytes]]) -> dict[str, Any]:
    """The values by their ids, in the same order."""

    def read() -> dict[str, Any]:
        return {key: decode(document) for key, document in rows}

    if sum(len(document) for _, document in rows) < LARGE:
        return read()
    return await anyio.to_thread.run_sync(read, limiter=_threads())


async def encoded(value: Any) -> bytes:
    """The bytes of one document. Its size is not known before: always in a thread."""
    return await anyio.to_thread.run_sync(encode, value, limiter=_threads())


def _threads() -> anyio.CapacityLimiter:
    try:
        return _limiter.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(_THREADS)
        _limiter.set(limiter)
        return limiter

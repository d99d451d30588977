"""Encoding and decoding of documents that a tenant can make large: off the event loop, few at a time.

Not here: what a document says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar

from engine.database import decode, encode

LARGE: Final = 64 * 1024
"""Bytes from which on a thread is worth its price."""
_FEW_PARTS: Final = 500
_FEW_BYTES: Final = 16 * 1024
_PLAIN: Final = frozenset({str, bytes, int, float, bool, type(None)})
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
    """The bytes of one document; in a thread unless a look at a few of its parts shows that it is small."""
    if _is_small(value):
        return encode(value)
    return await anyio.to_thread.run_sync(encode, value, limiter=_threads())


def _is_small(value: Any) -> bool:
    """True when there are few parts, and no long text among them."""
    parts, nbytes = [value], 0
    for part in parts:  # grows meanwhile
        kind = type(part)
        if kind is str or kind is bytes:
            nbytes += len(part)
        elif kind is list or kind is tuple:
            parts += part
        elif kind is dict or (kind not in _PLAIN and isinstance(part, Mapping)):
            parts += part.values()
            try:
                nbytes += len("".join(part))
            except TypeError:
                return False  # it has other keys than texts
        else:
            continue
        if len(parts) > _FEW_PARTS:
            return False
    return nbytes <= _FEW_BYTES


def _threads() -> anyio.CapacityLimiter:
    try:
        return _limiter.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(_THREADS)
        _limiter.set(limiter)
        return limiter

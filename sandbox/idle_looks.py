"""Looks at the disks of sandboxes in which nothing runs, many in one turn of a thread.

A look at a few empty directories takes a tenth of a millisecond, going to a thread and back several times that, and of
a hundred idle sandboxes twenty are due each second. So those that are due in the same half second are looked at
together. One that is busy, or that has so much on the disk that others would wait for it, is looked at by itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar

from sandbox.disk_watch import DiskWatch, Found, disk_threads

EVERY_S: Final = 0.5
BRIEF_S: Final = 0.005
"""Of the look before. What took longer is not waited for by others."""
_GATHER_S: Final = 0.005
"""Timers that are due at once do not all wake their tasks in one turn of the loop."""
_MOST: Final = 16
"""In one turn of a thread, which takes the interpreter from the event loop meanwhile."""
_asked: RunVar[list[_Asked]] = RunVar("ringfence_idle_looks")


@dataclass(slots=True)
class _Asked:
    disk: DiskWatch
    done: anyio.Event = field(default_factory=anyio.Event)
    answer: Found | Exception = field(default_factory=lambda: RuntimeError("the disk was not looked at"))
    """Until there is one: a look that did not come about must not pass for an empty disk."""


def due(at: float) -> float:
    """When those that are due at ``at`` (seconds of the monotonic clock) are looked at: then, or a little later."""
    return math.ceil(at / EVERY_S) * EVERY_S


async def look_together(disk: DiskWatch) -> Found:
    """``disk.look()``, with whoever asks at the same moment.

    Raises:
        OSError: what ``look`` raised; that of others is theirs.
        RuntimeError: it was not looked at, because of an error that is none of a disk's.
    """
    waiting = _waiting()
    own = _Asked(disk)
    waiting.append(own)
    if len(waiting) == 1:
        with anyio.CancelScope(shield=True):  # the others wait for it, too
            await anyio.sleep(_GATHER_S)
            await _look_at(waiting)
    await own.done.wait()
    if isinstance(own.answer, Exception):
        raise own.answer
    return own.answer


def _waiting() -> list[_Asked]:
    try:
        return _asked.get()
    except LookupError:
        waiting: list[_Asked] = []
        _asked.set(waiting)
        return waiting


async def _look_at(waiting: list[_Asked]) -> None:
    together = waiting.copy()
    waiting.clear()
    try:
        for at in range(0, len(together), _MOST):
            await anyio.to_thread.run_sync(_look, together[at : at + _MOST], limiter=disk_threads())
    finally:
        for asked in together:
            asked.done.set()


def _look(together: Sequence[_Asked]) -> None:
    for asked in together:
        try:
            asked.answer = asked.disk.look()
        except OSError as error:
            asked.answer = error

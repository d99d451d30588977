"""Where a graph is computed on: a small one at once, a large one in a thread, and the event loop goes on meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import anyio.to_thread

T = TypeVar("T")
THREAD_NODES: Final = 500
"""Nodes from which on a thread is worth its price."""


async def compute(work: Callable[[], T], nodes: int) -> T:
    """What ``work`` returns, which takes time for each of so many nodes and touches nothing that others change."""
    return work() if nodes < THREAD_NODES else await anyio.to_thread.run_sync(work)

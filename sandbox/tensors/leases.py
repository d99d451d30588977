"""Adopted outputs stay as they are: the kernel tells when somebody opens one for writing, and its maker is ended."""

from __future__ import annotations

import logging
from collections.abc import Callable

import anyio

from policies import SandboxId
from sandbox import shm
from sandbox.tensors.holdings import Holdings

log = logging.getLogger(__name__)


async def watch(held: Holdings, on_break: Callable[[SandboxId], None]) -> None:
    """Call ``on_break`` with each sandbox that opened a file of its own which the host had adopted."""
    with anyio.open_signal_receiver(shm.BREAK_SIGNAL) as signals:
        async for _ in signals:
            _check(held, on_break)


def _check(held: Holdings, on_break: Callable[[SandboxId], None]) -> None:
    for known in list(held.objects.values()):
        if known.leased and not known.lost and not shm.lease_holds(known.fd):
            known.lost = True
            log.error("sandbox %s opened an adopted output for writing; it is ended", known.producer)
            if known.producer is not None:
                on_break(known.producer)

"""Whoever wants to hear what happens to sandboxes, each with a queue of its own: none holds up another."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import ObjectReceiveStream
from anyio.streams.memory import MemoryObjectSendStream

from sandbox.launcher.verbs import LauncherEvent

log = logging.getLogger(__name__)


class Listeners:
    """Those of one launcher."""

    def __init__(self) -> None:
        self._queues: set[MemoryObjectSendStream[LauncherEvent]] = set()

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[ObjectReceiveStream[LauncherEvent]]:
        """Hear everything from now on."""
        send, receive = anyio.create_memory_object_stream[LauncherEvent](10_000)
        self._queues.add(send)
        try:
            with receive:
                yield receive
        finally:
            self._queues.discard(send)
            send.close()

    def tell(self, event: LauncherEvent) -> None:
        """Tell everybody; whoever does not listen misses it, which the log says."""
        for queue in self._queues:
            try:
                queue.send_nowait(event)
            except (anyio.WouldBlock, anyio.BrokenResourceError):
                log.warning("a listener missed the event %s of sandbox %s", event.kind, event.sandbox)

"""Events to whoever listens: a hub that never waits, and streams with bounded buffers.

A reader that falls behind is dropped (``is_dropped``) instead of being waited for: nothing a client does may hold up a
prompt.
"""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import Final, Self

import anyio

from engine.events import Event
from policies import TenantId

BUFFERED_EVENTS: Final = 4_096


class EventStream:
    """One listener's events, from ``async with`` on. Iteration ends when the reader was dropped or the hub closed."""

    def __init__(self, hub: EventHub, tenant: TenantId, limit: int) -> None:
        self._hub = hub
        self._tenant = tenant
        self._limit = limit
        self._buffer: deque[Event] = deque()
        self._wake = anyio.Event()
        self._is_closed = False
        self.is_dropped = False

    async def __aenter__(self) -> Self:
        self._hub.add(self._tenant, self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        self._hub.remove(self._tenant, self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._buffer:
            if self._is_closed or self.is_dropped:
                raise StopAsyncIteration
            self._wake = anyio.Event()
            await self._wake.wait()
        return self._buffer.popleft()

    def push(self, event: Event) -> None:
        """Add an event; drops the reader when its buffer is full."""
        if self.is_dropped or self._is_closed:
            return
        if len(self._buffer) >= self._limit:
            self.is_dropped = True
            self._buffer.clear()
        else:
            self._buffer.append(event)
        self._wake.set()

    def close(self) -> None:
        """End the iteration once what is buffered was read."""
        self._is_closed = True
        self._wake.set()


class EventHub:
    """Passes events of a tenant to that tenant's streams."""

    def __init__(self, limit: int = BUFFERED_EVENTS) -> None:
        self._limit = limit
        self._streams: dict[TenantId, list[EventStream]] = {}

    def subscribe(self, tenant: TenantId) -> EventStream:
        """A stream for ``async with``."""
        return EventStream(self, tenant, self._limit)

    def publish(self, event: Event) -> None:
        """Give an event to everyone who listens; returns at once."""
        for stream in self._streams.get(event.tenant, ()):
            stream.push(event)

    def add(self, tenant: TenantId, stream: EventStream) -> None:
        """Start giving a stream events."""
        # A fresh list, so that publishing may go on over the old one.
        self._streams[tenant] = [*self._streams.get(tenant, ()), stream]

    def remove(self, tenant: TenantId, stream: EventStream) -> None:
        """Stop giving a stream events."""
        left = [other for other in self._streams.get(tenant, ()) if other is not stream]
        if left:
            self._streams[tenant] = left
        else:
            self._streams.pop(tenant, None)

    def close(self) -> None:
        """End all streams."""
        for streams in self._streams.values():
            for stream in streams:
                stream.close()

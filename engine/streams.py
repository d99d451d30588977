"""Events to whoever listens: a hub that never waits, and streams with bounded buffers.

A reader that falls behind is dropped (``is_dropped``) instead of being waited for: nothing a client does may hold up a
prompt.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Self

import anyio

from engine.events import Event, NodeExecuted, PackMessage, ProgressChanged, PromptFailed
from policies import TenantId
from sandbox.calls import measure

BUFFERED_EVENTS: Final = 4_096
BUFFERED_BYTES: Final = 32 * 1024 * 1024
BATCH: Final = 64
_EVENT_BYTES: Final = 500


class EventStream:
    """One listener's events, from ``async with`` on. Iteration ends when the reader was dropped or the hub closed."""

    def __init__(self, hub: EventHub, tenant: TenantId, limit: int, byte_limit: int) -> None:
        self._hub = hub
        self._tenant = tenant
        self._limit = limit
        self._byte_limit = byte_limit
        self._buffer: deque[tuple[Event, int]] = deque()
        self._bytes = 0
        self._wake = anyio.Event()
        self._is_closed = False
        self._is_nudged = False
        self.is_dropped = False
        self.gate: Callable[[Event], Sequence[Event]] | None = None
        """What to keep for this reader of each event, asked when it happens: who hears nothing is not woken."""

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
        event, nbytes = self._buffer.popleft()
        self._bytes -= nbytes
        return event

    async def batch(self) -> list[Event]:
        """What waits, at most ``BATCH``; waits for the first. Empty after a nudge.

        Raises:
            StopAsyncIteration: there is nothing more to come.
        """
        while not self._buffer:
            if self._is_closed or self.is_dropped:
                raise StopAsyncIteration
            if self._is_nudged:
                self._is_nudged = False
                return []
            self._wake = anyio.Event()
            await self._wake.wait()
        self._is_nudged = False
        taken = [self._buffer.popleft() for _ in range(min(BATCH, len(self._buffer)))]
        self._bytes -= sum(nbytes for _, nbytes in taken)
        return [event for event, _ in taken]

    def nudge(self) -> None:
        """Let ``batch`` return, though nothing may be there."""
        self._is_nudged = True
        self._wake.set()

    @property
    def is_empty(self) -> bool:
        """True when nothing waits to be read."""
        return not self._buffer

    @property
    def is_over(self) -> bool:
        """True when iteration has nothing more to give, now or later."""
        return not self._buffer and (self._is_closed or self.is_dropped)

    def push(self, event: Event, nbytes: int) -> None:
        """Add an event of about ``nbytes``; drops the reader when its buffer is full. One event always fits."""
        if self.is_dropped or self._is_closed:
            return
        if self.gate is None:
            self._keep(event, nbytes)
            return
        for each in self.gate(event):
            self._keep(each, nbytes if each is event else _size(each))

    def _keep(self, event: Event, nbytes: int) -> None:
        is_too_much = self._bytes + nbytes > self._byte_limit and self._buffer
        if len(self._buffer) >= self._limit or is_too_much:
            self.is_dropped = True
            self._buffer.clear()
        else:
            self._buffer.append((event, nbytes))
            self._bytes += nbytes
        self._wake.set()

    def close(self) -> None:
        """End the iteration once what is buffered was read."""
        self._is_closed = True
        self._wake.set()


class EventHub:
    """Passes events of a tenant to that tenant's streams."""

    def __init__(
        self,
        limit: int = BUFFERED_EVENTS,
        byte_limit: int = BUFFERED_BYTES,
        witness: Callable[[Event], None] | None = None,
    ) -> None:
        self._witness = witness
        self._limit = limit
        self._byte_limit = byte_limit
        self._streams: dict[TenantId, list[EventStream]] = {}

    def subscribe(self, tenant: TenantId) -> EventStream:
        """A stream for ``async with``."""
        return EventStream(self, tenant, self._limit, self._byte_limit)

    def publish(self, event: Event) -> None:
        """Give an event to everyone who listens; returns at once."""
        if self._witness is not None:
            self._witness(event)
        streams = self._streams.get(event.tenant)
        if streams:
            nbytes = _size(event)
            for stream in streams:
                stream.push(event, nbytes)

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


def _size(event: Event) -> int:
    """About what it takes to keep an event."""
    content: object = None
    if isinstance(event, ProgressChanged):
        return _EVENT_BYTES + (len(event.preview[1]) if event.preview else 0)
    if isinstance(event, NodeExecuted):
        content = event.output
    elif isinstance(event, PackMessage):
        content = event.data
    elif isinstance(event, PromptFailed):
        content = event.details
    return _EVENT_BYTES + measure(content)[1]

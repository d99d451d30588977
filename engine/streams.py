"""Events to whoever listens: a hub that never waits, and streams with bounded buffers.

A reader that falls behind is dropped (``is_dropped``) instead of being waited for: nothing a client does may hold up a
prompt.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Self

from engine.events import (
    Event,
    NodeExecuted,
    NodesCached,
    NodeStarted,
    PackMessage,
    ProgressChanged,
    PromptEnded,
    PromptFailed,
    PromptInterrupted,
    PromptStarted,
    PromptSucceeded,
    QueueChanged,
)
from policies import TenantId
from sandbox.calls import measure

BUFFERED_EVENTS: Final = 4_096
BUFFERED_BYTES: Final = 32 * 1024 * 1024
COLLECTED: Final = 64
"""Events that are passed on before the pause of a reader who collects them is over."""
_EVENT_BYTES: Final = 500
_SMALL: Final = frozenset(
    {NodeStarted, PromptStarted, NodesCached, PromptSucceeded, PromptInterrupted, PromptEnded, QueueChanged}
)
_URGENT: Final = (PromptSucceeded, PromptFailed, PromptInterrupted, PromptEnded)


class EventStream:
    """One listener's events, from ``async with`` on. Iteration ends when the reader was dropped or the hub closed."""

    def __init__(self, hub: EventHub, tenant: TenantId, limit: int, byte_limit: int) -> None:
        self._hub = hub
        self._tenant = tenant
        self._limit = limit
        self._byte_limit = byte_limit
        self._buffer: deque[tuple[Event, int]] = deque()
        self._bytes = 0
        self._wake: asyncio.Future[None] | None = None
        self._urgent = 0
        self._is_collecting = False
        self._is_closed = False
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
            await self._woken()
        return self._pop()

    async def some(self, most: int, *, pause_s: float = 0.0) -> list[Event]:
        """The next events, ``most`` at once; none when iteration has ended.

        ``pause_s``: for so long they are collected first, unless one of them is the end of a prompt.
        """
        if pause_s > 0 and not self._urgent and len(self._buffer) < most:
            self._is_collecting = True
            timer = asyncio.get_running_loop().call_later(pause_s, self._rouse)
            try:
                await self._woken()
            finally:
                self._is_collecting = False
                timer.cancel()
        while not self._buffer:
            if self._is_closed or self.is_dropped:
                return []
            await self._woken()
        return [self._pop() for _ in range(min(most, len(self._buffer)))]

    async def _woken(self) -> None:
        if self._is_closed or self.is_dropped:
            return
        self._wake = asyncio.get_running_loop().create_future()
        try:
            await self._wake
        finally:
            self._wake = None

    def _rouse(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _pop(self) -> Event:
        event, nbytes = self._buffer.popleft()
        self._bytes -= nbytes
        self._urgent -= isinstance(event, _URGENT)
        return event

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

    def keep(self, event: Event) -> None:
        """Add what the gate held back before."""
        if not self._is_closed:
            self._keep(event, _size(event))

    def _keep(self, event: Event, nbytes: int) -> None:
        if self.is_dropped:
            return
        is_too_much = self._bytes + nbytes > self._byte_limit and self._buffer
        if len(self._buffer) >= self._limit or is_too_much:
            self.is_dropped = True
            self._buffer.clear()
        else:
            self._buffer.append((event, nbytes))
            self._bytes += nbytes
            is_urgent = isinstance(event, _URGENT)
            self._urgent += is_urgent
            if self._is_collecting and not is_urgent and len(self._buffer) < COLLECTED:
                return
        self._rouse()

    def close(self) -> None:
        """End the iteration once what is buffered was read."""
        self._is_closed = True
        self._rouse()


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
    if type(event) in _SMALL:
        return _EVENT_BYTES
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

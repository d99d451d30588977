"""Events to whoever listens: a hub that never waits, and streams with bounded buffers.

A reader that falls behind is dropped (``is_dropped``) instead of being waited for: nothing a client does may hold up a
prompt.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

from engine.events import (
    Event,
    NodeExecuted,
    PackMessage,
    ProgressChanged,
    PromptEnded,
    PromptFailed,
    PromptInterrupted,
    PromptSucceeded,
)
from policies import TenantId
from sandbox.calls import measure

BUFFERED_EVENTS: Final = 4_096
BUFFERED_BYTES: Final = 32 * 1024 * 1024
COLLECTED: Final = 64
"""Events that are passed on before the pause of a reader who collects them is over."""
_EVENT_BYTES: Final = 500
_LARGE: Final = frozenset({NodeExecuted, PackMessage, PromptFailed})
_URGENT: Final = frozenset({PromptSucceeded, PromptFailed, PromptInterrupted, PromptEnded})

Witnesses = Mapping[type[Event], Sequence[Callable[[Any], None]]]
"""Who sees each event of just this class before anybody else hears of it."""


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
        self._timer: asyncio.TimerHandle | None = None
        self._not_before = 0.0
        """When the reader who waits wants to be woken at the earliest, by what is not urgent."""
        self._urgent = 0
        self._is_closed = False
        self.is_dropped = False
        self.hear: Callable[[Event], None] = self.keep
        """Told of each event when it happens. A reader who hears only some puts a function here that calls ``keep``
        with those: who hears nothing is not woken."""

    async def __aenter__(self) -> Self:
        self._hub.add(self._tenant, self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        self._hub.remove(self._tenant, self)
        self.hear = self.keep  # lets go of whoever listened

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._buffer:
            if self._is_closed or self.is_dropped:
                raise StopAsyncIteration
            await self._sleep()
        return self._take(1)[0]

    async def some(self, most: int, *, pause_s: float = 0.0) -> list[Event]:
        """The next events, ``most`` at once; none when iteration has ended.

        ``pause_s``: for so long they are collected first, unless one of them is the end of a prompt.
        """
        is_early = pause_s > 0 and not self._urgent and len(self._buffer) < most
        while is_early or not self._buffer:
            if self._is_closed or self.is_dropped:
                break
            await self._sleep(pause_s)
            is_early = False
        return self._take(most)

    def _sleep(self, pause_s: float = 0.0) -> asyncio.Future[None]:
        """Done when something is there, and ``pause_s`` is over if it is not urgent."""
        loop = asyncio.get_running_loop()
        self._wake = loop.create_future()
        self._not_before = 0.0
        if self._timer is not None:  # of a wait that was given up
            self._timer.cancel()
            self._timer = None
        if pause_s > 0:
            self._not_before = loop.time() + pause_s
            if self._buffer:
                self._timer = loop.call_at(self._not_before, self._rouse)
        return self._wake

    def _rouse(self) -> None:
        wake, self._wake = self._wake, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if wake is not None and not wake.done():
            wake.set_result(None)

    def _take(self, most: int) -> list[Event]:
        buffer = self._buffer
        if len(buffer) <= most:
            taken = [event for event, _ in buffer]
            buffer.clear()
            self._bytes = self._urgent = 0
            return taken
        taken = []
        for _ in range(most):
            event, nbytes = buffer.popleft()
            self._bytes -= nbytes
            self._urgent -= type(event) in _URGENT
            taken.append(event)
        return taken

    @property
    def is_over(self) -> bool:
        """True when iteration has nothing more to give, now or later."""
        return not self._buffer and (self._is_closed or self.is_dropped)

    def keep(self, event: Event) -> None:
        """Add an event; drops the reader when its buffer is full. One event always fits."""
        if self.is_dropped or self._is_closed:
            return
        kind = type(event)
        nbytes = _EVENT_BYTES
        if kind in _LARGE or (kind is ProgressChanged and event.preview is not None):  # type: ignore[attr-defined]
            nbytes = self._hub.size_of(event)
        buffer = self._buffer
        count = len(buffer)
        if count and (self._bytes + nbytes > self._byte_limit or count >= self._limit):
            self.is_dropped = True
            buffer.clear()
            self._rouse()
            return
        buffer.append((event, nbytes))
        self._bytes += nbytes
        if kind in _URGENT:
            self._urgent += 1
            self._rouse()
        elif self._wake is not None and (self._timer is None or count + 1 >= COLLECTED):
            loop = self._wake.get_loop()
            if self._timer is None and loop.time() < self._not_before:
                self._timer = loop.call_at(self._not_before, self._rouse)
            else:
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
        witnesses: Witnesses | None = None,
    ) -> None:
        self._witnesses = witnesses or {}
        self._limit = limit
        self._byte_limit = byte_limit
        self._streams: dict[TenantId, list[EventStream]] = {}
        self._measured: tuple[Event | None, int] = (None, 0)

    def subscribe(self, tenant: TenantId) -> EventStream:
        """A stream for ``async with``."""
        return EventStream(self, tenant, self._limit, self._byte_limit)

    def publish(self, event: Event) -> None:
        """Give an event to everyone who listens; returns at once."""
        kind, tenant = type(event), event.tenant
        if kind in self._witnesses:
            for see in self._witnesses[kind]:
                see(event)
        if tenant in self._streams:
            for stream in self._streams[tenant]:
                stream.hear(event)

    def size_of(self, event: Event) -> int:
        """About what it takes to keep an event; measured once for all who hear it in a row."""
        if self._measured[0] is not event:
            self._measured = (event, size_of(event))
        return self._measured[1]

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


def size_of(event: Event) -> int:
    """About what it takes to keep an event, in bytes."""
    content: object = None
    kind = type(event)
    if kind is ProgressChanged:
        preview = event.preview  # type: ignore[attr-defined]
        return _EVENT_BYTES + (len(preview[1]) if preview else 0)
    if kind not in _LARGE:
        return _EVENT_BYTES
    if isinstance(event, NodeExecuted):
        content = event.output
    elif isinstance(event, PackMessage):
        content = event.data
    elif isinstance(event, PromptFailed):
        content = event.details
    return _EVENT_BYTES + measure(content)[1]

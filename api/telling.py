"""What one socket is told of what happens, and when: of what its client hears everything in its order, but progress no
faster than anybody looks; the first at once, and what follows it closely together.
"""

from __future__ import annotations

import asyncio
from typing import Final

import anyio

from api import messages
from api.pace import PACED, Pace
from api.websocket_clients import Connection, Connections
from engine import EventStream
from engine.events import Event
from sandbox import FastPath, takes

_TOGETHER: Final = 64
_COLLECT_S: Final = 0.005


class Teller:
    """Tells one connection. What it hears is decided when it happens, so that its task sleeps through the rest."""

    def __init__(self, connection: Connection, connections: Connections, events: EventStream) -> None:
        self._connection = connection
        self._sid = connection.sid
        self._events = events
        self._frames = connections.frames
        self._company = connections.count_of(connection.tenant)
        self._pace = Pace(company=self._company)
        self._timer: asyncio.TimerHandle | None = None
        events.hear = self._hear

    async def tell(self, scope: anyio.CancelScope) -> None:
        """What happens, in order; cancels ``scope`` when there is nothing more to tell."""
        connection, events = self._connection, self._events
        pause_s, is_over = 0.0, False
        # The first is told at once; what follows it closely, together.
        collect_s = _COLLECT_S if takes(FastPath.GATHERED_EVENTS) else 0.0
        try:
            while not is_over:
                told = await events.some(_TOGETHER, pause_s=pause_s)
                is_over = not told
                if is_over and not events.is_dropped:
                    told = self._rest()
                said = self._said(told)
                left = connection.send_at_once(said) if said and connection.is_current else None
                if left:
                    await connection.send(left)
                pause_s = collect_s
        finally:
            self._rest()
        scope.cancel()

    def _said(self, told: list[Event]) -> list[messages.Message]:
        abilities = self._connection.abilities
        if self._company() == 1:
            return messages.messages_of(told, abilities)
        return [frame for each in told for frame in self._frames.of(each, abilities)]

    def _hear(self, event: Event) -> None:
        if event.client_id != self._sid and not messages.is_for_all(event):
            return
        if not self._connection.is_current:
            return
        pace, keep = self._pace, self._events.keep
        held = pace.held
        if type(event) in PACED:
            for each in pace.pass_on(event):
                keep(each)
            if held and self._timer is None:
                self._wait()
            return
        if held:
            for each in pace.before(event):
                keep(each)
        keep(event)

    def _rest(self) -> list[Event]:
        """The end: what was held back."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return self._pace.rest()

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._pace.due_s(), self._let_go)

    def _let_go(self) -> None:
        self._timer = None
        for event in self._pace.overdue():
            self._events.keep(event)
        if self._pace.held:
            self._wait()

"""The WebSocket: one connection per client, fed from the engine's events.

The first frame is ``status`` with the session id, then where the client's own prompt stands, then events in the order
in which they happened. A second socket with a client's id replaces the first, which then hears nothing more. A client
that reads too slowly is dropped, never waited for.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import anyio
from fastapi import APIRouter
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from api import logs, messages
from api.errors import OrjsonResponse, comfy_error
from api.gathered import AT_ONCE
from api.messages import Abilities, Message, To
from api.metrics import WEBSOCKETS, WEBSOCKETS_DROPPED
from api.pace import Pace
from api.services import identity_of, services_of
from engine import Engine, EventStream
from engine.events import Event
from policies import TenantId
from sandbox import FastPath, takes

log = logging.getLogger(__name__)
router = APIRouter()

CLIENT_ID_LIMIT = 256
_SEND_S = 30.0
_TOGETHER = 64
_COLLECT_S = 0.005
_CLOSE_SLOW = 1013  # "try again later"
_CLOSE_LEAVING = 1001  # the server is stopping


@dataclass(eq=False, slots=True)
class Connection:
    """One open socket; compared by identity, because two may carry the same client id."""

    socket: WebSocket
    tenant: TenantId
    sid: str
    abilities: Abilities = field(default_factory=Abilities)
    is_current: bool = True
    logs: anyio.Event = field(default_factory=anyio.Event)
    """Set while the client wants to hear what packs print."""
    _sending: anyio.Lock = field(default_factory=partial(anyio.Lock, fast_acquire=True))
    _at_once: Callable[[list[Message]], bool] | None = None
    """Takes frames that nothing is in the way of, where the server below can."""

    def __post_init__(self) -> None:
        if takes(FastPath.FRAMES_AT_ONCE):
            self._at_once = self.socket.scope.get("extensions", {}).get(AT_ONCE)

    async def send(self, frames: list[Message]) -> None:
        """Send frames together.

        Raises:
            TimeoutError: the client does not read.
        """
        if self._at_once is not None and not self._sending.locked() and self._at_once(frames):
            return
        async with self._sending:
            with anyio.fail_after(_SEND_S):
                for frame in frames:
                    if isinstance(frame, str):
                        await self.socket.send_text(frame)
                    else:
                        await self.socket.send_bytes(frame)

    def hears(self, event: Event) -> bool:
        """True if the event is for this socket."""
        to = messages.receivers_of(event)
        return self.is_current and (
            to is To.EVERYBODY or (to is To.ADDRESSEE and event.client_id == self.sid)
        )


class Connections:
    """The open sockets of this server, by tenant and client id; a client id means nothing across tenants."""

    def __init__(self, limit_per_tenant: int) -> None:
        self.frames = messages.Frames()
        self._limit = limit_per_tenant
        self._current: dict[tuple[TenantId, str], Connection] = {}
        self._open: dict[TenantId, int] = {}

    def open_of(self, tenant: TenantId) -> int:
        """How many sockets a tenant has open."""
        return self._open.get(tenant, 0)

    def add(self, connection: Connection, most: int | None = None) -> bool:
        """Register a socket, replacing one of the same client; False when the tenant has too many open.

        ``most``: the tenant's own quota, where it has one.
        """
        if not self.reserve(connection.tenant, most):
            return False
        key = (connection.tenant, connection.sid)
        replaced = self._current.get(key)
        if replaced is not None:
            replaced.is_current = False
        self._current[key] = connection
        return True

    def reserve(self, tenant: TenantId, most: int | None = None) -> bool:
        """Count one more open socket of a tenant; False when it has too many."""
        count = self._open.get(tenant, 0)
        if count >= (self._limit if most is None else min(most, self._limit)):
            return False
        self._open[tenant] = count + 1
        WEBSOCKETS.inc()
        return True

    def free(self, tenant: TenantId) -> None:
        """Count one fewer."""
        self._open[tenant] -= 1
        WEBSOCKETS.dec()

    def want_logs(self, tenant: TenantId, sid: str, *, enabled: bool) -> None:
        """A client wants to hear what the tenant's packs print, or no longer."""
        connection = self._current.get((tenant, sid))
        if connection is not None and enabled:
            connection.logs.set()
        elif connection is not None:
            connection.logs = anyio.Event()

    def remove(self, connection: Connection) -> None:
        """Forget a socket, but never the newer one that replaced it."""
        self.free(connection.tenant)
        key = (connection.tenant, connection.sid)
        if self._current.get(key) is connection:
            del self._current[key]


@router.get("/ws", include_in_schema=False)
@router.get("/api/ws", include_in_schema=False)
async def no_upgrade() -> Response:
    """A plain request where a WebSocket is expected."""
    body = comfy_error("websocket_expected", "this is a WebSocket", "ask for an upgrade of the connection")
    return OrjsonResponse(body, 400)


@router.websocket("/ws")
@router.websocket("/api/ws")
async def websocket(socket: WebSocket) -> None:
    """ComfyUI's event stream."""
    services = services_of(socket)
    connections = cast("Connections", socket.app.state.connections)
    sid = socket.query_params.get("clientId") or secrets.token_hex(16)
    if len(sid) > CLIENT_ID_LIMIT:
        await socket.close(1008, "clientId is too long")
        return
    connection = Connection(socket, identity_of(socket).tenant, sid)
    if not connections.add(connection, services.quotas.known(connection.tenant).websockets):
        services.quotas.note_refusal(connection.tenant, "websockets")
        await socket.close(_CLOSE_SLOW, "too many open WebSockets")
        return
    code = _CLOSE_SLOW
    try:
        async with services.engine.subscribe(connection.tenant) as events:
            gate = _Gate(connection, connections, events)
            # Subscribed before the client knows that it is connected: what happens from then on waits here.
            await socket.accept()
            remaining = await services.engine.remaining(connection.tenant)
            first: list[Message] = [messages.status(remaining, sid)]
            running = services.engine.running_node(connection.tenant, sid)
            if running is not None:
                first.append(messages.running_node(running))
            await connection.send(first)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_tell_logs, connection, services.engine)
                tasks.start_soon(_listen, connection, services.settings.max_upload_bytes, tasks.cancel_scope)
                await _tell_events(connection, events, gate, connections.frames)
                if events.is_dropped:
                    WEBSOCKETS_DROPPED.inc()
                    log.warning("websocket client dropped: it reads too slowly")
                else:
                    code = _CLOSE_LEAVING
                tasks.cancel_scope.cancel()
    except* (WebSocketDisconnect, RuntimeError):
        pass  # gone while we were sending
    except* TimeoutError:
        WEBSOCKETS_DROPPED.inc()
        log.warning("websocket client dropped: it does not read")
    finally:
        connections.remove(connection)
        await _close(socket, code)


class _Gate:
    """What is kept for a socket of what happens; asked at that time, so that its task sleeps through the rest."""

    def __init__(self, connection: Connection, connections: Connections, events: EventStream) -> None:
        self._connection = connection
        self._events = events
        self._pace = Pace(company=lambda: connections.open_of(connection.tenant))
        self._timer: asyncio.TimerHandle | None = None
        events.gate = self

    def __call__(self, event: Event) -> list[Event]:
        """Of what the client hears, everything but progress that comes faster than anybody looks."""
        if not self._connection.hears(event):
            return []
        told = self._pace.pass_on(event)
        if self._pace.is_holding and self._timer is None:
            self._wait()
        return told

    def rest(self) -> list[Event]:
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
        if self._pace.is_holding:
            self._wait()


async def _tell_events(
    connection: Connection, events: EventStream, gate: _Gate, frames: messages.Frames
) -> None:
    """What happens, in order."""
    pause_s, is_over = 0.0, False
    try:
        while not is_over:
            told = await events.some(_TOGETHER, pause_s=pause_s)
            is_over = not told
            if is_over and not events.is_dropped:
                told = gate.rest()
            said = [frame for each in told for frame in frames.of(each, connection.abilities)]
            if said and connection.is_current:
                await connection.send(said)
            # The first is told at once; what follows it closely, together.
            pause_s = _COLLECT_S if takes(FastPath.GATHERED_EVENTS) else 0.0
    finally:
        gate.rest()


async def _listen(connection: Connection, max_upload_bytes: int, scope: anyio.CancelScope) -> None:
    """Read what the client sends: only a first frame with its feature flags matters."""
    settled = False
    try:
        while True:
            message = await connection.socket.receive()
            if message["type"] == "websocket.disconnect":
                break
            text = message.get("text")
            if settled or not text:
                continue
            try:
                abilities = messages.client_abilities(text)
            except (ValueError, RecursionError):
                continue  # not JSON: the client may still announce itself
            settled = True
            if abilities is not None:
                connection.abilities = abilities
                flags = messages.server_flags(max_upload_bytes)
                await connection.send([messages.feature_flags(flags)])
    finally:
        scope.cancel()


async def _tell_logs(connection: Connection, engine: Engine) -> None:
    """While the client wants it: what packs print, about once a second."""
    while True:
        await connection.logs.wait()
        new = logs.NewLines(engine, connection.tenant)
        while connection.logs.is_set() and connection.is_current:
            lines = await new.take()
            if lines:
                await connection.send([messages.logs(logs.entries_message(lines))])
            await anyio.sleep(logs.INTERVAL_S)
        connection.logs = anyio.Event()


async def _close(socket: WebSocket, code: int) -> None:
    if WebSocketState.DISCONNECTED in (socket.application_state, socket.client_state):
        return
    with anyio.CancelScope(shield=True), anyio.move_on_after(2):
        try:
            await socket.close(code)
        except (RuntimeError, WebSocketDisconnect):
            pass  # the client was first

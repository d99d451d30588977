"""The WebSocket: one connection per client, fed from the engine's events.

The first frame is ``status`` with the session id, then where the client's own prompt stands, then events in the order
in which they happened. A second socket with a client's id replaces the first, which then hears nothing more. A client
that reads too slowly is dropped, never waited for.
"""

from __future__ import annotations

import logging
import secrets
from typing import cast

import anyio
from fastapi import APIRouter
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from api import logs, messages
from api.errors import OrjsonResponse, comfy_error
from api.messages import Message
from api.metrics import WEBSOCKETS_DROPPED
from api.services import identity_of, services_of
from api.telling import Teller
from api.websocket_clients import Connection, Connections
from engine import Engine

log = logging.getLogger(__name__)
router = APIRouter()

CLIENT_ID_LIMIT = 256
_CLOSE_SLOW = 1013  # "try again later"
_CLOSE_LEAVING = 1001  # the server is stopping


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
            teller = Teller(connection, connections, events)
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
                # A task of its own: each time it goes on, so does all that it is called by.
                tasks.start_soon(teller.tell, tasks.cancel_scope)
            if events.is_dropped:
                WEBSOCKETS_DROPPED.inc()
                log.warning("websocket client dropped: it reads too slowly")
            else:
                code = _CLOSE_LEAVING
    except* (WebSocketDisconnect, RuntimeError):
        pass  # gone while we were sending
    except* TimeoutError:
        WEBSOCKETS_DROPPED.inc()
        log.warning("websocket client dropped: it does not read")
    finally:
        connections.remove(connection)
        await _close(socket, code)


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

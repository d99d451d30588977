"""A WebSocket of a client, carried to a route of a pack in its sandbox and back, message by message.

What ends one ends both, and each side hears why: the route in the close frame that its handler reads, the client by the
code (1008 its rights, 1009 a message too large, 1011 the route's failure, 1012 the sandbox was replaced, 1013 too many
or too slow). A tenant's WebSockets share one pace; who is over it is read more slowly.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

import anyio
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from api.audit_trail import Trail
from api.bodies import BodyError
from api.errors import OrjsonResponse, comfy_error, error_body, status_of
from api.metrics import WEBSOCKETS_DROPPED
from api.remarks import remarks_of
from api.services import Services, identity_of, services_of
from api.websocket_clients import Connections
from api.wide_sockets import WIDE
from policies import ExtensionName, RingfenceError, TenantId, safe_text
from sandbox import (
    MESSAGE_TO_PACK,
    Allowance,
    EndedError,
    NodeRaisedError,
    PackSocket,
    QuotaError,
    RouteBusyError,
    RouteRefusedError,
    RouteTimeoutError,
    SandboxError,
    SocketClosed,
    SocketRequest,
)

log = logging.getLogger(__name__)

MAX_OF_TENANT: Final = 32
"""WebSockets on packs' routes that a tenant may have open; they count among all of its WebSockets as well."""
MESSAGES_PER_S: Final = 1_000
_BYTES_LIKE_A_MESSAGE: Final = 16 * 1024
RECHECK_S: Final = 5.0
"""How often the policy is asked again whether the routes are served."""
SEND_S: Final = 30.0
_CLOSE_S: Final = 2.0
_REASON_BYTES: Final = 123
_LEAVING, _NOT_ALLOWED, _TOO_LARGE, _FAILED, _REPLACED, _TRY_LATER = 1001, 1008, 1009, 1011, 1012, 1013
_LOST: Final = 1006
_NO_CODE: Final = 1005


class TooManySocketsError(RingfenceError):
    """A tenant has as many WebSockets open as it may have."""

    code = "too-many-sockets"


class PackSockets:
    """The open WebSockets on packs' routes, by tenant."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._open: dict[TenantId, int] = {}
        self._pace: dict[TenantId, Allowance] = {}

    @contextmanager
    def place(self, services: Services, tenant: TenantId) -> Iterator[None]:
        """A place among the tenant's WebSockets.

        Raises:
            TooManySocketsError: there is none.
        """
        count = self._open.get(tenant, 0)
        most = services.quotas.known(tenant).websockets
        if count >= MAX_OF_TENANT or not self._connections.reserve(tenant, most):
            services.quotas.note_refusal(tenant, "websockets")
            raise TooManySocketsError(
                "too many WebSockets are open",
                hint=f"close some; {MAX_OF_TENANT} on routes of packs are the most, the quota 'websockets' holds too",
            )
        self._open[tenant] = count + 1
        try:
            yield
        finally:
            self._open[tenant] -= 1
            self._connections.free(tenant)

    async def keep_pace(self, tenant: TenantId, nbytes: int) -> None:
        """Wait until the tenant's next message of this size may pass; no message is lost."""
        allowance = self._pace.get(tenant)
        if allowance is None:
            allowance = self._pace[tenant] = Allowance(MESSAGES_PER_S, 2 * MESSAGES_PER_S)
        delay = allowance.borrow(1 + nbytes / _BYTES_LIKE_A_MESSAGE)
        if delay:
            await anyio.sleep(delay)


@dataclass(frozen=True, slots=True)
class _End:
    """How a WebSocket ended: what each side is told; the client nothing when it has left."""

    client: SocketClosed | None
    pack: SocketClosed


async def serve(socket: WebSocket, extension: ExtensionName, request: SocketRequest) -> None:
    """Carry a WebSocket to a route of an extension, from before its acceptance to its end."""
    remarks = remarks_of(socket.scope)
    remarks.extension = extension
    carrier = _Carrier(socket, extension)
    end: SocketClosed | None = None
    failure: RingfenceError | None = None
    await socket.receive()  # its "connect"
    async with anyio.create_task_group() as group:
        group.start_soon(carrier.give_up_if_it_leaves, group.cancel_scope)
        try:
            end = await carrier.run(request)
        except RingfenceError as error:
            failure = error
        group.cancel_scope.cancel()
    if carrier.spoke_early:
        failure = BodyError(
            "something was sent before the WebSocket was accepted", hint="wait for the answer"
        )
    if failure is not None:
        log.warning("a WebSocket of extension %s failed: %s", extension, failure)
        if carrier.is_accepted:
            end = _failure(failure)
        else:
            remarks.error = failure
            await refuse(socket, failure)
    if end is not None:
        await _close(socket, end)


async def refuse(socket: WebSocket, error: RingfenceError) -> None:
    """Answer a request for a WebSocket with an HTTP error."""
    if "websocket.http.response" not in socket.scope.get("extensions", {}):
        await _close(socket, SocketClosed(_NOT_ALLOWED, error.message))
        return
    if socket.scope["path"].startswith("/ringfence/"):
        body = error_body(error)
    else:
        body = comfy_error(error.code.replace("-", "_"), error.message, error.hint)
    try:
        await socket.send_denial_response(OrjsonResponse(body, _status(error)))
    except (RuntimeError, WebSocketDisconnect):
        pass  # the client has left


class _Carrier:
    """One WebSocket between its two ends."""

    def __init__(self, socket: WebSocket, extension: ExtensionName) -> None:
        self._socket = socket
        self._extension = extension
        self._tenant = identity_of(socket).tenant
        self._services = services_of(socket)
        self._sockets = cast("PackSockets", socket.app.state.pack_sockets)
        self._end: _End | None = None
        self._waiting = anyio.CancelScope()
        self._no_longer_waiting = anyio.Event()
        self.is_accepted = False
        self.spoke_early = False

    async def run(self, request: SocketRequest) -> SocketClosed | None:
        """From the route's acceptance to the end; what to tell the client, None when it has left."""
        self._services.audit.check()
        with self._sockets.place(self._services, self._tenant):
            opened = self._services.engine.open_socket(self._tenant, self._extension, request)
            async with opened as theirs:
                if await self._accept(theirs.protocol):
                    return await self._carry(theirs)
                theirs.leave(SocketClosed(_LOST))
                return None

    async def give_up_if_it_leaves(self, all_of_it: anyio.CancelScope) -> None:
        """Until it is accepted: a client that leaves, or speaks too early, is waited for no longer."""
        with self._waiting:
            self.spoke_early = (await self._socket.receive())["type"] != "websocket.disconnect"
            all_of_it.cancel()
        self._no_longer_waiting.set()

    async def _accept(self, protocol: str | None) -> bool:
        """Complete the client's handshake; False when it has left meanwhile."""
        self._waiting.cancel()
        await self._no_longer_waiting.wait()
        try:
            await self._socket.send(
                {
                    "type": "websocket.accept",
                    "subprotocol": protocol,
                    "headers": [(b"x-ringfence-extension", self._extension.encode("ascii"))],
                    WIDE: MESSAGE_TO_PACK,
                }
            )
        except (RuntimeError, WebSocketDisconnect):
            return False
        self.is_accepted = True
        remarks = remarks_of(self._socket.scope)
        trail = cast("Trail", self._socket.app.state.trail)
        remarks.is_route = True  # recorded now: it may stay open for days
        trail.answered(self._socket.scope, self._services, identity_of(self._socket), 101)
        remarks.is_route = False
        return True

    async def _carry(self, theirs: PackSocket) -> SocketClosed | None:
        """Pass messages on until one side ends."""
        async with anyio.create_task_group() as group:

            async def run(part: Callable[[PackSocket], Awaitable[_End]]) -> None:
                end = await self._outcome(part, theirs)
                if self._end is None:
                    self._end = end
                group.cancel_scope.cancel()

            for part in (self._to_pack, self._from_pack, self._watch_sandbox, self._watch_policy):
                group.start_soon(run, part)
        end = self._end or _End(None, SocketClosed(_LEAVING))
        theirs.leave(end.pack)
        return end.client

    async def _outcome(self, part: Callable[[PackSocket], Awaitable[_End]], theirs: PackSocket) -> _End:
        try:
            return await part(theirs)
        except RingfenceError as error:
            log.warning("a WebSocket of extension %s ends: %s", self._extension, error)
            return _End(_failure(error), SocketClosed(_LEAVING))
        except TimeoutError:
            WEBSOCKETS_DROPPED.inc()
            log.warning("websocket client dropped: it does not read what a route sends")
            return _End(SocketClosed(_TRY_LATER, "read faster"), SocketClosed(_LOST))
        except (WebSocketDisconnect, RuntimeError):
            return _End(None, SocketClosed(_LOST))  # gone while we were sending

    async def _to_pack(self, theirs: PackSocket) -> _End:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return _End(None, _farewell(message))
            text, data = message.get("text"), message.get("bytes")
            given: str | bytes = text if text is not None else data or b""
            await self._sockets.keep_pace(self._tenant, len(given))
            await theirs.send(given)

    async def _from_pack(self, theirs: PackSocket) -> _End:
        while True:
            said = await theirs.receive()
            if isinstance(said, SocketClosed):
                return _End(_of_pack(said), said)
            await self._sockets.keep_pace(self._tenant, len(said))
            with anyio.fail_after(SEND_S):
                if isinstance(said, str):
                    await self._socket.send_text(said)
                else:
                    await self._socket.send_bytes(said)
            del said

    async def _watch_sandbox(self, theirs: PackSocket) -> _End:
        await theirs.watch()

    async def _watch_policy(self, theirs: PackSocket) -> _End:
        del theirs
        while True:
            await anyio.sleep(RECHECK_S)
            await self._services.engine.extensions.sites.check(self._tenant, self._extension)


def _farewell(message: Any) -> SocketClosed:
    """The client's close frame; a client that is gone without one was lost."""
    code, reason = message.get("code") or _LOST, message.get("reason")
    if code == _NO_CODE:
        code = _LOST if reason is None else 1000
    return SocketClosed(code, reason or "")


def _of_pack(said: SocketClosed) -> SocketClosed:
    """A route's end as a close frame may say it."""
    if said.code in (1000, 1001, 1002, 1003) or 1007 <= said.code <= 1014 or 3000 <= said.code <= 4999:
        return said
    if said.code == _NO_CODE:
        return SocketClosed(1000)
    return SocketClosed(_FAILED, "the route broke off")


def _failure(error: RingfenceError) -> SocketClosed:
    if isinstance(error, EndedError) and error.limit == "stopped":
        code = _REPLACED
    elif isinstance(error, QuotaError):
        code = _TOO_LARGE
    elif isinstance(error, RouteBusyError):
        code = _TRY_LATER
    elif isinstance(error, (SandboxError, NodeRaisedError)):
        code = _FAILED
    else:
        code = _NOT_ALLOWED if status_of(error) in (403, 404) else _FAILED
    return SocketClosed(code, error.message)


def _status(error: RingfenceError) -> int:
    if isinstance(error, RouteRefusedError):
        return max(error.status, 400)
    if isinstance(error, RouteTimeoutError):
        return 504
    if isinstance(error, RouteBusyError):
        return 503
    return 502 if isinstance(error, (SandboxError, NodeRaisedError)) else status_of(error)


async def _close(socket: WebSocket, end: SocketClosed) -> None:
    if WebSocketState.DISCONNECTED in (socket.application_state, socket.client_state):
        return
    reason = safe_text(end.reason, _REASON_BYTES).encode("utf-8")[:_REASON_BYTES].decode("utf-8", "ignore")
    with anyio.CancelScope(shield=True), anyio.move_on_after(_CLOSE_S):
        try:
            await socket.close(end.code, reason)
        except (RuntimeError, WebSocketDisconnect):
            pass  # the client was first

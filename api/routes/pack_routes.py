"""HTTP routes that packs register, answered from their sandboxes.

At ``/ringfence/v1/extensions/<name>/routes/...``, and at the path that the pack asked for (and below ``/api``), where
every route of this server goes first. What a route says comes from a stranger and is shown in our origin, so a
request takes along only what a route needs (no cookie, no token), and an answer keeps only what cannot act on the
user's behalf: no cookie, no script type, no redirect to elsewhere, and a sandbox for whatever a browser would render.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator
from typing import Final

import anyio
from fastapi import APIRouter, FastAPI, Request, WebSocket
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from api import pack_sockets
from api.errors import OrjsonResponse, comfy_error, error_body, status_of
from api.remarks import remarks_of
from api.services import ForTenant, identity_of, services_of
from engine import Engine
from policies import ExtensionName, RingfenceError, TenantId, parse_extension_name
from sandbox import (
    HttpRequest,
    HttpResponse,
    NodeRaisedError,
    RouteBusyError,
    RouteTimeoutError,
    SandboxError,
    SocketRequest,
)

log = logging.getLogger(__name__)
router = APIRouter()

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_PREFIX_PARTS: Final = 6  # "", ringfence, v1, extensions, <name>, routes

# What a handler may want to know of a request, and nothing that proves who sent it.
_TO_PACK: Final = frozenset(
    {
        "accept", "accept-language", "cache-control", "comfy-user", "content-type", "if-match", "if-modified-since",
        "if-none-match", "if-range", "if-unmodified-since", "last-event-id", "range", "user-agent",
        "x-requested-with",
    }
)  # fmt: skip
_FROM_PACK: Final = frozenset(
    {
        "accept-ranges", "allow", "content-disposition", "content-language", "content-range", "content-type", "etag",
        "expires", "last-modified", "retry-after",
    }
)  # fmt: skip
_SCRIPTS: Final = re.compile(r"(?i)(java|ecma|j|live)script|wasm|text/css|multipart/x-mixed-replace")
_PLACE: Final = re.compile(r"/(?![/\\])[!-\[\]-~]*\Z")  # browsers drop tabs from "/<tab>/elsewhere"
_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,200}\Z")
_READING: Final = ("GET", "HEAD")
_BODILESS: Final = (204, 304)
_CACHING: Final = re.compile(r"(?i)no-store|no-cache|must-revalidate|max-age=[0-9]{1,9}")
#: Whatever a browser makes of it has an origin of its own, runs nothing, loads nothing and submits nothing.
CONTENT_SECURITY_POLICY: Final = (
    "sandbox; default-src 'none'; img-src 'self' data:; media-src 'self' data:; style-src 'unsafe-inline'"
)


@router.api_route("/extensions/{name}/routes/{path:path}", methods=list(METHODS), include_in_schema=False)
async def own_prefix(name: str, request: Request, tenant: ForTenant) -> Response:
    """A route of one extension, by the path that it registered."""
    extension = parse_extension_name(name)
    engine = services_of(request).engine
    await engine.extensions.sites.check(tenant, extension)
    raw = _raw_path(request.scope).split(b"/")
    target = b"/" + b"/".join(raw[_PREFIX_PARTS:])
    return PackAnswer(engine, tenant, extension, _request(request.scope, target))


@router.websocket("/extensions/{name}/routes/{path:path}")
async def own_prefix_socket(socket: WebSocket) -> None:
    """A WebSocket on a route of one extension, by the path that it registered."""
    try:
        extension = parse_extension_name(socket.path_params["name"])
        await services_of(socket).engine.extensions.sites.check(identity_of(socket).tenant, extension)
    except RingfenceError as error:
        remarks_of(socket.scope).error = error
        await pack_sockets.refuse(socket, error)
        return
    raw = _raw_path(socket.scope).split(b"/")
    target = b"/" + b"/".join(raw[_PREFIX_PARTS:])
    await pack_sockets.serve(socket, extension, _socket_request(socket.scope, target))


def install(app: FastAPI) -> None:
    """Let packs answer at the paths they asked for: those, and only those, for which the application has no route."""
    nothing_here = app.router.default

    async def default(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            answer = await _find_socket(scope)
        else:
            answer = await _find(scope) if scope["type"] == "http" else None
        await (answer or nothing_here)(scope, receive, send)

    app.router.default = default


async def _find_socket(scope: Scope) -> ASGIApp | None:
    """Who takes a WebSocket at ComfyUI's path: a pack, where this server answers no request of any kind."""
    as_request = {**scope, "type": "http", "method": "GET"}
    if any(route.matches(as_request)[0] is not Match.NONE for route in scope["app"].router.routes):
        return None
    services, tenant = scope["app"].state.services, scope["ringfence_identity"].tenant
    found = await services.engine.extensions.sites.serving(tenant, "GET", scope["path"])
    if found is None:
        return None
    extension, path = found
    raw = _raw_path(scope)
    target = raw if path == scope["path"] else raw.removeprefix(b"/api")

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        socket = WebSocket(scope, receive, send)
        await pack_sockets.serve(socket, extension, _socket_request(scope, target))

    return answer


async def _find(scope: Scope) -> PackAnswer | None:
    request = Request(scope)
    if request.method not in METHODS:
        return None
    engine, tenant = services_of(request).engine, identity_of(request).tenant
    found = await engine.extensions.sites.serving(tenant, request.method, scope["path"])
    if found is None:
        return None
    extension, path = found
    raw = _raw_path(scope)
    target = raw if path == scope["path"] else raw.removeprefix(b"/api")
    return PackAnswer(engine, tenant, extension, _request(scope, target))


def _raw_path(scope: Scope) -> bytes:
    raw: bytes = scope["raw_path"]
    return raw.partition(b"?")[0]


def _request(scope: Scope, target: bytes) -> HttpRequest:
    return HttpRequest(scope["method"], _with_query(scope, target), _headers(scope))


def _socket_request(scope: Scope, target: bytes) -> SocketRequest:
    offered = tuple(protocol for protocol in scope["subprotocols"] if _TOKEN.match(protocol))
    return SocketRequest(_with_query(scope, target), _headers(scope), offered)


def _with_query(scope: Scope, target: bytes) -> str:
    query: bytes = scope["query_string"]
    return (target + b"?" + query if query else target).decode("latin-1")


def _headers(scope: Scope) -> tuple[tuple[str, str], ...]:
    return tuple(
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in scope["headers"]
        if name.decode("latin-1").lower() in _TO_PACK
    )


class PackAnswer(Response):
    """Asks the route when it is sent, and passes its answer on piece by piece."""

    def __init__(
        self, engine: Engine, tenant: TenantId, extension: ExtensionName, request: HttpRequest
    ) -> None:
        super().__init__()
        self._engine = engine
        self._tenant = tenant
        self._extension = extension
        self._request = request
        self._has_begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; when the client leaves, the route is given up."""
        remarks = remarks_of(scope)
        remarks.extension, remarks.is_route = self._extension, True
        body_read = anyio.Event()
        failure: Exception | None = None
        async with anyio.create_task_group() as group:

            async def follow() -> None:
                await body_read.wait()
                while (await receive())["type"] != "http.disconnect":
                    pass
                group.cancel_scope.cancel()

            group.start_soon(follow)
            try:
                await self._pass_on(_body(receive, body_read), send)
            except Exception as error:  # noqa: BLE001 - not through the group, which would wrap it
                failure = error
            group.cancel_scope.cancel()
        if isinstance(failure, ClientDisconnect):
            return
        if failure is not None:
            await self._fail(failure, scope, receive, send)

    async def _pass_on(self, body: AsyncIterator[bytes], send: Send) -> None:
        asked = self._engine.ask_route(self._tenant, self._extension, self._request, body)
        async with asked as response:
            head = {
                "type": "http.response.start",
                "status": safe_status(response, self._request.method),
                "headers": [
                    (name.encode("latin-1"), value.encode("latin-1"))
                    for name, value in safe_headers(response, self._extension, self._request.method)
                ],
            }
            await send(head)
            self._has_begun = True
            has_body = self._request.method != "HEAD" and response.status not in _BODILESS
            async for piece in response.body:
                if has_body:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _fail(self, failure: Exception, scope: Scope, receive: Receive, send: Send) -> None:
        if not isinstance(failure, RingfenceError):
            raise failure
        log.warning("a route of extension %s failed: %s", self._extension, failure)
        if self._has_begun:
            return  # unfinished: the server cuts the connection, so that nobody takes a part for the whole
        status = _status(failure)
        if scope["path"].startswith("/ringfence/"):
            body = error_body(failure)
        else:
            body = comfy_error(failure.code.replace("-", "_"), failure.message, failure.hint)
        await OrjsonResponse(body, status)(scope, receive, send)


def safe_status(response: HttpResponse, method: str) -> int:
    """The status of a route's answer; what moves elsewhere is asked for with GET, which changes nothing here."""
    return 303 if response.status in (301, 302) and method not in _READING else response.status


def safe_headers(response: HttpResponse, extension: ExtensionName, method: str) -> list[tuple[str, str]]:
    """The headers of a route's answer that may leave in our name, and those that make it harmless."""
    kept = [
        (name, value) for name, value in response.headers if name in _FROM_PACK and name != "content-type"
    ]
    given = Headers(raw=[(n.encode("latin-1"), v.encode("latin-1")) for n, v in response.headers])
    kind = given.get("content-type")
    if kind is not None:
        # A script or style could be referred to by a page of ours; as plain text no browser takes it for one.
        kept.append(("content-type", "text/plain; charset=utf-8" if _SCRIPTS.search(kind) else kind))
    elif response.status not in _BODILESS:
        kept.append(("content-type", "application/octet-stream"))
    place = given.get("location")
    # Within this server; and never the client's own request, with what proves who sends it, to a route of ours.
    if (
        place is not None
        and _PLACE.match(place)
        and (method in _READING or response.status not in (307, 308))
    ):
        kept.append(("location", place))
    caching = ", ".join(["private", *_CACHING.findall(given.get("cache-control", "no-cache"))])
    return [
        *kept,
        ("cache-control", caching),
        ("content-security-policy", CONTENT_SECURITY_POLICY),
        ("cross-origin-resource-policy", "same-origin"),
        ("referrer-policy", "no-referrer"),
        ("x-ringfence-extension", extension),
    ]


async def _body(receive: Receive, body_read: anyio.Event) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        if message.get("body"):
            yield message["body"]
        if not message.get("more_body", False):
            body_read.set()
            return


def _status(error: RingfenceError) -> int:
    if isinstance(error, RouteTimeoutError):
        return 504
    if isinstance(error, RouteBusyError):
        return 503
    return 502 if isinstance(error, (SandboxError, NodeRaisedError)) else status_of(error)

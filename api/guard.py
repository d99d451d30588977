"""The gate in front of every route, HTTP and WebSocket alike: sizes, who may talk to us from where, and who is asking.

One plain ASGI middleware, because it must see a body while it arrives. Order of the checks: URL and headers, health
(always open), cross-site requests, Host and Origin, identity, its turn, the route's scope, announced body size. A
connection that stays open (WebSocket, event stream) ends when what proved its sender's identity does.
"""

from __future__ import annotations

import logging
import time

import anyio
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from api.audit_trail import Trail
from api.auth import NOBODY, TENANT_HEADER, AuthError, ForbiddenError, Identity, identify, of_session
from api.bodies import BodyError
from api.connections import TenantRequests
from api.errors import response_to, unforeseen
from api.exchange import Answer, Body, LimitReachedError, refuse
from api.first_headers import first_header, first_headers
from api.logging import request_context
from api.login_page import login_page
from api.loop_share import Passage, of_address, of_tenant
from api.metered import Metered
from api.metrics import observe_request
from api.origins import check_host, check_origin, friendly_origin
from api.peers import peer_of
from api.permissions import Permissions
from api.remarks import remarks_of
from api.request_form import announced, check_form, too_large
from api.services import Services
from api.sessions import check_own_page, cookie_of, is_navigation, local_path
from api.upload_limits import allowed_size, is_upload
from engine import prepare_tenant_directory
from policies import LOCAL_TENANT, RingfenceError, safe_text

log = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
LOGIN_PATHS = frozenset({"/ringfence/login", "/ringfence/logout"})
_RECHECK_S = 15.0
_LOGGED_OUT = 1008  # "policy violation", as for whoever has no token


class Guard:
    """ASGI middleware; see the module's text."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, then pass on."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        services: Services = scope["app"].state.services
        if services.tenants.was_single_user or scope["path"] in OPEN_PATHS:
            await self._answer(
                scope, receive, send, services, Passage()
            )  # nobody to share with, or no time to lose
            return
        passage = Passage(services.share)
        try:
            await Metered(self._answer(scope, receive, send, services, passage), passage.charge)
        finally:
            passage.end()

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, services: Services, passage: Passage
    ) -> None:
        trail: Trail = scope["app"].state.trail
        remarks_of(scope)
        started = time.monotonic()
        # Whoever waits to be told to go on sends no body that would have to be taken.
        body = Body(receive, passage, is_coming=b"expect" not in first_headers(scope))
        answer = Answer(send, friendly_origin(scope, services.settings), body, passage)
        try:
            limit = check_form(scope, services.settings)
            identity = await self._admit(scope, services, passage)
        except RingfenceError as error:
            error = await _in_its_turn(scope, services, passage, error)
            await refuse(scope, body, answer, error)
            trail.answered(scope, services, None, answer.status)
        except _LogInFirstError:
            query = scope["query_string"].decode("latin-1")
            page = login_page(local_path(scope["path"] + (f"?{query}" if query else "")), status=401)
            await page(scope, receive, answer.send)
        except Exception as error:
            if scope["type"] == "websocket":
                raise
            await unforeseen(error, scope["method"], scope["path"])(scope, receive, answer.send)
        else:
            body.limit = limit
            scope["ringfence_identity"] = identity
            with request_context(tenant=identity.tenant):
                if not self._is_counted(scope, identity):
                    await self._answer_known(scope, body, answer, identity, services, trail)
                else:
                    requests: TenantRequests = scope["app"].state.under_way
                    try:
                        requests.enter(identity.tenant)
                    except RingfenceError as error:
                        await refuse(scope, body, answer, error)
                        trail.answered(scope, services, identity, answer.status)
                    else:
                        try:
                            await self._answer_known(scope, body, answer, identity, services, trail)
                        finally:
                            requests.leave(identity.tenant)
        if scope["type"] == "http":
            observe_request(scope, answer.status, time.monotonic() - started)

    async def _answer_known(
        self, scope: Scope, body: Body, answer: Answer, identity: Identity, services: Services, trail: Trail
    ) -> None:
        """It is known who asks, and that it may."""
        may_bring_a_file = is_upload(scope)
        try:
            trail.check(scope, services)
            if may_bring_a_file:
                body.limit, body.too_large = await allowed_size(
                    scope, services.quotas, identity.tenant, body.limit
                )
        except RingfenceError as error:
            await refuse(scope, body, answer, error)
        else:
            if announced(scope) > body.limit:
                await refuse(scope, body, answer, body.too_large or too_large(scope, body.limit))
            elif scope["type"] == "websocket" or scope["path"].endswith("/events"):
                await self._pass_on_while_valid(scope, body, answer, identity)
            else:
                await self._pass_on(scope, body, answer)
        trail.answered(scope, services, identity, answer.status)
        if may_bring_a_file and answer.status < 300:
            services.quotas.charge_disk(identity.tenant, body.seen)

    def _is_counted(self, scope: Scope, identity: Identity) -> bool:
        """Whoever puts a flood right must get through it, and so must whoever asks whether we live."""
        is_operator = identity.is_operator and bool(identity.token_sha256)
        return not is_operator and scope["path"] not in OPEN_PATHS

    async def _pass_on(self, scope: Scope, body: Body, answer: Answer) -> None:
        if scope["type"] == "websocket":
            await self._app(scope, body.receive, answer.send_raw)
            return
        if scope["method"] == "OPTIONS":
            await Response(headers={"Allow": "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"})(
                scope, body.limited, answer.send
            )
            return
        asked = scope
        if scope["method"] == "HEAD" and not _has_route(scope):
            # As ComfyUI's server: where there is a GET there is a HEAD. The server below drops the body; so do we.
            asked, answer.is_bodiless = {**scope, "method": "GET"}, True
        try:
            await self._ask(asked, body, answer)
        except LimitReachedError:
            if answer.status:
                raise
            await refuse(scope, body, answer, body.too_large or too_large(scope, body.limit))
        except ClientDisconnect:
            # No fault of ours, and nothing that anybody may fill the log with.
            log.debug(
                "%s %s: the client hung up before its body ended",
                scope["method"],
                safe_text(scope["path"], 200),
            )
            if not answer.status:
                gone = BodyError("the request ended before its body did")
                await response_to(gone, scope["path"])(scope, body.receive, answer.send)
        except Exception as error:
            if answer.status:
                raise
            await unforeseen(error, scope["method"], scope["path"])(scope, body.receive, answer.send)

    async def _ask(self, scope: Scope, body: Body, answer: Answer) -> None:
        """Let whoever stands behind the guard answer."""
        await self._app(scope, body.limited, answer.send)

    async def _pass_on_while_valid(
        self, scope: Scope, body: Body, answer: Answer, identity: Identity
    ) -> None:
        """Hang up once the token is revoked, the log-in over or single-user mode has ended."""
        services: Services = scope["app"].state.services
        failure: Exception | None = None
        async with anyio.create_task_group() as group:

            async def watch() -> None:
                while await _is_still_valid(identity, services):
                    await services.tenants.wait_for_change(_RECHECK_S)
                if scope["type"] == "websocket":
                    await answer.hang_up(_LOGGED_OUT, "the log-in has ended")
                group.cancel_scope.cancel()

            group.start_soon(watch)
            try:
                await self._pass_on(scope, body, answer)
            except Exception as error:  # noqa: BLE001 - not through the group, which would wrap it
                failure = error
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _admit(self, scope: Scope, services: Services, passage: Passage) -> Identity:
        headers = first_headers(scope)
        if scope["path"] in OPEN_PATHS:
            return Identity(LOCAL_TENANT, is_operator=False)
        # Another site's page must not reach us through the user's browser, whatever the mode, unless it was named.
        is_friend = friendly_origin(scope, services.settings) is not None
        if headers.get(b"sec-fetch-site", b"").lower() == b"cross-site" and not is_friend:
            raise ForbiddenError(
                "requests from other web sites are refused",
                hint="whoever runs this server may name them in RINGFENCE_ALLOWED_ORIGINS",
            )
        settings = services.settings
        is_single_user = await services.tenants.is_single_user()
        authorization = headers.get(b"authorization", b"").lower()
        if is_single_user:
            check_host(scope, settings.allowed_hosts, any_origin=is_friend)
        elif not authorization.startswith(b"bearer "):
            # What a browser sends by itself. A page that got our address by DNS rebinding has no token to send.
            check_host(scope, settings.allowed_hosts, any_origin=True, any_address=True)
            if authorization.startswith(b"basic ") and not is_friend:
                check_origin(scope)
        if scope.get("method") == "OPTIONS":
            return NOBODY  # answered below, before any route
        if scope["path"] in LOGIN_PATHS:
            return NOBODY  # they look at the cookie themselves
        identity = await self._identify(scope, services, is_friend=is_friend)
        if identity.is_operator:
            await passage.begin("the operator", is_held=False)
        else:
            await passage.begin(of_tenant(identity.tenant), weight=services.quotas.weight(identity.tenant))
        permissions: Permissions = scope["app"].state.permissions
        permissions.check(scope, identity)
        # Whoever puts a flood right must get through it; a page that is opened is no flood.
        if (is_single_user or not identity.is_operator) and not permissions.is_page(scope):
            await services.quotas.take_request(identity.tenant, announced(scope))
        if identity.tenant not in services.prepared:
            await anyio.to_thread.run_sync(
                prepare_tenant_directory, services.settings.data_dir, identity.tenant
            )
            services.prepared.add(identity.tenant)
        return identity

    async def _identify(self, scope: Scope, services: Services, *, is_friend: bool) -> Identity:
        """By the request's token, else by its browser's cookie.

        Raises:
            AuthError, ForbiddenError, _LogInFirstError (a browser that opens a page and is not logged in)
        """
        method = "WEBSOCKET" if scope["type"] == "websocket" else scope["method"]
        authorization = first_header(scope, b"authorization")
        if authorization is None and not await services.tenants.is_single_user():
            headers = Headers(scope=scope)
            peer = peer_of(scope, services.settings.trusted_proxies)
            secret = cookie_of(headers, peer)
            session = None if secret is None else await services.sessions.resolve(secret)
            if session is not None:
                if not is_friend:
                    check_own_page(headers, method, peer)
                return of_session(session, services.operator_token)
        try:
            return await identify(
                services.tenants,
                services.operator_token,
                authorization=authorization,
                wanted_tenant=first_header(scope, TENANT_HEADER),
            )
        except AuthError:
            if authorization is None and is_navigation(Headers(scope=scope), method):
                raise _LogInFirstError from None
            raise


class _LogInFirstError(Exception):
    """A browser opens a page here and is not logged in."""


async def _is_still_valid(identity: Identity, services: Services) -> bool:
    if not identity.token_sha256:
        return await services.tenants.is_single_user()
    if identity.session_sha256:
        return await services.sessions.find(identity.session_sha256) is not None
    return identity.is_operator or await services.tenants.find(identity.token_sha256) is not None


def _has_route(scope: Scope) -> bool:
    """True when something answers this method itself, or would never stop answering."""
    if scope["path"].endswith("/events"):
        return True
    return any(route.matches(scope)[0] is Match.FULL for route in scope["app"].router.routes)


async def _in_its_turn(
    scope: Scope, services: Services, passage: Passage, error: RingfenceError
) -> RingfenceError:
    """What to answer to a request that is refused, once it is its sender's turn: refusals take time as well."""
    if not passage.has_begun:
        try:
            await passage.begin(of_address(peer_of(scope, services.settings.trusted_proxies)))
        except RingfenceError as too_many:
            return too_many
    return error

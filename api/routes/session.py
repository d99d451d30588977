"""Logging in and out with a browser, and the sessions that are open. What a session is worth: api/sessions.py."""

from __future__ import annotations

import logging
from typing import Any, cast
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from api import audit_trail
from api.attempts import Attempts, TooManyAttemptsError
from api.auth import is_operators
from api.bodies import BodyError
from api.errors import OrjsonResponse
from api.login_page import HEADERS, login_page, session_page
from api.peers import Peer, peer_of
from api.services import Caller, Have, Services
from api.sessions import check_own_page, cookie_of, give_cookie, local_path, take_cookie
from engine import Session

log = logging.getLogger(__name__)

pages = APIRouter(include_in_schema=False)  # at /ringfence
router = APIRouter()

_FORM_BYTES = 8192
_NOT_VALID = "This token is not valid. It may have been replaced, revoked, or mistyped."
_AGENT = "user-agent"


@pages.get("/login")
async def show_login(request: Request, services: Have) -> Response:
    """The form, or for a browser that is logged in: who it is."""
    if await services.tenants.is_single_user():
        return RedirectResponse("/", 303, headers=HEADERS)
    session = await _session(request, services)
    if session is None:
        return login_page(local_path(request.query_params.get("next", "/")))
    who = "the operator" if session.is_operator else str(session.tenant)
    found = await services.sessions.list(session.tenant, of_operator=session.is_operator)
    same = [each for each in found if each.token == session.token]
    return session_page(who, same, session.secret_sha256)


@pages.post("/login")
async def log_in(request: Request, services: Have) -> Response:
    """A token for a session."""
    peer = _peer(request, services)
    check_own_page(request.headers, "POST", peer)  # nobody is to be logged in as somebody else
    form = await _form(request)
    wanted, secret = local_path(form.get("next", "/")), form.get("token", "").strip()
    if await services.tenants.is_single_user():
        return RedirectResponse("/", 303, headers=HEADERS)
    attempts = cast("Attempts", request.app.state.attempts)
    try:
        attempts.check(peer.group)
    except TooManyAttemptsError as error:
        answer: Response = login_page(wanted, problem=f"{error.message}; {error.hint}.", status=429)
        answer.headers["Retry-After"] = str(error.retry_after_s)
        return answer
    token = await services.tenants.authenticate(secret)
    if token is None and not is_operators(secret, services.operator_token):
        attempts.failed(peer.group)
        audit_trail.logged_in(services, "", "", str(peer.address), failed=True)
        log.warning("a log-in from %s failed", peer.address)
        return login_page(wanted, problem=_NOT_VALID, status=401)
    before = cookie_of(request.headers, peer)
    if before is not None:
        await services.sessions.end(before)
    opened = await services.sessions.start(token, request.headers.get(_AGENT, ""))
    name = "operator" if token is None else f"token {token.name}"
    audit_trail.logged_in(services, name, "" if token is None else token.tenant, str(peer.address))
    log.info("%s logged in from %s", "the operator" if token is None else token.tenant, peer.address)
    answer = RedirectResponse(wanted, 303, headers=HEADERS)
    give_cookie(answer, opened, peer, max_age_s=services.settings.session_max_s)
    return answer


@pages.post("/logout")
async def log_out(request: Request, services: Have) -> Response:
    """End the session of this browser."""
    peer = _peer(request, services)
    check_own_page(request.headers, "POST", peer)
    secret = cookie_of(request.headers, peer)
    if secret is not None:
        await services.sessions.end(secret)
    answer = RedirectResponse("/", 303, headers={**HEADERS, "Clear-Site-Data": '"cache"'})
    take_cookie(answer, peer)
    return answer


@router.get("/sessions")
async def list_sessions(services: Have, caller: Caller) -> Response:
    """Browsers that are logged in as the caller's tenant (for the operator, without a tenant: as the operator)."""
    found = await services.sessions.list(caller.tenant, of_operator=await _is_own(services, caller))
    return OrjsonResponse({"sessions": [_shown(each, caller.session_sha256) for each in found]})


@router.delete("/sessions/{session_id}")
async def end_session(session_id: str, services: Have, caller: Caller) -> Response:
    """Log a browser out."""
    own = await _is_own(services, caller)
    await services.sessions.end_by_id(caller.tenant, session_id, of_operator=own)
    return OrjsonResponse({"ended": session_id})


async def _is_own(services: Services, caller: Caller) -> bool:
    return caller.is_operator and not await services.tenants.exists(caller.tenant)


async def _session(request: Request, services: Services) -> Session | None:
    if await services.tenants.is_single_user():
        return None
    secret = cookie_of(request.headers, _peer(request, services))
    return None if secret is None else await services.sessions.resolve(secret)


def _peer(request: Request, services: Services) -> Peer:
    return peer_of(request.scope, services.settings.trusted_proxies)


async def _form(request: Request) -> dict[str, str]:
    if (
        request.headers.get("content-type", "").partition(";")[0].strip()
        != "application/x-www-form-urlencoded"
    ):
        raise BodyError("this takes the form of the log-in page")
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _FORM_BYTES:
            raise BodyError("the form is too large")
    try:
        fields = parse_qs(body.decode("utf-8"), keep_blank_values=True, max_num_fields=8)
    except ValueError:
        raise BodyError("this takes the form of the log-in page") from None
    return {name: values[0] for name, values in fields.items()}


def _shown(session: Session, current: str) -> dict[str, Any]:
    return {
        "id": session.id,
        "token": None if session.token is None else session.token.name,
        "created_ms": session.created_ms,
        "used_ms": session.used_ms,
        "agent": session.agent,
        "current": session.secret_sha256 == current,
    }

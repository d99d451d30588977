"""Tenants, which are the operator's to create and remove, and their tokens, which a tenant's admin makes and revokes.

Creating the first tenant ends single-user mode, for good.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any, cast

from fastapi import APIRouter, Request
from starlette.responses import Response

from api.auth import ForbiddenError
from api.bodies import BodyError, read_object
from api.errors import OrjsonResponse
from api.remarks import remarks_of
from api.services import Caller, Have, Operator
from api.usage import usage_of
from api.websocket_clients import Connections
from engine import (
    ALL_SCOPES,
    FIRST_TOKEN,
    Tenant,
    TenantUnknownError,
    Token,
    parse_scopes,
    parse_token_name,
    remove_tenant,
    tenant_directory,
)
from policies import parse_tenant_id, safe_text

log = logging.getLogger(__name__)

router = APIRouter()

_LONGEST_S = 10 * 365 * 24 * 3600


@router.get("/tenants")
async def list_tenants(services: Have, _operator: Operator) -> Response:
    """All tenants; tokens cannot be read."""
    return OrjsonResponse({"tenants": [_shown(tenant) for tenant in await services.tenants.list()]})


@router.post("/tenants")
async def create_tenant(request: Request, services: Have, _operator: Operator) -> Response:
    """Create one; the answer holds its token, this once."""
    name = (await read_object(request)).get("name")
    if not isinstance(name, str):
        raise BodyError("name must be a string")
    was_single_user = await services.tenants.is_single_user()
    remarks_of(request.scope).details["name"] = name
    tenant, token = await services.tenants.create(name)
    answer = {"tenant": _shown(tenant), "token": token}
    if was_single_user:
        # From the next request on this caller needs it, and until now only the server's disk had it.
        answer["operator_token"] = services.operator_token
    return OrjsonResponse(answer, 201)


@router.delete("/tenants/{name}")
async def delete_tenant(name: str, services: Have, _operator: Operator, keep_files: bool = False) -> Response:
    """End all that a tenant runs and remove what is its own; ``keep_files`` leaves its directory."""
    tenant = parse_tenant_id(name)
    data_dir = services.settings.data_dir
    places = (tenant_directory(data_dir, tenant), data_dir / "uploads" / tenant)
    removal = await remove_tenant(
        services.engine, services.database, services.tenants, places, tenant, keep_files=keep_files
    )
    services.prepared.discard(tenant)  # another one of this name begins with new directories
    return OrjsonResponse({"removed": dataclasses.asdict(removal)})


@router.post("/tenants/{name}/rotate-token")
async def rotate_token(name: str, services: Have, _operator: Operator, token: str = FIRST_TOKEN) -> Response:
    """Replace a token, the first one unless another is named; the old one is refused at once."""
    tenant, secret = await services.tenants.rotate_token(name, token)
    log.info("token %s of tenant %s was replaced", safe_text(token, 40), tenant.name)
    return OrjsonResponse({"tenant": _shown(tenant), "token": secret})


@router.get("/tokens")
async def list_tokens(services: Have, caller: Caller) -> Response:
    """The tenant's tokens; their secrets cannot be read."""
    found = await services.tenants.tokens(caller.tenant)
    return OrjsonResponse({"tokens": [_shown_token(token) for token in found]})


@router.post("/tokens")
async def create_token(request: Request, services: Have, caller: Caller) -> Response:
    """One more: ``name``, ``scopes`` (a list), ``expires_s`` (optional). The answer holds its secret, this once."""
    body = await read_object(request)
    name, names, life_s = body.get("name"), body.get("scopes"), body.get("expires_s")
    if not isinstance(name, str):
        raise BodyError("name must be a string")
    if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
        raise BodyError("scopes must be a list of names", hint=f"scopes are {', '.join(sorted(ALL_SCOPES))}")
    if life_s is not None and (
        not isinstance(life_s, int) or isinstance(life_s, bool) or not 1 <= life_s <= _LONGEST_S
    ):
        raise BodyError(f"expires_s must be a whole number of seconds, 1 to {_LONGEST_S}")
    remarks_of(request.scope).details.update(name=name, scopes=", ".join(names))
    scopes = parse_scopes(names)
    if not scopes <= caller.scopes:
        missing = ", ".join(sorted(scopes - caller.scopes))
        raise ForbiddenError(
            f"your token lacks the scope {missing}, so it cannot give it", hint="ask for fewer scopes"
        )
    token, secret = await services.tenants.create_token(
        caller.tenant, parse_token_name(name), scopes, life_s=life_s
    )
    log.info("token %s of tenant %s was made", token.name, token.tenant)
    return OrjsonResponse({"token": _shown_token(token), "secret": secret}, 201)


@router.delete("/tokens/{name}")
async def revoke_token(name: str, services: Have, caller: Caller) -> Response:
    """Refuse a token, and the sessions that began with it, from now on."""
    await services.tenants.revoke_token(caller.tenant, parse_token_name(name))
    log.info("token %s of tenant %s was revoked", name, caller.tenant)
    return OrjsonResponse({"revoked": name})


def _shown_token(token: Token) -> dict[str, Any]:
    return {
        "name": token.name,
        "scopes": sorted(token.scopes),
        "issued_ms": token.issued_ms,
        "expires_ms": token.expires_ms,
        "used_ms": token.used_ms,
    }


@router.get("/tenants/{name}/usage")
async def tenant_usage(name: str, request: Request, services: Have, caller: Caller) -> Response:
    """What holds for a tenant, where that is written, and how much of it is used; of one's own, or for the operator."""
    if not caller.is_operator and name != caller.tenant:
        # The same words whether or not there is such a tenant.
        raise ForbiddenError("this is another tenant's", hint="ask for your own")
    tenant = parse_tenant_id(name)
    if not await services.tenants.exists(tenant):
        raise TenantUnknownError(f"there is no tenant '{tenant}'", hint="see them all: ringfence tenant list")
    open_sockets = cast("Connections", request.app.state.connections).open_of(tenant)
    return OrjsonResponse(await usage_of(services, tenant, open_sockets))


def _shown(tenant: Tenant) -> dict[str, Any]:
    return {"name": tenant.name, "created_ms": tenant.created_ms, "rotated_ms": tenant.rotated_ms}

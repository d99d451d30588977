"""Tenants and their tokens: the operator's routes. Creating the first one ends single-user mode."""

from __future__ import annotations

from typing import Any, cast

from fastapi import APIRouter, Request
from starlette.responses import Response

from api.auth import ForbiddenError
from api.bodies import BodyError, read_object
from api.errors import OrjsonResponse
from api.services import Caller, Have, Operator
from api.usage import usage_of
from api.websocket import Connections
from engine import Tenant, TenantUnknownError
from policies import parse_tenant_id

router = APIRouter()


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
    tenant, token = await services.tenants.create(name)
    answer = {"tenant": _shown(tenant), "token": token}
    if was_single_user:
        # From the next request on this caller needs it, and until now only the server's disk had it.
        answer["operator_token"] = services.operator_token
    return OrjsonResponse(answer, 201)


@router.post("/tenants/{name}/rotate-token")
async def rotate_token(name: str, services: Have, _operator: Operator) -> Response:
    """Replace a token; the old one is refused at once."""
    tenant, token = await services.tenants.rotate_token(name)
    return OrjsonResponse({"tenant": _shown(tenant), "token": token})


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

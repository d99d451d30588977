"""Tenants and their tokens: the operator's routes. Creating the first one ends single-user mode."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from api.bodies import BodyError, read_object
from api.errors import OrjsonResponse
from api.services import Have, Operator
from engine import Tenant

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


def _shown(tenant: Tenant) -> dict[str, Any]:
    return {"name": tenant.name, "created_ms": tenant.created_ms, "rotated_ms": tenant.rotated_ms}

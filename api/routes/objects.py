"""The catalogue of nodes."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from api.errors import OrjsonResponse
from api.services import ForTenant, Have

router = APIRouter()


@router.get("/object_info")
async def object_info(services: Have, tenant: ForTenant) -> Response:
    """Every node the tenant can use."""
    return OrjsonResponse(await services.engine.object_info(tenant))


@router.get("/object_info/{class_type:path}")
async def object_info_of(class_type: str, services: Have, tenant: ForTenant) -> Response:
    """One node; an empty object when there is none of that name."""
    return OrjsonResponse(await services.engine.object_info(tenant, class_type))

"""The catalogue of nodes."""

from __future__ import annotations

from typing import cast

from fastapi import APIRouter, Request
from starlette.responses import Response

from api.catalogue import Catalogues
from api.errors import OrjsonResponse
from api.services import ForTenant, Have

router = APIRouter()


@router.get("/object_info")
async def object_info(request: Request, services: Have, tenant: ForTenant) -> Response:
    """Every node the tenant can use."""
    catalogues = cast("Catalogues", request.app.state.catalogues)
    return await catalogues.response(tenant, await services.engine.catalogue(tenant), request.headers)


@router.get("/object_info/{class_type:path}")
async def object_info_of(class_type: str, services: Have, tenant: ForTenant) -> Response:
    """One node; an empty object when there is none of that name."""
    return OrjsonResponse(await services.engine.object_info(tenant, class_type))

"""What has run."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api.bodies import read_object, string_list
from api.errors import OrjsonResponse
from api.services import ForTenant, Have, identity_of, services_of

router = APIRouter()

_Int = Annotated[int | None, Query(ge=-(2**31), lt=2**31)]


@router.get("/history")
async def get_history(
    services: Have, tenant: ForTenant, max_items: _Int = None, offset: _Int = None
) -> Response:
    """Entries by prompt id, oldest first."""
    entries = await services.engine.history(tenant, max_items=max_items, offset=offset)
    return OrjsonResponse({prompt_id: _comfyui(entry) for prompt_id, entry in entries.items()})


@router.get("/history/{prompt_id}")
async def get_history_entry(request: Request, prompt_id: str) -> Response:
    """One entry, or an empty object while it has not ended."""
    services, tenant = services_of(request), identity_of(request).tenant
    entry = await services.engine.history_entry(tenant, prompt_id)
    return OrjsonResponse({} if entry is None else {prompt_id: _comfyui(entry)})


@router.post("/history")
async def post_history(request: Request, services: Have, tenant: ForTenant) -> Response:
    """Forget entries."""
    body = await read_object(request)
    if body.get("clear"):
        await services.engine.clear_history(tenant)
    if "delete" in body:
        await services.engine.delete_history(tenant, string_list(body["delete"], "delete"))
    return Response()


def _comfyui(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry without what only /ringfence/v1/prompts shows."""
    return {key: value for key, value in entry.items() if key != "ringfence"}

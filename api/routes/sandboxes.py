"""The sandboxes that run now."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from api.errors import OrjsonResponse
from api.services import Caller, Have, Services
from api.trees import FileUnknownError
from policies import SandboxId, TenantId, parse_sandbox_id, safe_text
from sandbox import SandboxState

router = APIRouter()


@router.get("/sandboxes")
async def list_sandboxes(
    services: Have, caller: Caller, all_tenants: bool = False, spares: bool = False
) -> Response:
    """The caller's sandboxes; the operator may ask for everybody's. Spares, which run nothing yet, when asked for."""
    if all_tenants:
        caller.require_operator()
    await services.engine.sandboxes.refresh()
    found = services.engine.sandboxes.list(None if all_tenants else caller.tenant)
    shown = [_shown(info) for info in found if spares or info.state is not SandboxState.SPARE]
    return OrjsonResponse({"sandboxes": shown})


@router.get("/sandboxes/{sandbox}/logs")
async def sandbox_logs(
    sandbox: str, services: Have, caller: Caller, limit: Annotated[int, Query(ge=1, le=10_000)] = 1000
) -> Response:
    """What the pack printed, newest last; bounded and made safe."""
    tenant, sandbox_id = _find(services, caller.tenant, caller.is_operator, sandbox)
    lines = await services.engine.sandboxes.logs(tenant, sandbox_id, limit)
    return OrjsonResponse({"sandbox": sandbox_id, "lines": [_plain(line) for line in lines]})


@router.delete("/sandboxes/{sandbox}")
async def stop_sandbox(sandbox: str, services: Have, caller: Caller) -> Response:
    """End a sandbox; the node that runs in it fails, and the next call starts another."""
    tenant, sandbox_id = _find(services, caller.tenant, caller.is_operator, sandbox)
    stopped = await services.engine.sandboxes.stop(tenant, sandbox_id)
    return OrjsonResponse({"sandbox": sandbox_id, "stopped": stopped})


def _find(services: Services, tenant: TenantId, is_operator: bool, text: str) -> tuple[TenantId, SandboxId]:
    wanted = parse_sandbox_id(text)
    for info in services.engine.sandboxes.list(None if is_operator else tenant):
        if info.id == wanted:
            return info.tenant, info.id
    raise FileUnknownError(
        f"there is no sandbox '{safe_text(text, 80)}'", hint="see those that run: ringfence sandbox list"
    )


def _shown(info: Any) -> dict[str, Any]:
    return _plain(info)


def _plain(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}

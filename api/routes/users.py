"""The frontend's user and settings. A tenant is one user, so ComfyUI's picker of users never shows."""

from __future__ import annotations

import asyncio
import io
from collections import defaultdict
from typing import Any

import anyio
import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from api.bodies import read_json, read_object
from api.errors import OrjsonResponse, comfy_error, dump_json
from api.routes.userdata import user_tree
from api.services import ForTenant, Have, Services
from api.trees import FileUnknownError
from policies import TenantId

router = APIRouter()

SETTINGS_FILE = "comfy.settings.json"
_SETTINGS_LIMIT = 8 * 1024 * 1024
_writing: defaultdict[TenantId, asyncio.Lock] = defaultdict(asyncio.Lock)  # read-modify-write, one at a time


@router.get("/users")
async def get_users() -> Response:
    """Single-user form: who the tenant is was settled by the token."""
    return OrjsonResponse({"storage": "server", "migrated": True})


@router.post("/users")
async def post_users() -> Response:
    """Users are tenants, and tenants are the operator's."""
    return OrjsonResponse(comfy_error("forbidden", "users are made with 'ringfence tenant create'"), 403)


@router.get("/settings")
async def get_settings(services: Have, tenant: ForTenant) -> Response:
    """All settings."""
    return OrjsonResponse(await _read(services, tenant))


@router.get("/settings/{name:path}")
async def get_setting(name: str, services: Have, tenant: ForTenant) -> Response:
    """One setting, or null."""
    return OrjsonResponse((await _read(services, tenant)).get(name))


@router.post("/settings")
async def post_settings(request: Request, services: Have, tenant: ForTenant) -> Response:
    """Merge settings in, one level deep."""
    await _merge(services, tenant, await read_object(request))
    return Response()


@router.post("/settings/{name:path}")
async def post_setting(name: str, request: Request, services: Have, tenant: ForTenant) -> Response:
    """Set one setting."""
    await _merge(services, tenant, {name: await read_json(request)})
    return Response()


async def _read(services: Services, tenant: TenantId) -> dict[str, Any]:
    tree = user_tree(services.settings, tenant)
    try:
        raw = await anyio.to_thread.run_sync(lambda: tree.read(SETTINGS_FILE, limit=_SETTINGS_LIMIT))
        value = orjson.loads(raw)
    except (FileUnknownError, orjson.JSONDecodeError):
        return {}
    return value if isinstance(value, dict) else {}


async def _merge(services: Services, tenant: TenantId, changes: dict[str, Any]) -> None:
    tree = user_tree(services.settings, tenant)
    async with _writing[tenant]:
        raw = dump_json({**await _read(services, tenant), **changes})
        await anyio.to_thread.run_sync(lambda: tree.write(SETTINGS_FILE, io.BytesIO(raw), overwrite=True))

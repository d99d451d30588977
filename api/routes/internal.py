"""ComfyUI's /internal routes, as far as its frontend needs them. No log of the host is a tenant's to read."""

from __future__ import annotations

import anyio
from fastapi import APIRouter, Request
from starlette.responses import Response

from api.bodies import BodyError, read_object
from api.errors import OrjsonResponse
from api.files import FILE_TYPES, file_tree
from api.routes.models import FOLDERS
from api.services import ForTenant, Have

router = APIRouter()


@router.get("/logs")
async def logs() -> Response:
    """Empty: what packs print is under /ringfence/v1/sandboxes/ID/logs."""
    return OrjsonResponse("")


@router.get("/logs/raw")
async def raw_logs() -> Response:
    """Empty as well, in the terminal's form."""
    return OrjsonResponse({"entries": [], "size": {"cols": 80, "rows": 24}})


@router.patch("/logs/subscribe")
async def subscribe(request: Request) -> Response:
    """Accepted; there is nothing to send."""
    try:
        await read_object(request, optional=True)
    except BodyError:
        return Response(status_code=400)
    return Response()


@router.get("/folder_paths")
async def folder_paths() -> Response:
    """Virtual directories: no path of this machine is shown."""
    return OrjsonResponse({name: [f"models/{name}"] for name in FOLDERS})


@router.get("/files/{kind}")
async def files(kind: str, services: Have, tenant: ForTenant) -> Response:
    """Names in the top level of a directory, newest first."""
    if kind not in FILE_TYPES:
        return OrjsonResponse({"error": "the directory must be input, output or temp"}, 400)
    tree = file_tree(services.settings.data_dir, tenant, kind)
    entries = [entry for entry in await anyio.to_thread.run_sync(tree.entries) if not entry.is_directory]
    return OrjsonResponse([e.path for e in sorted(entries, key=lambda e: e.modified, reverse=True)])

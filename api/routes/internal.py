"""ComfyUI's /internal routes, as far as its frontend needs them. Logs are the tenant's packs', never the host's."""

from __future__ import annotations

import anyio
from fastapi import APIRouter, Request
from starlette.responses import Response

from api import logs
from api.bodies import BodyError, read_object
from api.errors import OrjsonResponse
from api.files import FILE_TYPES, file_tree
from api.routes.models import FOLDERS
from api.services import ForTenant, Have
from api.websocket_clients import Connections

router = APIRouter()


@router.get("/logs")
async def all_logs(services: Have, tenant: ForTenant) -> Response:
    """What the tenant's packs printed lately, as one text."""
    lines = await logs.lines_of(services.engine, tenant)
    return OrjsonResponse("".join(f"{line.entry['t']} - {line.entry['m']}" for line in lines))


@router.get("/logs/raw")
async def raw_logs(services: Have, tenant: ForTenant) -> Response:
    """The same line by line."""
    lines = await logs.lines_of(services.engine, tenant)
    return OrjsonResponse({"entries": [line.entry for line in lines], "size": logs.SIZE})


@router.patch("/logs/subscribe")
async def subscribe(request: Request, tenant: ForTenant) -> Response:
    """Whether a client's WebSocket shall get ``logs`` messages."""
    body = await read_object(request)
    client_id, enabled = body.get("clientId"), body.get("enabled")
    if not isinstance(client_id, str) or not isinstance(enabled, bool):
        raise BodyError("clientId must be a string and enabled a truth value")
    connections: Connections = request.app.state.connections
    connections.want_logs(tenant, client_id, enabled=enabled)
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

"""What this server is, and the small answers that the frontend asks for when it starts."""

from __future__ import annotations

import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import anyio
import psutil
from fastapi import APIRouter
from starlette.responses import Response

from api.errors import OrjsonResponse
from api.gpus import Gpu, gpus_of
from api.messages import server_flags
from api.services import ForTenant, Have

router = APIRouter()

COMFYUI_VERSION = "0.25.0"
"""The upstream version whose API this is; frontends decide by it what they may use."""

FRONTEND_VERSION = "1.27.10"
TEMPLATES_VERSION = "0.1.95"


@cache
def ringfence_version() -> str:
    """Our own version."""
    try:
        return version("ringfence")
    except PackageNotFoundError:
        return "0.1.0"


@router.get("/system_stats")
async def system_stats(services: Have, tenant: ForTenant) -> Response:
    """Memory of the machine and of the GPUs that policies give; the nodes' own share is their sandboxes' caps."""
    memory = psutil.virtual_memory()
    cards = await anyio.to_thread.run_sync(gpus_of, services.policies, tenant)
    return OrjsonResponse(
        {
            "system": {
                "os": sys.platform,
                "ram_total": memory.total,
                "ram_free": memory.available,
                "comfyui_version": COMFYUI_VERSION,
                "required_frontend_version": FRONTEND_VERSION,
                "installed_templates_version": TEMPLATES_VERSION,
                "required_templates_version": TEMPLATES_VERSION,
                "python_version": sys.version,
                "pytorch_version": "in the sandboxes",
                "embedded_python": False,
                "argv": ["ringfence", ringfence_version()],
                "deploy_environment": "ringfence",
            },
            "devices": [_device(card) for card in cards]
            or [
                {
                    "name": "cpu",
                    "type": "cpu",
                    "index": None,
                    "vram_total": memory.total,
                    "vram_free": memory.available,
                    "torch_vram_total": memory.total,
                    "torch_vram_free": memory.available,
                }
            ],
        }
    )


def _device(card: Gpu) -> dict[str, str | int]:
    return {
        "name": f"cuda:{card.index} {card.name}",
        "type": "cuda",
        "index": card.index,
        "vram_total": card.total,
        "vram_free": card.free,
        "torch_vram_total": 0,  # what torch keeps in the process that answers: this one has no torch
        "torch_vram_free": 0,
    }


@router.get("/features")
async def features(services: Have) -> Response:
    """Feature flags, as on the WebSocket."""
    return OrjsonResponse(server_flags(services.settings.max_upload_bytes))


@router.get("/node_replacements")
async def node_replacements(services: Have, tenant: ForTenant) -> Response:
    """Old node classes and their successors, as the tenant's packs declare them."""
    return OrjsonResponse(await services.engine.node_replacements(tenant))

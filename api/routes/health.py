"""Is it alive, is it ready, and the figures."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from api import metrics
from api.errors import OrjsonResponse
from api.services import Have, Operator
from policies import LOCAL_TENANT, RingfenceError

router = APIRouter()


@router.get("/healthz")
async def healthz() -> Response:
    """The process answers."""
    return OrjsonResponse({"status": "ok"})


@router.get("/readyz")
async def readyz(services: Have) -> Response:
    """Prompts can be taken: the database answers and, in single-user mode, the core nodes are there."""
    try:
        await services.database.check()
        if await services.tenants.is_single_user():
            # The first question loads them, so a sandbox has been started by the time we say yes.
            types = await services.engine.extensions.node_types(LOCAL_TENANT)
            if not any(node.core for node in types.values()):
                return _not_ready("the core nodes could not be loaded; see 'ringfence extension list'")
    except RingfenceError as error:
        return _not_ready(error.message)
    return OrjsonResponse({"status": "ready"})


def _not_ready(reason: str) -> Response:
    return OrjsonResponse({"status": "not ready", "reason": reason}, 503)


@router.get("/metrics")
async def get_metrics(services: Have, _operator: Operator) -> Response:
    """Figures for Prometheus; with tenants, only for the operator."""
    return Response(await metrics.render(services), media_type=CONTENT_TYPE_LATEST)

"""Is it alive, is it ready, and the figures."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from api import metrics
from api.errors import OrjsonResponse
from api.services import Have, Operator
from policies import RingfenceError

router = APIRouter()


@router.get("/healthz")
async def healthz() -> Response:
    """The process answers."""
    return OrjsonResponse({"status": "ok"})


@router.get("/readyz")
async def readyz(services: Have) -> Response:
    """Prompts can be taken: the database answers."""
    try:
        await services.database.check()
    except RingfenceError as error:
        return OrjsonResponse({"status": "not ready", "reason": error.message}, 503)
    return OrjsonResponse({"status": "ready"})


@router.get("/metrics")
async def get_metrics(services: Have, _operator: Operator) -> Response:
    """Figures for Prometheus; with tenants, only for the operator."""
    return Response(await metrics.render(services), media_type=CONTENT_TYPE_LATEST)

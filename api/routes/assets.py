"""ComfyUI's assets API, which is switched off here (feature flag ``assets``: false); the Comfy API v2 has assets."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException
from starlette.responses import Response

from api.errors import OrjsonResponse

router = APIRouter()

_ELSEWHERE = frozenset({"from-workflow", "import", "exports", "remote-metadata"})  # of the cloud only
_METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE"]


@router.api_route("/assets", methods=_METHODS, include_in_schema=False)
@router.api_route("/assets/{_rest:path}", methods=_METHODS, include_in_schema=False)
@router.api_route("/tags", methods=["GET"], include_in_schema=False)
async def switched_off(_rest: str = "") -> Response:
    """As ComfyUI answers where its assets are off; clients then use the other routes for files."""
    if _rest.split("/", maxsplit=1)[0] in _ELSEWHERE:
        raise HTTPException(404)
    message = (
        "the assets API is switched off; files are at /view, assets of the Comfy API v2 at /api/v2/assets"
    )
    return OrjsonResponse({"error": {"code": "SERVICE_DISABLED", "message": message, "details": {}}}, 503)

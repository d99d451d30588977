"""The Comfy API v2: assets, which are files by id over contents by hash."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.datastructures import UploadFile
from starlette.responses import Response

from api.assets import Announced, checked_content_type, checked_name, checked_tags, parse_hash
from api.bodies import BodyError, read_object
from api.errors import OrjsonResponse
from api.files import DescriptorResponse
from api.routes.v2_jobs import ERRORS
from api.services import ForTenant
from api.v2.dependencies import Base, HaveJobs
from api.v2.models import AssetView, ErrorEnvelope
from api.v2.outputs import asset_view
from engine import Asset

router = APIRouter()

_UNKNOWN: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorEnvelope, "description": "No such asset (`not_found`)"}
}

_TEXT = {"type": "string"}
_TAGS = {"type": "array", "items": _TEXT}


def _takes(kind: str, required: str, **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "required": [required], "properties": properties}
    return {"requestBody": {"required": True, "content": {kind: {"schema": schema}}}}


_UPLOAD = _takes(
    "multipart/form-data",
    "file",
    file={"type": "string", "format": "binary"},
    file_path=_TEXT,
    content_type=_TEXT,
    expected_hash=_TEXT,
    tags=_TAGS,
)
_FROM_HASH = _takes("application/json", "hash", hash=_TEXT, file_path=_TEXT, tags=_TAGS)


@router.post(
    "/assets",
    status_code=201,
    response_model=AssetView,
    responses={
        **ERRORS,
        200: {"model": AssetView, "description": "The content was there already"},
        409: {"model": ErrorEnvelope, "description": "`hash_mismatch`: other bytes than announced arrived"},
        413: {"model": ErrorEnvelope, "description": "`payload_too_large`"},
        422: {"model": ErrorEnvelope, "description": "`idempotency_key_reuse`"},
        507: {"model": ErrorEnvelope, "description": "`storage_full`"},
    },
    summary="Upload an asset",
    openapi_extra=_UPLOAD,
)
async def upload(request: Request, jobs: HaveJobs, tenant: ForTenant, base: Base) -> Response:
    """A form with ``file`` and, as wanted, ``file_path``, ``content_type``, ``expected_hash`` and ``tags``."""
    key = request.headers.get("idempotency-key") or None
    async with request.form(max_files=1, max_fields=100, max_part_size=64 * 1024) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise BodyError("the form needs a file in the field 'file'")
        expected = form.get("expected_hash")
        told = Announced(
            name=checked_name(form.get("file_path") or file.filename),
            content_type=checked_content_type(_text(form.get("content_type")) or file.content_type),
            expected_hash=parse_hash(expected) if expected else None,
            key=key[:255] if key else None,
            tags=checked_tags([tag for tag in form.getlist("tags") if isinstance(tag, str)]),
        )
        asset, is_new = await jobs.assets.store(tenant, file.file, told)
    return _answer(asset, base, created_new=is_new)


@router.post(
    "/assets/from-hash",
    status_code=201,
    response_model=AssetView,
    responses={
        **ERRORS,
        200: {"model": AssetView, "description": "The tenant has this asset already"},
        404: {"model": ErrorEnvelope, "description": "`blob_not_found`: upload the content"},
    },
    summary="An asset of content that is there",
    openapi_extra=_FROM_HASH,
)
async def from_hash(request: Request, jobs: HaveJobs, tenant: ForTenant, base: Base) -> Response:
    """Another name for content that the same tenant uploaded before."""
    body = await read_object(request)
    name = body.get("file_path")
    told = Announced(
        name=checked_name(name) if name else "",
        content_type="",
        tags=checked_tags(body.get("tags") or []),
    )
    asset, is_new = await jobs.assets.from_hash(tenant, parse_hash(body.get("hash")), told)
    return OrjsonResponse(
        asset_view(asset, base, created_new=False).model_dump(mode="json"), 201 if is_new else 200
    )


@router.head(
    "/assets/by-hash/{digest}",
    responses={
        **ERRORS,
        200: {"description": "It is there"},
        404: {"description": "It is not"},
    },
    summary="Is this content there",
)
async def has_content(digest: str, jobs: HaveJobs, tenant: ForTenant) -> Response:
    """Whether the tenant has content with this hash."""
    known = await jobs.assets.rows.by_hash(tenant, parse_hash(digest))
    return Response(status_code=200 if known is not None else 404)


@router.get(
    "/assets/{asset_id}", response_model=AssetView, responses={**ERRORS, **_UNKNOWN}, summary="One asset"
)
async def get_asset(asset_id: str, jobs: HaveJobs, tenant: ForTenant, base: Base) -> Response:
    """What an asset is."""
    asset = await jobs.assets.rows.get(tenant, asset_id)
    return OrjsonResponse(asset_view(asset, base).model_dump(mode="json"))


@router.head("/assets/{asset_id}/content", include_in_schema=False)
@router.get(
    "/assets/{asset_id}/content",
    status_code=200,
    response_class=DescriptorResponse,
    responses={
        **ERRORS,
        **_UNKNOWN,
        200: {"description": "The bytes", "content": {"application/octet-stream": {}}},
        206: {"description": "The part that `Range` asked for", "content": {"application/octet-stream": {}}},
    },
    summary="An asset's content",
)
async def get_content(asset_id: str, jobs: HaveJobs, tenant: ForTenant) -> Response:
    """The bytes, whole or a ``Range`` of them."""
    return await jobs.assets.answer(tenant, await jobs.assets.rows.get(tenant, asset_id))


@router.delete(
    "/assets/{asset_id}",
    status_code=204,
    responses={**ERRORS, **_UNKNOWN, 204: {"description": "It is gone"}},
    summary="Delete an asset",
)
async def delete_asset(asset_id: str, jobs: HaveJobs, tenant: ForTenant) -> Response:
    """Forget an asset, and its content when no other asset has the same."""
    await jobs.assets.delete(tenant, asset_id)
    return Response(status_code=204)


def _answer(asset: Asset, base: str, *, created_new: bool) -> OrjsonResponse:
    view = asset_view(asset, base, created_new=created_new)
    return OrjsonResponse(view.model_dump(mode="json"), 201 if created_new else 200)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None

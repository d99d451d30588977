"""Files that users bring and nodes make."""

from __future__ import annotations

import io
import json
import os
from functools import partial
from typing import IO, Annotated

import anyio
from fastapi import APIRouter, Query, Request
from starlette.datastructures import FormData, UploadFile
from starlette.responses import Response

from api.assets import parse_hash
from api.bodies import BodyError
from api.errors import OrjsonResponse
from api.files import DescriptorResponse, annotated, file_headers, file_tree
from api.previews import Previews, identity_of, wish_of
from api.services import ForTenant, Have, Services
from api.threads import file_work
from api.trees import FileRefusedError, FileUnknownError, Tree
from api.v2.dependencies import jobs_of
from policies import PathEscapeError, TenantId

router = APIRouter()

_TRUE = frozenset({"true", "1"})
"""What replaces a file, and nothing else: a client that writes "True" reads the new name, as in ComfyUI."""


@router.head("/view", include_in_schema=False)
@router.get(
    "/view",
    status_code=200,
    response_class=DescriptorResponse,
    responses={
        200: {"description": "The file, or the re-encoded picture", "content": {"*/*": {}}},
        206: {"description": "The part of it that `Range` asked for", "content": {"*/*": {}}},
        400: {"description": "The name or type cannot be used, or the file is no picture"},
        403: {"description": "The path leads out of its directory"},
        404: {"description": "No such file"},
    },
    summary="A file",
)
async def view(
    request: Request,
    services: Have,
    tenant: ForTenant,
    filename: str | None = None,
    kind: Annotated[str, Query(alias="type")] = "output",
    subfolder: str = "",
    preview: str | None = None,
    channel: str | None = None,
) -> Response:
    """A file as it is on disk; ``preview`` and ``channel`` ask for a picture that a sandbox re-encodes.

    ``filename`` may also be ``blake3:`` and an asset's hash.
    """
    if filename is None:
        raise FileUnknownError("the filename is missing")
    if filename.startswith("blake3:"):
        return await _by_hash(request, tenant, filename)
    name, kind = annotated(filename, kind)
    if not name or name.startswith("/") or ".." in name:
        raise FileRefusedError("this filename cannot be used")
    tree = file_tree(services.settings.data_dir, tenant, kind)
    base = name.rsplit("/", 1)[-1]
    path = f"{subfolder}/{base}" if subfolder else base
    descriptor = await anyio.to_thread.run_sync(tree.open_file, path)
    wish = wish_of(preview, channel)
    if wish is None:
        return DescriptorResponse(descriptor, base)
    identity = identity_of(descriptor)
    os.close(descriptor)
    previews: Previews = request.app.state.previews
    data, media_type = await previews.get(tenant, identity, (base, subfolder, kind), wish)
    return Response(data, media_type=media_type, headers=file_headers(base, inline=True))


async def _by_hash(request: Request, tenant: TenantId, name: str) -> Response:
    assets = jobs_of(request).assets
    asset = await assets.rows.by_hash(tenant, parse_hash(name))
    if asset is None:
        raise FileUnknownError("there is no asset with this hash")
    return await assets.answer(tenant, asset)


@router.post("/upload/image")
async def upload_image(request: Request, services: Have, tenant: ForTenant) -> Response:
    """Store a file of any kind; another file of the same name is not replaced unless asked for."""
    async with request.form(max_files=8, max_fields=32, max_part_size=64 * 1024) as form:
        upload = form.get("image")
        if not isinstance(upload, UploadFile) or not upload.filename:
            raise FileRefusedError("the form needs a file in the field 'image'")
        kind = _text(form, "type", "input")
        subfolder = _text(form, "subfolder", "")
        overwrite = _text(form, "overwrite", "") in _TRUE
        tree = file_tree(services.settings.data_dir, tenant, kind)
        name = await _keep(tree, subfolder, upload.filename, upload.file, overwrite=overwrite)
    return OrjsonResponse({"name": name, "subfolder": subfolder, "type": kind})


@router.post("/upload/mask", summary="Merge a mask into its picture")
async def upload_mask(request: Request, services: Have, tenant: ForTenant) -> Response:
    """Give the picture that ``original_ref`` names the transparency of the uploaded one, as a new file."""
    async with request.form(max_files=8, max_fields=32, max_part_size=64 * 1024) as form:
        upload = form.get("image")
        if not isinstance(upload, UploadFile) or not upload.filename:
            raise FileRefusedError("the form needs a file in the field 'image'")
        original, original_tree = _original(form, services, tenant)
        kind = _text(form, "type", "input")
        subfolder = _text(form, "subfolder", "")
        overwrite = _text(form, "overwrite", "") in _TRUE
        tree = file_tree(services.settings.data_dir, tenant, kind)
        name = upload.filename
        # Both are checked before a sandbox starts for them.
        await file_work(partial(original_tree.entry, f"{original[1]}/{original[0]}".lstrip("/")))
        merged = await services.media.mask(tenant, original, partial(file_work, upload.file.read))
    name = await _keep(tree, subfolder, name, io.BytesIO(merged), overwrite=overwrite)
    return OrjsonResponse({"name": name, "subfolder": subfolder, "type": kind})


async def _keep(tree: Tree, subfolder: str, name: str, stream: IO[bytes], *, overwrite: bool) -> str:
    try:
        if not overwrite:
            return await file_work(partial(tree.add, subfolder, name, stream))
        path = f"{subfolder}/{name}" if subfolder else name
        await file_work(lambda: tree.write(path, stream, overwrite=True))
    except PathEscapeError as error:
        # 400 is what ComfyUI answers here, 403 where a file is read.
        raise FileRefusedError(error.message, hint=error.hint) from error
    return name


def _original(form: FormData, services: Services, tenant: TenantId) -> tuple[tuple[str, str, str], Tree]:
    try:
        reference = json.loads(_text(form, "original_ref", ""))
    except (ValueError, RecursionError):
        reference = None
    if not isinstance(reference, dict) or not isinstance(reference.get("filename"), str):
        raise BodyError("original_ref must be a JSON object with a filename")
    subfolder, kind = reference.get("subfolder") or "", reference.get("type") or "output"
    if not isinstance(subfolder, str) or not isinstance(kind, str):
        raise BodyError("subfolder and type of original_ref must be texts")
    name, kind = annotated(reference["filename"], kind)
    if not name or name.startswith("/") or ".." in name:
        raise FileRefusedError("this filename of the original cannot be used")
    return (name.rsplit("/", 1)[-1], subfolder, kind), file_tree(services.settings.data_dir, tenant, kind)


def _text(form: FormData, name: str, default: str) -> str:
    value = form.get(name, default)
    return value if isinstance(value, str) else default

"""Files that users bring and nodes make."""

from __future__ import annotations

import json
from functools import partial
from typing import Annotated

import anyio
from fastapi import APIRouter, Query, Request
from starlette.datastructures import FormData, UploadFile
from starlette.responses import Response

from api.bodies import BodyError
from api.errors import OrjsonResponse, comfy_error
from api.files import DescriptorResponse, annotated, file_tree
from api.services import ForTenant, Have
from api.threads import file_work
from api.trees import FileRefusedError, FileUnknownError

router = APIRouter()

_TRUE = frozenset({"true", "1"})


@router.head("/view", include_in_schema=False)
@router.get("/view")
async def view(
    services: Have,
    tenant: ForTenant,
    filename: str = "",
    kind: Annotated[str, Query(alias="type")] = "output",
    subfolder: str = "",
    preview: str | None = None,
    channel: str = "rgba",
) -> Response:
    """One file, as it is on disk.

    ``preview`` and ``channel`` ask for a re-encoded image. That means decoding a stranger's file, which this process
    never does; the raw file is sent, with a header that says so, until a sandboxed converter exists.
    """
    if not filename:
        raise FileUnknownError("the filename is missing")
    name, kind = annotated(filename, kind)
    if not name or name.startswith("/") or ".." in name:
        raise FileRefusedError("this filename cannot be used")
    tree = file_tree(services.settings.data_dir, tenant, kind)
    base = name.rsplit("/", 1)[-1]
    path = f"{subfolder}/{base}" if subfolder else base
    descriptor = await anyio.to_thread.run_sync(tree.open_file, path)
    headers = {"Ringfence-Raw": "1"} if preview is not None or channel != "rgba" else {}
    return DescriptorResponse(descriptor, base, headers=headers)


@router.post("/upload/image")
async def upload_image(request: Request, services: Have, tenant: ForTenant) -> Response:
    """Store a file of any kind; another file of the same name is not replaced unless asked for."""
    async with request.form(max_files=8, max_fields=32, max_part_size=64 * 1024) as form:
        upload = form.get("image")
        if not isinstance(upload, UploadFile) or not upload.filename:
            raise FileRefusedError("the form needs a file in the field 'image'")
        kind = _text(form, "type", "input")
        subfolder = _text(form, "subfolder", "")
        overwrite = _text(form, "overwrite", "").lower() in _TRUE
        tree = file_tree(services.settings.data_dir, tenant, kind)
        name = upload.filename
        stream = upload.file
        if overwrite:
            path = f"{subfolder}/{name}" if subfolder else name
            await file_work(lambda: tree.write(path, stream, overwrite=True))
        else:
            name = await file_work(partial(tree.add, subfolder, name, stream))
    return OrjsonResponse({"name": name, "subfolder": subfolder, "type": kind})


@router.post("/upload/mask")
async def upload_mask(request: Request) -> Response:
    """Merging a mask into its picture decodes both, which this process never does."""
    async with request.form(max_files=8, max_fields=32, max_part_size=64 * 1024) as form:
        try:
            reference = json.loads(_text(form, "original_ref", ""))
        except ValueError:
            reference = None
        if not isinstance(reference, dict) or not isinstance(reference.get("filename"), str):
            raise BodyError("original_ref must be a JSON object with a filename")
    return OrjsonResponse(
        comfy_error(
            "not_implemented",
            "masks cannot be merged on the server yet",
            "merging decodes a picture, which only a sandbox may do; upload the mask as an image of its own",
        ),
        501,
    )


def _text(form: FormData, name: str, default: str) -> str:
    value = form.get(name, default)
    return value if isinstance(value, str) else default

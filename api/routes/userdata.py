"""A tenant's own files: workflows and whatever the frontend keeps.

A path is one URL-encoded component ("workflows%2Fa.json"), and routers decode before they route: so these routes read
the raw path themselves.
"""

from __future__ import annotations

import os
import tempfile
from typing import Any
from urllib.parse import unquote

import anyio
from fastapi import APIRouter, Request
from starlette.responses import Response

from api.errors import OrjsonResponse
from api.files import DescriptorResponse
from api.services import ForTenant, Have
from api.settings import Settings
from api.threads import file_work
from api.trees import Entry, FileExistsInTheWayError, FileRefusedError, FileUnknownError, Tree
from engine import tenant_directory
from policies import TenantId

router = APIRouter()

_SPOOL = 1024 * 1024
# Where ComfyUI's page keeps files of its own. They come with the first file, and are empty until then: a 404 for each
# at every start would be an error in the page's console that nobody can mend.
_OF_THE_PAGE = ("workflows", "subgraphs", "keybindings")


def user_tree(settings: Settings, tenant: TenantId) -> Tree:
    """The root of a tenant's user data: ComfyUI's default user, where packs look for it too."""
    root = tenant_directory(settings.data_dir, tenant) / "user" / "default"
    return Tree(root, max_bytes=settings.max_user_bytes)


@router.get("/userdata")
async def list_userdata(
    services: Have,
    tenant: ForTenant,
    dir: str = "",  # noqa: A002 - ComfyUI's name
    recurse: str = "",
    full_info: str = "",
    split: str = "",
) -> Response:
    """Files in a directory."""
    if not dir:
        return Response("a directory is needed: ?dir=", 400, media_type="text/plain")
    tree = user_tree(services.settings, tenant)
    try:
        entries = await file_work(lambda: tree.entries(dir, recurse=recurse.lower() == "true"))
    except FileUnknownError:
        if dir.strip("/") not in _OF_THE_PAGE:
            raise
        entries = []
    # As in ComfyUI: the page's own index of bookmarks ("workflows/.index.json") is no workflow to list.
    shown = (entry for entry in entries if not entry.is_directory and not _is_hidden(entry.path))
    files = sorted(shown, key=lambda entry: entry.path)
    if full_info.lower() == "true":
        return OrjsonResponse([_info(entry) for entry in files])
    if split.lower() == "true":
        return OrjsonResponse([[entry.path, *entry.path.split("/")] for entry in files])
    return OrjsonResponse([entry.path for entry in files])


@router.get("/v2/userdata")
async def list_userdata_v2(services: Have, tenant: ForTenant, path: str = "") -> Response:
    """Everything below a path, directories first."""
    tree = user_tree(services.settings, tenant)
    entries = await file_work(lambda: tree.walk(path))
    entries.sort(key=lambda entry: (not entry.is_directory, entry.path.rsplit("/", 1)[-1].lower()))
    prefix = path.strip("/")
    return OrjsonResponse(
        [
            {
                "name": entry.path.rsplit("/", 1)[-1],
                "path": f"{prefix}/{entry.path}" if prefix else entry.path,
                "type": "directory" if entry.is_directory else "file",
                **(
                    {} if entry.is_directory else {"size": entry.size, "modified": int(entry.modified * 1000)}
                ),
            }
            for entry in entries
        ]
    )


@router.head("/userdata/{_file:path}", include_in_schema=False)
@router.get("/userdata/{_file:path}")
async def get_userdata(request: Request, services: Have, tenant: ForTenant) -> Response:
    """One file."""
    path = "/".join(_segments(request))
    if not path:
        raise FileRefusedError("the name of a file is needed")
    descriptor = await anyio.to_thread.run_sync(user_tree(services.settings, tenant).open_file, path)
    # The user's own style sheet for the web frontend is the one file that a page may take for more than data.
    style = {"Content-Type": "text/css; charset=utf-8"} if path == "user.css" else None
    return DescriptorResponse(descriptor, path.rsplit("/", 1)[-1], headers=style)


@router.post("/userdata/{_file:path}")
async def post_userdata(
    request: Request, services: Have, tenant: ForTenant, overwrite: str = "true", full_info: str = "false"
) -> Response:
    """Store a file (the raw body), or move one ("<file>/move/<dest>")."""
    segments = _segments(request)
    tree = user_tree(services.settings, tenant)
    replace = overwrite.lower() != "false"
    try:
        if len(segments) == 3 and segments[1] == "move":
            path = segments[2]
            entry = await file_work(lambda: tree.move(segments[0], path, overwrite=replace))
        else:
            path = "/".join(segments)
            with tempfile.SpooledTemporaryFile(max_size=_SPOOL) as spool:
                async for chunk in request.stream():
                    # Past the spool's size it is a real file; the writes are small, but still not the loop's work.
                    await anyio.to_thread.run_sync(spool.write, chunk)
                spool.seek(0, os.SEEK_SET)
                entry = await file_work(lambda: tree.write(path, spool, overwrite=replace))
    except FileExistsInTheWayError as error:
        return Response(error.message, 409, media_type="text/plain")
    return OrjsonResponse(_info(entry) if full_info.lower() == "true" else path)


@router.delete("/userdata/{_file:path}")
async def delete_userdata(request: Request, services: Have, tenant: ForTenant) -> Response:
    """Remove one file."""
    await anyio.to_thread.run_sync(user_tree(services.settings, tenant).delete, "/".join(_segments(request)))
    return Response(status_code=204)


def _segments(request: Request) -> list[str]:
    raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    _, found, rest = raw.decode("latin-1").partition("?")[0].partition("/userdata/")
    if not found:
        raise FileUnknownError("there is nothing here")
    return [_decoded(segment) for segment in rest.split("/")]


def _decoded(segment: str) -> str:
    try:
        text = unquote(segment, errors="strict")
        return unquote(text, errors="strict") if "%" in text else text  # some clients encode twice
    except UnicodeDecodeError:
        raise FileRefusedError("the file name is not UTF-8") from None


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


def _info(entry: Entry) -> dict[str, Any]:
    return {
        "path": entry.path,
        "size": entry.size,
        "modified": int(entry.modified * 1000),
        "created": int(entry.created * 1000),
    }

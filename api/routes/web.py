"""What packs bring for the web page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from starlette.responses import FileResponse, Response

from api import pack_web
from api.errors import OrjsonResponse
from api.files import DescriptorResponse, OpenFileResponse, content_type
from api.routes.frontend import content_security_policy
from api.services import ForTenant, Have, Services
from api.threads import file_work
from api.trees import FileUnknownError
from engine import PackFiles
from policies import RingfenceError, TenantId

T = TypeVar("T")

router = APIRouter()
files_router = APIRouter()  # without a twin below /api

_SCRIPTS = {".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css"}
_TYPES = {
    **_SCRIPTS,
    ".json": "application/json",
    ".html": "text/html",
    ".htm": "text/html",
    ".svg": "image/svg+xml",
    ".md": "text/markdown",
    ".wasm": "application/wasm",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".ttf": "font/ttf",
    ".map": "application/json",
}
_PICTURES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_MEDIA_OF_TEMPLATES = ("image/", "video/", "audio/")


class WebFileResponse(OpenFileResponse):
    """A file of a pack's web directory, with the type that a browser needs to run or show it."""

    def __init__(self, descriptor: int, name: str, origins: tuple[str, ...]) -> None:
        suffix = PurePosixPath(name).suffix.lower()
        kind = _TYPES.get(suffix) or content_type(name)[0]
        # A page or worker of a pack may have scripts in it, and talk to whom the frontend may talk to.
        policy = content_security_policy(("'unsafe-inline'",), origins)
        headers = {"Cache-Control": cache_control(name), "Content-Security-Policy": policy}
        super().__init__(descriptor, kind, headers)


def cache_control(name: str) -> str:
    """How long a browser may keep a file: pictures for a day; what changes with a pack not at all."""
    return "private, max-age=86400" if name.lower().endswith(_PICTURES) else "no-store"


@router.get("/extensions", summary="Scripts of packs", responses={200: {"description": "URL paths"}})
async def list_scripts(request: Request, services: Have, tenant: ForTenant) -> Response:
    """Scripts that the web page loads: the page's own, then those of packs whose policy says ``web_files: true``."""
    frontend = getattr(request.app.state, "frontend", None)
    own: Sequence[str] = getattr(frontend, "scripts", ())
    found = await _of_packs(services, tenant, pack_web.scripts)
    return OrjsonResponse([*own, *(path for path in found if path not in own)])


@router.get("/i18n", summary="Translations of packs", responses={200: {"description": "Texts by language"}})
async def translations(request: Request, services: Have, tenant: ForTenant) -> Response:
    """Texts by language, merged over all packs."""
    return _json(await _of_packs(services, tenant, _texts(request).translations))


@router.get(
    "/workflow_templates",
    summary="Example workflows of packs",
    responses={200: {"description": "Names by pack"}},
)
async def templates(request: Request, services: Have, tenant: ForTenant) -> Response:
    """Names of example workflows by pack."""
    return _json(await _of_packs(services, tenant, _texts(request).templates))


@router.get(
    "/global_subgraphs",
    summary="Subgraphs of packs",
    responses={200: {"description": "Subgraphs by id, with their content"}},
)
async def subgraphs(request: Request, services: Have, tenant: ForTenant) -> Response:
    """Subgraphs by id; the list has the contents already, so that nobody asks for each."""
    return _json(await _of_packs(services, tenant, _texts(request).subgraphs))


@router.get(
    "/global_subgraphs/{subgraph_id}",
    summary="One subgraph",
    responses={200: {"description": "The subgraph, or null"}},
)
async def subgraph(subgraph_id: str, request: Request, services: Have, tenant: ForTenant) -> Response:
    """One subgraph, or null."""
    packs = await services.engine.extensions.pack_files(tenant)
    return OrjsonResponse(await file_work(partial(_texts(request).subgraph, packs, subgraph_id)))


@files_router.get(
    "/extensions/{name}/{path:path}",
    status_code=200,
    response_class=FileResponse,
    responses={
        200: {"description": "The file", "content": {"*/*": {}}},
        404: {"description": "No such file, or the policy does not allow it"},
    },
    summary="A file of a pack's web directory",
)
async def web_file(name: str, path: str, services: Have, tenant: ForTenant) -> Response:
    """A file of a pack's web directory; only with ``web_files: true`` in the pack's policy."""
    packs = await services.engine.extensions.pack_files(tenant)

    def opened() -> int:
        for root in pack_web.web_roots(packs):
            if root.name == name:
                return root.tree.open_file(root.path(path))
        raise FileUnknownError("there is no such web file")

    try:
        descriptor = await file_work(opened)
    except RingfenceError as error:
        raise FileUnknownError("there is no such web file") from error
    return WebFileResponse(descriptor, path.rpartition("/")[2], services.settings.frontend_origins)


@files_router.get(
    "/api/workflow_templates/{pack}/{file}",
    status_code=200,
    response_class=DescriptorResponse,
    responses={
        200: {"description": "The workflow, or its picture", "content": {"*/*": {}}},
        404: {"description": "No such file"},
    },
    summary="An example workflow",
)
async def template_file(pack: str, file: str, services: Have, tenant: ForTenant) -> Response:
    """An example workflow of a pack, or a picture of it."""
    kind, inline = content_type(file)
    if not inline or not (file.endswith(".json") or kind.startswith(_MEDIA_OF_TEMPLATES)):
        raise FileUnknownError("there is no such template")
    packs = await services.engine.extensions.pack_files(tenant)
    descriptor = await file_work(partial(pack_web.template_file, packs, pack, file))
    if descriptor is None:
        raise FileUnknownError("there is no such template")
    return DescriptorResponse(descriptor, file)


def _json(text: bytes) -> Response:
    return Response(text, media_type="application/json; charset=utf-8")


async def _of_packs(services: Services, tenant: TenantId, read: Callable[[Sequence[PackFiles]], T]) -> T:
    """What ``read`` finds in the files of the tenant's packs, off the event loop."""
    return await file_work(partial(read, await services.engine.extensions.pack_files(tenant)))


def _texts(request: Request) -> pack_web.PackTexts:
    texts: Any = request.app.state.pack_texts
    assert isinstance(texts, pack_web.PackTexts)  # noqa: S101 - set by app.py
    return texts

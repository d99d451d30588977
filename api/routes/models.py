"""Names of the models in a tenant's models directory. No model is opened here but for its header (model_files.py)."""

from __future__ import annotations

import os
from functools import partial

import anyio
from fastapi import APIRouter, Request
from starlette.responses import Response

from api.errors import OrjsonResponse
from api.model_files import find_cover, metadata, read_cover
from api.previews import Previews
from api.services import ForTenant, Have
from api.settings import Settings
from api.trees import Entry, FileRefusedError, FileUnknownError, Tree
from engine import MediaRefusedError, tenant_directory
from policies import RingfenceError, TenantId

router = APIRouter()

FOLDERS = (
    "checkpoints", "loras", "vae", "text_encoders", "diffusion_models", "clip_vision", "style_models", "embeddings",
    "diffusers", "vae_approx", "controlnet", "gligen", "upscale_models", "hypernetworks", "photomaker", "classifiers",
    "model_patches", "audio_encoders",
)  # fmt: skip
_SUFFIXES = (
    ".safetensors",
    ".sft",
    ".ckpt",
    ".pt",
    ".pt2",
    ".pth",
    ".bin",
    ".pkl",
    ".gguf",
    ".onnx",
    ".yaml",
    ".json",
)


@router.get("/models")
async def get_folders() -> Response:
    """The folder keys."""
    return OrjsonResponse(list(FOLDERS))


@router.get("/models/{folder}")
async def get_models(folder: str, services: Have, tenant: ForTenant) -> Response:
    """Names of the models in one folder."""
    entries = await _models(services.settings, tenant, folder)
    return OrjsonResponse([entry.path for entry in entries])


@router.get("/embeddings")
async def get_embeddings(services: Have, tenant: ForTenant) -> Response:
    """Names of the embeddings, without suffix."""
    entries = await _models(services.settings, tenant, "embeddings")
    return OrjsonResponse([os.path.splitext(entry.path)[0] for entry in entries])  # noqa: PTH122 - a name


@router.get("/experiment/models")
async def get_experiment_folders() -> Response:
    """The folder keys with their directories, which are virtual: no path of this machine is shown."""
    return OrjsonResponse([{"name": name, "folders": [f"models/{name}"]} for name in FOLDERS])


@router.get("/experiment/models/{folder}")
async def get_experiment_models(folder: str, services: Have, tenant: ForTenant) -> Response:
    """The models in one folder, with size and times."""
    return OrjsonResponse(
        [
            {
                "name": entry.path,
                "pathIndex": 0,
                "modified": entry.modified,
                "created": entry.created,
                "size": entry.size,
            }
            for entry in await _models(services.settings, tenant, folder)
        ]
    )


@router.get("/experiment/models/preview/{folder}/{path_index}/{filename:path}")
async def get_model_preview(
    folder: str, path_index: str, filename: str, request: Request, services: Have, tenant: ForTenant
) -> Response:
    """The picture beside a model or in its header, as WebP; 404 where there is none that can be read."""
    if folder not in FOLDERS or path_index != "0":
        return Response(status_code=404)
    tree = Tree(tenant_directory(services.settings.data_dir, tenant) / "models")
    previews: Previews = request.app.state.previews
    try:
        cover = await anyio.to_thread.run_sync(find_cover, tree, f"{folder}/{filename}")
        if cover is None:
            return Response(status_code=404)
        read = partial(anyio.to_thread.run_sync, read_cover, tree, cover)
        data, media_type = await previews.cover(tenant, cover.identity, read)
    except (FileUnknownError, FileRefusedError, MediaRefusedError):
        return Response(status_code=404)
    return Response(data, media_type=media_type, headers={"Content-Security-Policy": "sandbox"})


@router.get("/view_metadata/{folder}")
async def view_metadata(folder: str, services: Have, tenant: ForTenant, filename: str = "") -> Response:
    """The text that a safetensors file carries about itself."""
    if folder not in FOLDERS or not filename.endswith(".safetensors"):
        return Response(status_code=404)
    tree = Tree(tenant_directory(services.settings.data_dir, tenant) / "models")
    try:
        texts = await anyio.to_thread.run_sync(metadata, tree, f"{folder}/{filename}")
    except (RingfenceError, OSError, ValueError):
        texts = None
    return Response(status_code=404) if texts is None else OrjsonResponse(texts)


async def _models(settings: Settings, tenant: TenantId, folder: str) -> list[Entry]:
    if folder not in FOLDERS:
        raise FileUnknownError("there is no such model folder")
    tree = Tree(tenant_directory(settings.data_dir, tenant) / "models")
    try:
        entries = await anyio.to_thread.run_sync(lambda: tree.entries(folder, recurse=True))
    except FileUnknownError:
        return []
    return sorted((e for e in entries if e.path.lower().endswith(_SUFFIXES)), key=lambda e: e.path)

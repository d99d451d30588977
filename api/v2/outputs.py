"""A job's outputs as assets: every file and text that nodes showed, nothing silently dropped."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from api.files import FILE_TYPES, content_type, file_tree
from api.settings import Settings
from api.threads import file_work
from api.v2.models import AssetView, OutputType, OutputView
from engine import Asset, FileRef, output_asset_id
from policies import RingfenceError, TenantId

_KINDS: dict[str, OutputType] = {
    "images": "image", "gifs": "video", "video": "video", "videos": "video", "audio": "audio", "text": "text",
    "latents": "latent", "files": "file", "3d": "file",
}  # fmt: skip
_TEXT_LIMIT = 1024 * 1024
_MOST = 10_000  # of one job
_URL_LIFE = timedelta(hours=24)


def output_assets(
    tenant: TenantId, job_id: str, outputs: Mapping[str, Any]
) -> list[tuple[Asset, OutputType]]:
    """The assets in ComfyUI's ``outputs`` of a prompt, sizes not looked up yet."""
    found: dict[str, tuple[Asset, OutputType]] = {}
    for node_id, key, index, item in _items(outputs):
        if len(found) >= _MOST:
            break
        if isinstance(item, dict) and isinstance(item.get("filename"), str):
            file = FileRef(
                item["filename"], str(item.get("subfolder") or ""), str(item.get("type") or "output")
            )
            if file.type not in FILE_TYPES:
                continue
            asset_id = output_asset_id(tenant, job_id, file.type, file.subfolder, file.filename)
            found.setdefault(
                asset_id, (_file_asset(asset_id, job_id, node_id, file), _kind(key, file.filename))
            )
        elif isinstance(item, str) and key == "text":
            asset_id = output_asset_id(tenant, job_id, "text", node_id, str(index))
            found[asset_id] = (_text_asset(asset_id, job_id, node_id, index, item), "text")
    return list(found.values())


async def with_sizes(
    settings: Settings, tenant: TenantId, assets: list[tuple[Asset, OutputType]]
) -> list[tuple[Asset, OutputType]]:
    """The same with the size of each file; 0 where it is gone."""
    if not assets:
        return []
    return await file_work(partial(_with_sizes, settings, tenant, assets))


def output_view(asset: Asset, kind: OutputType, base: str) -> OutputView:
    """An output as the API shows it."""
    return OutputView(
        node_id=asset.node_id or "",
        name=asset.name.rpartition("/")[2],
        type=kind,
        content_type=asset.content_type,
        size_bytes=asset.size,
        id=asset.id,
        url=_url(base, asset.id),
        url_expires_at=datetime.now(UTC) + _URL_LIFE,
        job_id=asset.job_id or "",
    )


def asset_view(asset: Asset, base: str, *, created_new: bool | None = None) -> AssetView:
    """An asset as the API shows it."""
    return AssetView(
        id=asset.id,
        hash=None if asset.hash is None else f"blake3:{asset.hash}",
        size_bytes=asset.size,
        content_type=asset.content_type,
        file_path=asset.name,
        created_new=created_new,
        created_at=datetime.fromtimestamp(asset.created_ms / 1000, UTC),
        url=_url(base, asset.id),
        url_expires_at=datetime.now(UTC) + _URL_LIFE,
        job_id=asset.job_id,
        tags=list(asset.tags),
    )


def _url(base: str, asset_id: str) -> str:
    return f"{base}/api/v2/assets/{asset_id}/content"


def _items(outputs: Mapping[str, Any]) -> Iterable[tuple[str, str, int, Any]]:
    for node_id, ui in outputs.items():
        for key, values in ui.items() if isinstance(ui, dict) else ():
            for index, value in enumerate(values if isinstance(values, list) else ()):
                yield node_id, key, index, value


def _kind(key: str, filename: str) -> OutputType:
    media = content_type(filename)[0].partition("/")[0]
    if key in ("images", "gifs") or key not in _KINDS:
        # Animated pictures come as images, videos as either: the file says what it is.
        if media in ("image", "video", "audio"):
            return "image" if media == "image" else "video" if media == "video" else "audio"
        return _KINDS.get(key, "file") if media != "application" else "file"
    return _KINDS[key]


def _file_asset(asset_id: str, job_id: str, node_id: str, file: FileRef) -> Asset:
    now = time.time_ns() // 1_000_000
    return Asset(
        id=asset_id, hash=None, size=0, content_type=content_type(file.filename)[0], name=file.path[-512:],
        job_id=job_id, created_ms=now, updated_ms=now, accessed_ms=now, file=file, node_id=node_id,
        tags=(file.type,),
    )  # fmt: skip


def _text_asset(asset_id: str, job_id: str, node_id: str, index: int, text: str) -> Asset:
    now = time.time_ns() // 1_000_000
    kept = text[:_TEXT_LIMIT]
    return Asset(
        id=asset_id, hash=None, size=len(kept.encode("utf-8", "replace")), content_type="text/plain",
        name=f"text_{index:05}.txt", job_id=job_id, created_ms=now, updated_ms=now, accessed_ms=now,
        node_id=node_id, tags=("output",), text=kept,
    )  # fmt: skip


def _with_sizes(
    settings: Settings, tenant: TenantId, assets: list[tuple[Asset, OutputType]]
) -> list[tuple[Asset, OutputType]]:
    found = []
    for asset, kind in assets:
        size = asset.size
        if asset.file is not None:
            try:
                size = file_tree(settings.data_dir, tenant, asset.file.type).entry(asset.file.path).size
            except RingfenceError:
                size = 0  # the file is gone, or is no file
        found.append((_sized(asset, size), kind))
    return found


def _sized(asset: Asset, size: int) -> Asset:
    return Asset(**{**{name: getattr(asset, name) for name in Asset.__slots__}, "size": size})

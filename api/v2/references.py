"""``core/ASSET`` references in a workflow: each becomes the name of an input file with the asset's content."""

from __future__ import annotations

from typing import Any

from api.assets import AssetStore
from engine import AssetUnknownError
from policies import RingfenceError, TenantId, safe_text

_MOST = 1000  # different assets in one workflow


class MissingAssetError(RingfenceError):
    """A workflow names assets that are not there."""

    code = "missing-asset"

    def __init__(self, missing: list[str]) -> None:
        shown = [safe_text(item, 80) for item in missing[:20]]
        super().__init__(
            f"the workflow names assets that are not there: {', '.join(shown)}",
            hint="upload them first; info.id is an asset's id",
        )
        self.details = {"missing_ids": shown}


async def resolve(store: AssetStore, tenant: TenantId, workflow: dict[str, Any]) -> dict[str, Any]:
    """The workflow with names of files where it had references.

    Raises:
        MissingAssetError: which ones.
        StorageFullError
    """
    ids: dict[str, None] = {}
    missing: list[str] = []
    _collect(workflow, ids, missing)
    if len(ids) > _MOST:
        raise MissingAssetError([f"more than {_MOST} assets"])
    names: dict[str, str] = {}
    copied: dict[str, str] = {}  # one copy of a content, or a thousand names of it would fill the disk
    for asset_id in ids:
        try:
            asset = await store.rows.get(tenant, asset_id)
            name = copied.get(asset.hash or "") or await store.as_input(tenant, asset)
            names[asset_id] = name
            if asset.hash is not None:
                copied[asset.hash] = name
        except AssetUnknownError:
            missing.append(asset_id)
        except RingfenceError as error:
            if error.code != "not-found":
                raise
            missing.append(asset_id)
    if missing:
        raise MissingAssetError(missing)
    resolved = _replaced(workflow, names) if names else workflow
    return resolved if isinstance(resolved, dict) else workflow


def _collect(value: Any, ids: dict[str, None], missing: list[str]) -> None:
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting.extend(item)
        elif isinstance(item, dict):
            if item.get("__type") != "core/ASSET":
                waiting.extend(item.values())
                continue
            found = _id(item)
            if found is None:
                missing.append("a reference without info.id")
            else:
                ids[found] = None


def _replaced(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, list):
        return [_replaced(item, names) for item in value]
    if isinstance(value, dict):
        if value.get("__type") == "core/ASSET":
            return names[_id(value) or ""]
        return {key: _replaced(item, names) for key, item in value.items()}
    return value


def _id(reference: dict[str, Any]) -> str | None:
    info = reference.get("info")
    found = info.get("id") if isinstance(info, dict) else None
    return found if isinstance(found, str) and found and len(found) <= 64 else None

"""Rows of assets: what a tenant uploaded, by content, and what its jobs made, by file. Bytes are ``asset_files.py``'s.

An uploaded asset has a hash and its bytes are a blob of ours that no sandbox can reach. A job's output has none: its
file may be changed by the pack that wrote it, so a hash of it would promise what nobody keeps.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from engine.database import Database, decode, encode
from engine.errors import EngineError
from engine.submissions import KeyReusedError
from engine.tables import assets_table
from policies import TenantId

JSON = Any

ASSETS_LIMIT: Final = 200_000
"""Rows per tenant."""

_t = assets_table.c
_OUTPUTS = uuid.UUID("6f0c1d0e-5b1c-4a59-9c0e-0a7d3a7b6c11")
_BATCH = 200


class AssetUnknownError(EngineError):
    """There is no such asset."""

    code = "not-found"


class AssetsFullError(EngineError):
    """A tenant has as many assets as it may have."""

    code = "storage-full"


@dataclass(frozen=True, slots=True)
class FileRef:
    """A file as nodes name it: ComfyUI's ``filename``, ``subfolder`` and ``type``."""

    filename: str
    subfolder: str
    type: str

    @property
    def path(self) -> str:
        """Relative to the directory of its type."""
        return f"{self.subfolder}/{self.filename}" if self.subfolder else self.filename


@dataclass(frozen=True, slots=True)
class Asset:
    """One asset; times in ms since the epoch."""

    id: str
    hash: str | None
    size: int
    content_type: str
    name: str
    job_id: str | None
    created_ms: int
    updated_ms: int
    accessed_ms: int
    file: FileRef | None = None
    node_id: str | None = None
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, JSON] = field(default_factory=dict)
    preview_id: str | None = None
    text: str | None = None  # of an output that is no file


@dataclass(frozen=True, slots=True)
class NewAsset:
    """An upload about to be recorded."""

    hash: str
    size: int
    content_type: str
    name: str
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, JSON] = field(default_factory=dict)
    preview_id: str | None = None


class Assets:
    """The assets of all tenants."""

    def __init__(self, database: Database, *, limit: int = ASSETS_LIMIT) -> None:
        self._database = database
        self._limit = limit

    async def add(self, tenant: TenantId, new: NewAsset, *, key: str | None = None) -> tuple[Asset, bool]:
        """Record an upload; the asset, and whether it is new (else: the same key came with the same content).

        Raises:
            KeyReusedError: the key was used for other content.
            AssetsFullError
        """
        now = _now_ms()
        asset = Asset(
            id=str(uuid.uuid4()), hash=new.hash, size=new.size, content_type=new.content_type, name=new.name,
            job_id=None, created_ms=now, updated_ms=now, accessed_ms=now, tags=new.tags, metadata=new.metadata,
            preview_id=new.preview_id,
        )  # fmt: skip
        async with self._database.write() as connection:
            query = sa.select(assets_table).where(_t.tenant == tenant, _t.idempotency_key == key)
            found = None if key is None else (await connection.execute(query)).one_or_none()
            if found is not None and found.hash != new.hash:
                raise KeyReusedError(
                    "this idempotency key came with other content before", hint="send a new key"
                )
            if found is not None:
                return _asset(found), False
            await self._refuse_if_full(connection, tenant)
            try:
                await connection.execute(sa.insert(assets_table).values(_row(tenant, asset, key)))
            except IntegrityError as error:  # databases with several writers only; the transaction is over
                raise KeyReusedError(
                    "this idempotency key came twice at the same time", hint="send the request again"
                ) from error
        return asset, True

    async def register_outputs(self, tenant: TenantId, outputs: Sequence[Asset]) -> None:
        """Record files that a job made; those that are recorded already stay as they are."""
        async with self._database.write() as connection:
            for start in range(0, len(outputs), _BATCH):
                batch = {asset.id: asset for asset in outputs[start : start + _BATCH]}
                query = sa.select(_t.id).where(_t.tenant == tenant, _t.id.in_(batch))
                known = set((await connection.execute(query)).scalars())
                rows = [_row(tenant, asset, None) for name, asset in batch.items() if name not in known]
                if rows:
                    await connection.execute(sa.insert(assets_table), rows)
            # Files that nobody asked for by id for longest lose theirs; the next look at their job gives it back.
            made = sa.select(_t.sequence).where(_t.tenant == tenant, _t.hash.is_(None))
            beyond = made.order_by(_t.sequence.desc()).offset(self._limit).limit(1)
            last = (await connection.execute(beyond)).scalar_one_or_none()
            if last is not None:
                await connection.execute(
                    sa.delete(assets_table).where(_t.tenant == tenant, _t.hash.is_(None), _t.sequence <= last)
                )

    async def get(self, tenant: TenantId, asset_id: str) -> Asset:
        """One asset.

        Raises:
            AssetUnknownError
        """
        query = sa.select(assets_table).where(_t.tenant == tenant, _t.id == asset_id)
        async with self._database.read() as connection:
            row = (await connection.execute(query)).one_or_none()
        if row is None:
            raise AssetUnknownError("there is no such asset", hint="it may have been deleted")
        return _asset(row)

    async def by_hash(self, tenant: TenantId, digest: str) -> Asset | None:
        """The tenant's oldest asset with this content, or None."""
        query = sa.select(assets_table).where(_t.tenant == tenant, _t.hash == digest)
        async with self._database.read() as connection:
            row = (await connection.execute(query.order_by(_t.sequence).limit(1))).one_or_none()
        return None if row is None else _asset(row)

    async def all(self, tenant: TenantId) -> Sequence[Asset]:
        """The tenant's assets, oldest first; filters are the caller's."""
        query = sa.select(assets_table).where(_t.tenant == tenant).order_by(_t.sequence)
        async with self._database.read() as connection:
            return [_asset(row) for row in await connection.execute(query)]

    async def update(self, tenant: TenantId, asset: Asset) -> None:
        """Store a changed name, tags, metadata, preview or times."""
        row = _row(tenant, asset, None)
        kept = {key: row[key] for key in ("name", "updated_ms", "accessed_ms", "document")}
        async with self._database.write() as connection:
            await connection.execute(
                sa.update(assets_table).where(_t.tenant == tenant, _t.id == asset.id).values(kept)
            )

    async def delete(self, tenant: TenantId, asset_id: str) -> bool:
        """Forget an asset; True when its content belongs to no other asset of the tenant any more.

        Raises:
            AssetUnknownError
        """
        of_tenant = _t.tenant == tenant
        async with self._database.write() as connection:
            query = sa.select(_t.hash).where(of_tenant, _t.id == asset_id)
            row = (await connection.execute(query)).one_or_none()
            if row is None:
                raise AssetUnknownError("there is no such asset", hint="it may have been deleted")
            await connection.execute(sa.delete(assets_table).where(of_tenant, _t.id == asset_id))
            if row.hash is None:
                return True
            others = sa.select(sa.func.count()).where(of_tenant, _t.hash == row.hash)
            return int((await connection.execute(others)).scalar_one()) == 0

    async def stored_bytes(self, tenant: TenantId) -> int:
        """Bytes of the tenant's blobs, each content once."""
        blobs = sa.select(_t.hash, sa.func.max(_t.size).label("size"))
        blobs = blobs.where(_t.tenant == tenant, _t.hash.is_not(None)).group_by(_t.hash)
        query = sa.select(sa.func.coalesce(sa.func.sum(blobs.subquery().c.size), 0))
        async with self._database.read() as connection:
            return int((await connection.execute(query)).scalar_one())

    async def _refuse_if_full(self, connection: Any, tenant: TenantId) -> None:
        query = sa.select(sa.func.count()).select_from(assets_table)
        query = query.where(_t.tenant == tenant, _t.hash.is_not(None))
        if (await connection.execute(query)).scalar_one() >= self._limit:
            raise AssetsFullError(f"there are {self._limit} assets, the limit", hint="delete some")


def output_asset_id(tenant: TenantId, job_id: str, *parts: str) -> str:
    """The id of a job's output, the same whenever it is asked for, and another for every job."""
    return str(uuid.uuid5(_OUTPUTS, "\0".join((tenant, job_id, *parts))))


def _row(tenant: TenantId, asset: Asset, key: str | None) -> dict[str, JSON]:
    document: dict[str, JSON] = {"tags": list(asset.tags), "metadata": dict(asset.metadata)}
    if asset.file is not None:
        document["file"] = [asset.file.filename, asset.file.subfolder, asset.file.type]
    if asset.node_id is not None:
        document["node_id"] = asset.node_id
    if asset.text is not None:
        document["text"] = asset.text
    if asset.preview_id is not None:
        document["preview_id"] = asset.preview_id
    return {
        "tenant": tenant,
        "id": asset.id,
        "hash": asset.hash,
        "size": asset.size,
        "content_type": asset.content_type,
        "name": asset.name,
        "job_id": asset.job_id,
        "created_ms": asset.created_ms,
        "updated_ms": asset.updated_ms,
        "accessed_ms": asset.accessed_ms,
        "idempotency_key": key,
        "document": encode(document),
    }


def _asset(row: Any) -> Asset:
    document = decode(row.document)
    file = document.get("file")
    return Asset(
        id=row.id,
        hash=row.hash,
        size=row.size,
        content_type=row.content_type,
        name=row.name,
        job_id=row.job_id,
        created_ms=row.created_ms,
        updated_ms=row.updated_ms,
        accessed_ms=row.accessed_ms,
        file=None if file is None else FileRef(*file),
        node_id=document.get("node_id"),
        tags=tuple(document["tags"]),
        metadata=document["metadata"],
        preview_id=document.get("preview_id"),
        text=document.get("text"),
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000

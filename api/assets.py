"""Bytes of assets: blobs by BLAKE3 hash in a directory that no sandbox sees, and the copies that prompts work on.

A workflow that names an asset gets a file in the tenant's input directory with the asset's name and content. It is a
copy, because sandboxes may be allowed to write there and a blob must stay what its hash says. Rows: engine/assets.py.
"""

from __future__ import annotations

import io
import os
import re
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

import anyio
from blake3 import blake3

from api.bodies import BodyError
from api.files import DescriptorResponse, file_tree
from api.threads import file_work
from api.trees import FileUnknownError, StorageFullError, Tree
from engine import Asset, Assets, NewAsset, tenant_directory
from policies import RingfenceError, TenantId, format_bytes, safe_text

_CHUNK = 1024 * 1024
_HASH = re.compile(r"blake3:([0-9a-f]{64})\Z")
_CONTENT_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,60}/[A-Za-z0-9!#$&^_.+-]{1,60}\Z")
_NAME_LIMIT = 512
TAGS_LIMIT = 64
_TAG_LIMIT = 128


class HashMismatchError(RingfenceError):
    """What arrived is not what was announced."""

    code = "hash-mismatch"


class BlobUnknownError(RingfenceError):
    """Nobody of this tenant uploaded such content."""

    code = "blob-not-found"


@dataclass(frozen=True, slots=True)
class Announced:
    """What a client says about an upload."""

    name: str
    content_type: str
    expected_hash: str | None = None
    key: str | None = None
    tags: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)
    preview_id: str | None = None


class AssetStore:
    """Uploads, contents and copies of assets, for all tenants."""

    def __init__(self, assets: Assets, data_dir: Path, *, max_bytes: int) -> None:
        self.rows = assets
        self._data_dir = data_dir
        self._max_bytes = max_bytes
        self._locks: dict[TenantId, anyio.Lock] = {}

    async def store(self, tenant: TenantId, stream: IO[bytes], told: Announced) -> tuple[Asset, bool]:
        """Keep an upload; the asset, and whether its content is new to this tenant.

        Raises:
            HashMismatchError, StorageFullError, KeyReusedError, AssetsFullError
        """
        digest, size = await file_work(partial(_digest, stream))
        if told.expected_hash is not None and told.expected_hash != digest:
            raise HashMismatchError(
                f"the bytes that arrived have the hash blake3:{digest}",
                hint="the upload was damaged or the file changed meanwhile; hash it again and send it again",
            )
        new = NewAsset(digest, size, told.content_type, told.name, told.tags, told.metadata, told.preview_id)
        async with self._changing(tenant):
            known = await self.rows.by_hash(tenant, digest)
            if known is not None and told.key is None and known.name == told.name:
                return known, False
            if known is None:
                await self._refuse_if_full(tenant, size)
                await file_work(lambda: self._blobs(tenant).write(_place(digest), stream, overwrite=True))
            try:
                asset, is_new = await self.rows.add(tenant, new, key=told.key)
            except BaseException:
                if known is None:  # nothing counts or finds a blob without a row
                    with anyio.CancelScope(shield=True):
                        await self._drop_orphan(tenant, digest)
                raise
        return asset, is_new and known is None

    async def _drop_orphan(self, tenant: TenantId, digest: str) -> None:
        if (
            await self.rows.by_hash(tenant, digest) is None
        ):  # else the row was stored before it was called off
            await file_work(partial(self._blobs(tenant).delete, _place(digest)))

    async def from_hash(self, tenant: TenantId, digest: str, told: Announced) -> tuple[Asset, bool]:
        """Another asset of content that is there; the asset, and whether it is a new one.

        Raises:
            BlobUnknownError, AssetsFullError
        """
        async with self._changing(tenant):
            return await self._mint(tenant, digest, told)

    async def _mint(self, tenant: TenantId, digest: str, told: Announced) -> tuple[Asset, bool]:
        known = await self.rows.by_hash(tenant, digest)
        if known is None:
            raise BlobUnknownError("there is no content with this hash", hint="upload it")
        if not told.name or known.name == told.name:
            return known, False
        new = NewAsset(
            digest, known.size, known.content_type, told.name, told.tags, told.metadata, told.preview_id
        )
        return (await self.rows.add(tenant, new))[0], True

    async def delete(self, tenant: TenantId, asset_id: str) -> None:
        """Forget an asset, and its content when nobody else's; of a job's output the file goes."""
        asset = await self.rows.get(tenant, asset_id)
        async with self._changing(tenant):
            if not await self.rows.delete(tenant, asset_id):
                return
            tree, path = self._where(tenant, asset)
            if tree is not None:
                try:
                    await file_work(partial(tree.delete, path))
                except FileUnknownError:
                    pass  # its file was gone already

    async def answer(
        self, tenant: TenantId, asset: Asset, *, headers: dict[str, str] | None = None
    ) -> DescriptorResponse:
        """The content as an answer.

        Raises:
            FileUnknownError: the file of a job's output is gone.
        """
        return DescriptorResponse(await self.open(tenant, asset), asset.name, headers=headers)

    async def open(self, tenant: TenantId, asset: Asset) -> int:
        """A descriptor of the content, for the caller to close."""
        tree, path = self._where(tenant, asset)
        if tree is None:
            return await file_work(partial(_text_file, asset.text or ""))
        return await file_work(partial(tree.open_file, path))

    async def as_input(self, tenant: TenantId, asset: Asset) -> str:
        """Put the content into the tenant's input directory; what a node's input calls it."""
        folder, _, name = asset.name.rpartition("/")
        inputs = file_tree(self._data_dir, tenant, "input")
        descriptor = await self.open(tenant, asset)

        def copy() -> str:
            with os.fdopen(descriptor, "rb") as stream:
                return inputs.add(folder, name, stream)

        added = await file_work(copy)
        return f"{folder}/{added}" if folder else added

    def _changing(self, tenant: TenantId) -> anyio.Lock:
        """Held while rows and blobs change together: content must not go while somebody finds it there."""
        return self._locks.setdefault(tenant, anyio.Lock())

    def _where(self, tenant: TenantId, asset: Asset) -> tuple[Tree | None, str]:
        if asset.hash is not None:
            return self._blobs(tenant), _place(asset.hash)
        if asset.file is not None:
            return file_tree(self._data_dir, tenant, asset.file.type), asset.file.path
        return None, ""

    def _blobs(self, tenant: TenantId) -> Tree:
        return Tree(tenant_directory(self._data_dir, tenant) / "assets")

    async def _refuse_if_full(self, tenant: TenantId, size: int) -> None:
        used = await self.rows.stored_bytes(tenant)
        if used + size > self._max_bytes:
            raise StorageFullError(
                f"assets take {format_bytes(used)} of {format_bytes(self._max_bytes)}, and {format_bytes(size)} more "
                "do not fit",
                hint="delete some assets; whoever runs this server may raise RINGFENCE_MAX_ASSET_BYTES",
            )


def parse_hash(text: Any) -> str:
    """The hex digits in ``blake3:<hex>``.

    Raises:
        BodyError
    """
    found = _HASH.match(text.lower()) if isinstance(text, str) else None
    if found is None:
        raise BodyError("the hash must be 'blake3:' and 64 hexadecimal digits")
    return found[1]


def checked_name(name: Any) -> str:
    """An asset's name: a relative path with '/' between components.

    Raises:
        BodyError
    """
    if not isinstance(name, str) or not name or len(name) > _NAME_LIMIT:
        raise BodyError(f"the file path must be a text of 1 to {_NAME_LIMIT} characters")
    parts = name.split("/")
    if any(part in ("", ".", "..") or len(part.encode("utf-8", "replace")) > 255 for part in parts):
        raise BodyError(f"the file path '{safe_text(name, 80)}' cannot be used", hint="write it relative")
    if any(ord(char) < 32 or 0xD800 <= ord(char) < 0xE000 for char in name):
        raise BodyError("the file path has characters that cannot be used")
    return name


def checked_content_type(text: str | None) -> str:
    """A media type without parameters; anything odd is a stream of bytes."""
    bare = (text or "").partition(";")[0].strip().lower()
    return bare if _CONTENT_TYPE.match(bare) else "application/octet-stream"


def checked_tags(tags: Any) -> tuple[str, ...]:
    """Tags in order, without repetitions.

    Raises:
        BodyError
    """
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise BodyError("tags must be a list of texts")
    found = tuple(dict.fromkeys(tag.strip() for tag in tags if tag.strip()))
    if len(found) > TAGS_LIMIT or any(len(tag) > _TAG_LIMIT for tag in found):
        raise BodyError(f"there may be {TAGS_LIMIT} tags of {_TAG_LIMIT} characters")
    return found


def _place(digest: str) -> str:
    return f"{digest[:2]}/{digest}"


def _digest(stream: IO[bytes]) -> tuple[str, int]:
    hasher = blake3()
    size = 0
    stream.seek(0)
    while chunk := stream.read(_CHUNK):
        hasher.update(chunk)
        size += len(chunk)
    stream.seek(0)
    return hasher.hexdigest(), size


def _text_file(text: str) -> int:
    """A descriptor of a file that is nowhere, so that a text answers ranges as every file does."""
    descriptor = os.memfd_create("ringfence-text", os.MFD_CLOEXEC)
    with io.FileIO(descriptor, "w", closefd=False) as stream:
        stream.write(text.encode("utf-8", "replace"))
        stream.seek(0)
    return descriptor

"""What a model's file tells about itself: the text in a safetensors header, and a picture beside it or in that header.

Only bytes are found here. No picture is decoded: that is the core extension's sandbox's work (``engine/media.py``).
All of this blocks.
"""

from __future__ import annotations

import base64
import binascii
import os
from dataclasses import dataclass
from typing import Any

import orjson

from api.previews import Identity, identity_of
from api.trees import FileRefusedError, FileUnknownError, Tree

_HEADER_LIMIT = 16 * 1024 * 1024
_PICTURE_LIMIT = 32 * 1024 * 1024
_PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
_EMBEDDED = "ssmd_cover_images"  # base64 pictures as a JSON list, by the tools that train LoRAs


@dataclass(frozen=True, slots=True)
class Cover:
    """Where a model's picture is: a file of its own, or the first one in a safetensors file's header."""

    path: str
    is_embedded: bool
    identity: Identity


def metadata(tree: Tree, path: str) -> dict[str, Any] | None:
    """The texts in a safetensors file's header; None if it has none.

    Raises:
        FileUnknownError, PathEscapeError
        ValueError: the header is no JSON.
    """
    with os.fdopen(tree.open_file(path), "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= _HEADER_LIMIT:
            return None
        header = orjson.loads(stream.read(length))
    texts = header.get("__metadata__") if isinstance(header, dict) else None
    return texts if isinstance(texts, dict) else None


def find_cover(tree: Tree, path: str) -> Cover | None:
    """The picture of the model at ``path``: ``<stem>.<picture>``, ``<stem>.preview.<picture>``, or an embedded one.

    Raises:
        FileUnknownError, FileRefusedError, PathEscapeError
    """
    folder, _, name = path.rpartition("/")
    stem = os.path.splitext(name)[0]  # noqa: PTH122 - a name
    names = sorted(entry.path for entry in tree.entries(folder) if not entry.is_directory)
    for found in names:
        title, suffix = os.path.splitext(found)  # noqa: PTH122
        if suffix.lower() in _PICTURES and title in (stem, f"{stem}.preview"):
            return _cover(tree, f"{folder}/{found}", is_embedded=False)
    if f"{stem}.safetensors" not in names:
        return None
    model = f"{folder}/{stem}.safetensors"
    return _cover(tree, model, is_embedded=True) if _embedded(tree, model) is not None else None


def read_cover(tree: Tree, cover: Cover) -> bytes:
    """The picture's bytes, of whatever form they claim to have.

    Raises:
        FileUnknownError: it is gone, or was no base64.
        FileRefusedError: it is too large.
    """
    if not cover.is_embedded:
        return tree.read(cover.path, limit=_PICTURE_LIMIT)
    text = _embedded(tree, cover.path)
    try:
        return base64.b64decode(text or "", validate=True)
    except (binascii.Error, ValueError):
        raise FileUnknownError("the picture in the model's header is no base64") from None


def _cover(tree: Tree, path: str, *, is_embedded: bool) -> Cover:
    descriptor = tree.open_file(path)
    try:
        return Cover(path, is_embedded, identity_of(descriptor))
    finally:
        os.close(descriptor)


def _embedded(tree: Tree, path: str) -> str | None:
    try:
        text = (metadata(tree, path) or {}).get(_EMBEDDED)
        pictures = orjson.loads(text) if isinstance(text, str) else None
    except (ValueError, OSError, FileRefusedError):
        return None
    first = pictures[0] if isinstance(pictures, list) and pictures else None
    return first if isinstance(first, str) and first else None

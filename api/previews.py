"""``/view`` with ``preview`` or ``channel``, and models' covers: what was asked for, and a bounded memory of pictures.

A picture is known by its file's identity (device, inode, size, time of change), so a file that is written anew is made
anew.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from engine import Media, PreviewWish
from policies import TenantId

_BYTES = 64 * 1024 * 1024
_LARGEST = 8 * 1024 * 1024
_ENTRY = 1024  # what remembering one takes besides
Identity = tuple[int, int, int, int]
_Key = tuple[TenantId, Identity, PreviewWish]
_COVER = PreviewWish("cover", 0, "")  # no wish that a client can have


def wish_of(preview: str | None, channel: str | None) -> PreviewWish | None:
    """What the two parameters ask for; None for the file as it is."""
    channel = channel or ""
    if preview is not None:
        form, *rest = preview.split(";")
        last = rest[-1] if rest else ""
        quality = min(int(last), 100) if last.isascii() and last.isdigit() and len(last) < 10 else 90
        if form not in ("webp", "jpeg") or "a" in channel:
            form = "webp"
        return PreviewWish(form, quality, channel if channel in ("rgb", "a", "rgba") else "")
    return PreviewWish("", 90, channel) if channel in ("rgb", "a") else None


def identity_of(descriptor: int) -> Identity:
    """Which content an open file has, as far as the file system says."""
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class Previews:
    """Pictures made lately, of all tenants."""

    def __init__(self, media: Media, *, max_bytes: int = _BYTES) -> None:
        self._media = media
        self._max_bytes = max_bytes
        self._made: OrderedDict[_Key, tuple[bytes, str]] = OrderedDict()
        self._bytes = 0

    async def get(
        self,
        tenant: TenantId,
        identity: Identity,
        place: tuple[str, str, str],
        wish: PreviewWish,
    ) -> tuple[bytes, str]:
        """The picture, and its media type; raises what ``Media.preview`` raises."""
        return await self._remembered(
            (tenant, identity, wish), lambda: self._media.preview(tenant, place, wish)
        )

    async def cover(
        self, tenant: TenantId, identity: Identity, read: Callable[[], Awaitable[bytes]]
    ) -> tuple[bytes, str]:
        """A model's picture, and its media type; raises what ``Media.cover`` and ``read`` raise."""
        return await self._remembered((tenant, identity, _COVER), lambda: self._media.cover(tenant, read))

    async def _remembered(
        self, key: _Key, make: Callable[[], Awaitable[tuple[bytes, str]]]
    ) -> tuple[bytes, str]:
        known = self._made.get(key)
        if known is not None:
            self._made.move_to_end(key)
            return known
        made = await make()
        if len(made[0]) <= min(_LARGEST, self._max_bytes) and key not in self._made:
            self._made[key] = made
            self._bytes += _ENTRY + len(made[0])
            while self._bytes > self._max_bytes:
                _, (data, _) = self._made.popitem(last=False)
                self._bytes -= _ENTRY + len(data)
        return made

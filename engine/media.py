"""Pictures for the API, made where pictures are decoded: in the sandbox of the tenant's core extension.

The host decodes no media, so a preview or a merged mask is a call of a node class that core does not describe (no
prompt can name it). What comes back is bytes of bounded size that the host only passes on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import anyio

from engine.errors import EngineError
from engine.invocation import Sessions
from policies import ExtensionName, TenantId, safe_text
from sandbox.calls import NodeCall, NodeResult, Progress, Value
from sandbox.errors import NodeRaisedError

CORE: Final = ExtensionName("core")
MEDIA_BYTES: Final = 128 * 1024 * 1024
WAIT_S: Final = 60.0
AT_ONCE: Final = 8  # of all tenants
OF_ONE: Final = 2  # tenant's, so that its pictures do not keep the others' waiting
TYPES: Final = frozenset({"image/webp", "image/jpeg", "image/png"})


class MediaRefusedError(EngineError):
    """A picture cannot be decoded, or is larger than what is decoded."""

    code = "media-refused"


class MediaBusyError(EngineError):
    """No picture could be made in time."""

    code = "media-busy"


@dataclass(frozen=True, slots=True)
class PreviewWish:
    """How a picture shall be re-encoded; the fields are the hidden node's inputs."""

    format: str  # "webp", "jpeg", or "" for a PNG of one channel group
    quality: int
    channel: str  # "", "rgba", "rgb", "a"


class MediaStore(Protocol):
    """What is needed of ``sandbox.TensorStore``."""

    async def put(self, tenant: TenantId, data: bytes) -> str: ...
    async def read(self, object_id: str, limit: int) -> bytes: ...
    def release(self, value: Value) -> None: ...


class Media:
    """Previews and masks for all tenants."""

    def __init__(self, sessions: Sessions, store: MediaStore, *, wait_s: float = WAIT_S) -> None:
        self._sessions = sessions
        self._store = store
        self._wait_s = wait_s
        self._limiter = anyio.Semaphore(AT_ONCE)
        self._turns: dict[TenantId, anyio.Semaphore] = {}

    async def preview(
        self, tenant: TenantId, place: tuple[str, str, str], wish: PreviewWish
    ) -> tuple[bytes, str]:
        """The picture at (filename, subfolder, type) in another form, and its media type.

        Raises:
            MediaRefusedError: it is no picture, or too large.
            MediaBusyError, SandboxError
        """
        inputs = _place(place) | {
            "format": (Value(wish.format),),
            "quality": (Value(wish.quality),),
            "channel": (Value(wish.channel),),
        }
        async with self._turn(tenant):
            result = await self._call(tenant, "RingfencePreview", inputs)
            try:
                kind = _slot(result, 1).tree
                data = await self._bytes(result)
            finally:
                self._release(result)
        return data, kind if isinstance(kind, str) and kind in TYPES else "application/octet-stream"

    async def mask(
        self, tenant: TenantId, place: tuple[str, str, str], read: Callable[[], Awaitable[bytes]]
    ) -> bytes:
        """A PNG of the picture at ``place`` with the transparency of another, whose bytes are read when it is its turn.

        Raises:
            MediaRefusedError: one of them is no picture, they differ in size, or are too large.
            QuotaError, MediaBusyError, SandboxError
        """
        async with self._turn(tenant):
            async with self._lent(tenant, await read()) as mask:
                result = await self._call(tenant, "RingfenceMask", {"mask": (mask,)} | _place(place))
            try:
                return await self._bytes(result)
            finally:
                self._release(result)

    async def cover(self, tenant: TenantId, read: Callable[[], Awaitable[bytes]]) -> tuple[bytes, str]:
        """A WebP of a picture that lies where core sees nothing, and its media type; read when it is its turn.

        Raises:
            MediaRefusedError: it is no picture, or too large.
            QuotaError, MediaBusyError, SandboxError
        """
        async with self._turn(tenant):
            async with self._lent(tenant, await read()) as picture:
                result = await self._call(tenant, "RingfenceCover", {"picture": (picture,)})
            try:
                return await self._bytes(result), "image/webp"
            finally:
                self._release(result)

    @asynccontextmanager
    async def _lent(self, tenant: TenantId, data: bytes) -> AsyncIterator[Value]:
        name = await self._store.put(tenant, data)
        body = {"$bytes": {"file": name, "nbytes": len(data), "mutable": False}}
        value = Value(body, objects=(name,), nbytes=len(data))
        try:
            yield value
        finally:
            self._store.release(value)

    @asynccontextmanager
    async def _turn(self, tenant: TenantId) -> AsyncIterator[None]:
        turns = self._turns.setdefault(tenant, anyio.Semaphore(OF_ONE))
        try:
            with anyio.fail_after(self._wait_s):
                async with turns, self._limiter:
                    yield
        except TimeoutError:
            raise MediaBusyError(
                f"the picture was not ready after {self._wait_s:.0f} s", hint="try again when less is running"
            ) from None

    async def _call(
        self, tenant: TenantId, class_type: str, inputs: dict[str, Sequence[Value] | None]
    ) -> NodeResult:
        session = await self._sessions.acquire(tenant, CORE)
        call = NodeCall("media", "media", class_type, inputs, instance=f"media:{class_type}")
        try:
            return await session.execute(call, _unheard)
        except NodeRaisedError as error:
            raise MediaRefusedError(
                safe_text(error.message, 500), hint="only files that are pictures can be converted"
            ) from error

    async def _bytes(self, result: NodeResult) -> bytes:
        tree: Any = _slot(result, 0).tree
        body = tree.get("$bytes") if isinstance(tree, dict) else None
        if not isinstance(body, dict):
            raise MediaRefusedError("the core extension answered with something that is no picture")
        if body["file"] is None:
            return b""
        return await self._store.read(body["file"], MEDIA_BYTES)

    def _release(self, result: NodeResult) -> None:
        for slot in result.slots or ():
            for value in slot:
                self._store.release(value)


def _place(place: tuple[str, str, str]) -> dict[str, Sequence[Value] | None]:
    return {name: (Value(part),) for name, part in zip(("filename", "subfolder", "type"), place, strict=True)}


def _slot(result: NodeResult, index: int) -> Value:
    slots = result.slots or ()
    return slots[index][0] if index < len(slots) and slots[index] else Value(None)


def _unheard(_progress: Progress) -> None:
    """Nobody follows how far a preview is."""

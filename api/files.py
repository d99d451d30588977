"""Answering with a tenant's file: which content types are safe to name, and a response on an open descriptor.

Whatever lies here may be written by a pack. A browser must never run it as this server's page: only plain media keeps
its type, the rest is a download.
"""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.responses import FileResponse, Response
from starlette.types import Receive, Scope, Send

from api.trees import FileRefusedError, Tree
from engine import tenant_directory
from policies import TenantId, safe_text

FileType = Literal["input", "output", "temp"]
FILE_TYPES: tuple[FileType, ...] = ("input", "output", "temp")

_KEPT = ("etag", "last-modified", "cache-control", "content-security-policy")

_PLAIN = frozenset(
    {
        "application/json",
        "application/zip",
        "text/plain",
        "text/csv",
        "model/gltf-binary",
    }
)
_MEDIA = ("image/", "audio/", "video/")
_KNOWN = mimetypes.MimeTypes()  # Python's own table: the machine's would make answers differ between machines
_ACTIVE = frozenset({"image/svg+xml"})
_TYPES = {
    ".webp": "image/webp",
    ".glb": "model/gltf-binary",
    ".flac": "audio/flac",
    ".opus": "audio/ogg",
    ".md": "text/plain",
}


class OpenFileResponse(FileResponse):
    """A file answer (ranges, ETag, Last-Modified, 304) that reads from a descriptor it owns.

    The descriptor was opened safely; opening the path a second time could meet another file.
    """

    def __init__(self, descriptor: int, media_type: str, headers: dict[str, str]) -> None:
        self._descriptor = descriptor
        super().__init__(
            f"/proc/self/fd/{descriptor}",
            media_type=media_type,
            headers=headers,
            stat_result=os.fstat(descriptor),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send, or say that the client has it already; then close, however it ends."""
        try:
            if is_unchanged(Headers(scope=scope), self.headers):
                kept = {name: self.headers[name] for name in _KEPT if name in self.headers}
                await Response(status_code=304, headers=kept)(scope, receive, send)
            else:
                await super().__call__(scope, receive, send)
        finally:
            os.close(self._descriptor)


class DescriptorResponse(OpenFileResponse):
    """A tenant's file, with a type and headers that make it harmless."""

    def __init__(self, descriptor: int, name: str, *, headers: dict[str, str] | None = None) -> None:
        kind, inline = content_type(name)
        super().__init__(descriptor, kind, {**file_headers(name, inline=inline), **(headers or {})})


def is_unchanged(asked: Headers, ours: Mapping[str, str]) -> bool:
    """True when a conditional request names the version that we would send."""
    tags = asked.get("if-none-match")
    if tags is not None:
        known = [tag.strip().removeprefix("W/") for tag in tags.split(",")]
        return "*" in known or ours["etag"].removeprefix("W/") in known
    since = asked.get("if-modified-since")
    if since is None:
        return False
    try:
        return parsedate_to_datetime(ours["last-modified"]) <= parsedate_to_datetime(since)
    except (TypeError, ValueError):
        return False


def file_headers(name: str, *, inline: bool) -> dict[str, str]:
    """What an answer with a tenant's file carries."""
    disposition = f"filename={_quoted(name)}" if inline else f"attachment; filename={_quoted(name)}"
    return {
        "Content-Disposition": disposition,
        # Even a type we allow gets no scripts, no forms and no origin if a browser shows it as a page.
        "Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src 'self'",
    }


def content_type(name: str) -> tuple[str, bool]:
    """The type to answer with, and whether a browser may show it in place."""
    suffix = Path(name).suffix.lower()
    kind = _TYPES.get(suffix) or _KNOWN.guess_type(f"x{suffix}")[0] or "application/octet-stream"
    if kind in _PLAIN or (kind.startswith(_MEDIA) and kind not in _ACTIVE):
        return kind, True
    return "application/octet-stream", False


def file_tree(data_dir: Path, tenant: TenantId, kind: str) -> Tree:
    """One of ComfyUI's three directories.

    Raises:
        FileRefusedError: there is no such type.
    """
    if kind not in FILE_TYPES:
        raise FileRefusedError(
            f"there is no file type '{safe_text(kind, 40)}'", hint="use input, output or temp"
        )
    return Tree(tenant_directory(data_dir, tenant) / kind)


def annotated(name: str, kind: str) -> tuple[str, str]:
    """Split ComfyUI's "name [type]" form; ``kind`` holds where there is no suffix."""
    for each in FILE_TYPES:
        if name.endswith(f"[{each}]"):
            return name[: -len(each) - 3], each  # one character before the bracket goes too, as in ComfyUI
    return name, kind


def _quoted(name: str) -> str:
    plain = "".join(char if " " <= char <= "~" and char not in '"\\' else "_" for char in name)
    if plain == name:
        return f'"{plain}"'
    return f"\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"

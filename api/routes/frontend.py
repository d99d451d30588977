"""ComfyUI's web frontend at ``/``: its files as they are, or a page that says how to get it.

One route that matches the paths of files that exist and no other, so every route of the API goes first and an unknown
path stays a 404. Not here: which files there are (api/frontend.py).
"""

from __future__ import annotations

import html
import os
from pathlib import PurePosixPath

import anyio
from fastapi import APIRouter
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from api.errors import OrjsonResponse
from api.files import is_unchanged
from api.frontend import LICENCE, PACKAGE, SOURCE, Frontend

router = APIRouter()

# By suffix, our own table: the machine's would make answers differ, and a script of a wrong type is not run.
TYPES = {
    ".css": "text/css",
    ".cur": "image/vnd.microsoft.icon",
    ".eot": "application/vnd.ms-fontobject",
    ".gif": "image/gif",
    ".glb": "model/gltf-binary",
    ".hdr": "image/vnd.radiance",
    ".html": "text/html",
    ".ico": "image/vnd.microsoft.icon",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".js": "text/javascript",
    ".json": "application/json",
    ".map": "application/json",
    ".md": "text/markdown",
    ".mjs": "text/javascript",
    ".mp3": "audio/mpeg",
    ".mp4": "video/mp4",
    ".otf": "font/otf",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".ttf": "font/ttf",
    ".txt": "text/plain",
    ".wasm": "application/wasm",
    ".webm": "video/webm",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
}
_UNKNOWN = "application/octet-stream"
_PICTURES = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"})
# The page asks for these when nobody made them; answers keep failed requests out of its console.
_STAND_INS = {
    "user.css": (b"", "text/css"),
    "templates/index.json": (b"[]", "application/json"),
    "templates/index_logo.json": (b"{}", "application/json"),
}


def content_security_policy(inline_scripts: tuple[str, ...] = (), origins: tuple[str, ...] = ()) -> str:
    """What the page may load and where it may send: this server, and the origins that the operator lists.

    The page's own scripts compile code from text (its expression and 3-D parts do), so that stays allowed; scripts from
    elsewhere, plugins, other bases and frames of other sites are not.
    """
    more = "".join(f" {origin}" for origin in origins)
    inline = "".join(f" {digest}" for digest in inline_scripts)
    return "; ".join(
        (
            f"default-src 'self'{more}",
            f"script-src 'self' 'unsafe-eval' blob:{inline}{more}",
            f"style-src 'self' 'unsafe-inline'{more}",
            f"img-src 'self' data: blob:{more}",
            f"media-src 'self' data: blob:{more}",
            f"font-src 'self' data:{more}",
            f"connect-src 'self' data: blob:{more}",
            "worker-src 'self' blob:",
            f"frame-src 'self' blob:{more}",
            "object-src 'none'",
            "base-uri 'self'",
            "form-action 'self'",
            "frame-ancestors 'self'",
        )
    )


class FrontendRoute(BaseRoute):
    """Serves the catalogue of a ``Frontend``."""

    path = "/{frontend}"  # what the figures call it

    def __init__(self, frontend: Frontend, origins: tuple[str, ...] = ()) -> None:
        self._frontend = frontend
        self._policy = content_security_policy(frontend.inline_scripts, origins)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Only GET and HEAD of a file that there is."""
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            return Match.NONE, {}
        name = _name(scope)
        known = not name or name in self._frontend.files or name in _STAND_INS
        return (Match.FULL, {}) if known else (Match.NONE, {})

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        response = await self._response(scope)
        await response(scope, receive, send)

    async def _response(self, scope: Scope) -> Response:
        name = _name(scope) or "index.html"
        headers = {
            **cache_headers(name),
            "Content-Security-Policy": self._policy,
            "Referrer-Policy": "same-origin",
        }
        path = self._frontend.files.get(name)
        if path is None:
            if name in _STAND_INS:
                body, kind = _STAND_INS[name]
                return Response(body, media_type=kind, headers=headers)
            return HTMLResponse(missing_page(self._frontend), headers=headers)
        try:
            stat = await anyio.to_thread.run_sync(os.stat, path)
        except OSError:  # removed since the start
            return OrjsonResponse({"error": "this file of the frontend is gone; start the server anew"}, 404)
        kind = TYPES.get(PurePosixPath(name).suffix.lower(), _UNKNOWN)
        response = FileResponse(path, media_type=kind, headers=headers, stat_result=stat)
        if is_unchanged(Headers(scope=scope), response.headers):
            kept = ("etag", "last-modified", "cache-control", "content-security-policy")
            return Response(
                status_code=304,
                headers={key: response.headers[key] for key in kept if key in response.headers},
            )
        return response


def _name(scope: Scope) -> str:
    return str(scope["path"]).removeprefix("/")


def cache_headers(name: str) -> dict[str, str]:
    """How long a browser may keep a file: scripts and pages are asked for each time (and are mostly unchanged)."""
    path = PurePosixPath(name)
    suffix = path.suffix.lower()
    if name == "index.html":
        return {"Cache-Control": "no-cache", "Pragma": "no-cache", "Expires": "0"}
    if suffix in (".js", ".css", ".html") or (suffix == ".json" and path.name.startswith("index")):
        return {"Cache-Control": "no-cache"}
    if suffix in _PICTURES:
        return {"Cache-Control": "public, max-age=86400"}
    return {}


def missing_page(frontend: Frontend) -> str:
    """What stands at ``/`` where there is no frontend."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Ringfence</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 42rem; margin: 4rem auto; padding: 0 1rem;
  color-scheme: light dark }} code {{ font-family: ui-monospace, monospace }}</style></head>
<body><h1>Ringfence is running</h1>
<p>ComfyUI's API answers here. Its web page does not: {html.escape(frontend.why_not)}.</p>
<ul><li>In the host image: build it without <code>--build-arg FRONTEND=no</code>; <code>make up</code> does.</li>
<li>Without containers: <code>pip install 'ringfence[frontend]'</code>, or <code>make dev</code> in a checkout.</li>
<li>A build of your own: name its directory in <code>RINGFENCE_FRONTEND_DIR</code>.</li></ul>
<p>Then start the server anew. The API is described at
<a href="/ringfence/v1/openapi.json">/ringfence/v1/openapi.json</a>.</p></body></html>
"""


@router.get("/licences")
async def licences(connection: HTTPConnection) -> Response:
    """What is served here besides Ringfence itself, under which licence, and where its source is."""
    frontend: Frontend = connection.app.state.frontend
    parts = [
        {"name": "ringfence", "licence": "Apache-2.0", "version": connection.app.version, "source": None}
    ]
    if frontend.is_there and frontend.version is not None:
        parts.append({"name": PACKAGE, "licence": LICENCE, "version": frontend.version, "source": SOURCE})
    return OrjsonResponse({"components": parts})

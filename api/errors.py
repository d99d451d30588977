"""Errors on their way out: one table from exception to status, and the three shapes of an error answer.

ComfyUI's own routes answer with its ``{"error": {"type", "message", ...}}``; the Comfy API v2 with
``{"error": {"code", "message", "details"}}``; ``/ringfence/v1`` with ``{"error": {"code", "message", "hint"}}``.
No traceback and no path of this machine leaves through here: a
``RingfenceError`` is written for readers, everything else becomes "internal error" with a number to find it in the log.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from api.archives import ArchiveError
from api.auth import AuthError, ForbiddenError
from api.bodies import BodyError, BodyTooLargeError
from api.remarks import remarks_of
from api.trees import FileExistsInTheWayError, FileRefusedError, FileUnknownError, StorageFullError
from engine import (
    DatabaseError,
    DuplicatePromptError,
    EngineClosedError,
    PromptInvalidError,
    QueueFullError,
    TenantExistsError,
    TenantUnknownError,
    TokenError,
    TokenExistsError,
    TokenUnknownError,
    UpdateAsksMoreError,
)
from policies import NameInvalidError, PathEscapeError, PolicyError, RingfenceError, safe_text

log = logging.getLogger(__name__)

# Looked up along the exception's class order, so a subclass may have its own line.
STATUS: dict[type[RingfenceError], int] = {
    AuthError: 401,
    ForbiddenError: 403,
    PathEscapeError: 403,
    FileUnknownError: 404,
    TenantUnknownError: 404,
    TokenUnknownError: 404,
    DuplicatePromptError: 409,
    FileExistsInTheWayError: 409,
    TenantExistsError: 409,
    TokenExistsError: 409,
    BodyTooLargeError: 413,
    QueueFullError: 429,
    DatabaseError: 503,
    EngineClosedError: 503,
    StorageFullError: 507,
    ArchiveError: 400,
    BodyError: 400,
    FileRefusedError: 400,
    NameInvalidError: 400,
    PolicyError: 400,
    PromptInvalidError: 400,
    TokenError: 400,
    RingfenceError: 422,
}

# By code, for errors of rooms below that have no class of their own worth importing.
STATUS_BY_CODE: dict[str, int] = {
    "not-found": 404,
    "blob-not-found": 404,
    "hash-mismatch": 409,
    "storage-full": 507,
    "too-many-readers": 429,
    "too-many-streams": 429,
    "too-many-sockets": 429,
    "too-many-requests": 429,
    "url-too-long": 414,
    "headers-too-large": 431,
    "quota-rate": 429,
    "quota-size": 413,
    "quota-space": 507,
    "shm_quota": 507,
    "media-refused": 400,
    "media-busy": 503,
    "advisories": 503,
    "extension-changed": 409,
    "extension-unknown": 404,
    "sandbox-unknown": 404,
    "extension-exists": 409,
    "already_watched": 409,
    "nothing-to-learn": 409,
    "update-asks-more": 409,
    "policy-reserved": 403,
    "routes-off": 403,
    "audit-unavailable": 503,
    "audit-unreadable": 503,
}


_DEEPEST = 200
"""Levels of nesting that are written: the encoder takes 254, and an answer has a few around what a pack said."""
_TOO_DEEP = f"(nested deeper than {_DEEPEST} levels)"


def dump_json(value: Any) -> bytes:
    """JSON bytes that every browser reads, whatever a pack had a hand in: NaN and infinity become null, what is nested
    beyond measure a text that says so. A key that script may take for an object's own workings is left out."""
    raw = plain_json(value)
    return harmless(raw) if b"proto" in raw else raw


def plain_json(value: Any) -> bytes:
    """The same for what has no keys but ours, or is part of what ``harmless`` sees as a whole."""
    try:
        return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:  # integers over 64 bits, lone surrogates, too deep
        return orjson.dumps(_plain(value), option=orjson.OPT_NON_STR_KEYS)


def harmless(raw: bytes) -> bytes:
    """JSON without the keys that ``dump_json`` leaves out."""
    if b'"__proto__"' in raw or (b'"constructor"' in raw and b'"prototype"' in raw):
        # A page that merges such an object into another changes every object that it has.
        return orjson.dumps(_without_prototypes(orjson.loads(raw)))
    return raw


def _plain(value: Any, depth: int = 0) -> Any:
    if isinstance(value, dict | list | tuple) and depth >= _DEEPEST:
        return _TOO_DEEP
    if isinstance(value, dict):
        return {
            _plain(key) if isinstance(key, str) else str(key): _plain(item, depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return float(value) if abs(value) < 2**1000 else None
    return value


def _without_prototypes(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_prototypes(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: _without_prototypes(item) for key, item in value.items() if not _is_a_prototype(key, item)}


def _is_a_prototype(key: str, item: Any) -> bool:
    return key == "__proto__" or (key == "constructor" and isinstance(item, dict) and "prototype" in item)


_JSON = (b"content-type", b"application/json; charset=utf-8")


class OrjsonResponse(JSONResponse):
    """JSON with the content type ComfyUI's clients expect; NaN and infinity become null."""

    media_type = "application/json; charset=utf-8"

    def render(self, content: Any) -> bytes:
        """The body's bytes."""
        return dump_json(content)

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        """As elsewhere, in one step for the answers that have none of their own."""
        if (
            headers
            or self.media_type is not OrjsonResponse.media_type
            or self.status_code in (204, 304)
            or self.status_code < 200
        ):
            super().init_headers(headers)
        else:
            self.raw_headers = [(b"content-length", b"%d" % len(self.body)), _JSON]


def status_of(error: RingfenceError) -> int:
    """The HTTP status that stands for an error."""
    if error.code in STATUS_BY_CODE:
        return STATUS_BY_CODE[error.code]
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def error_body(error: RingfenceError) -> dict[str, Any]:
    """An error in the shape of ``/ringfence/v1``, which NDJSON streams use too."""
    where = {"file": error.file, "line": error.line} if isinstance(error, PolicyError) and error.file else {}
    asked = {"more": error.more, "consent": error.key} if isinstance(error, UpdateAsksMoreError) else {}
    return {"error": {"code": error.code, "message": error.message, "hint": error.hint, **where, **asked}}


def comfy_error(
    kind: str, message: str, details: str = "", extra: dict[str, Any] | None = None
) -> dict[str, Any]:
    """An error in the shape of ComfyUI's ``POST /prompt``."""
    error = {"type": kind, "message": message, "details": details, "extra_info": extra or {}}
    return {"error": error, "node_errors": {}}


def is_v2(path: str) -> bool:
    """True for the Comfy API v2's routes (``/api/v2/userdata`` is ComfyUI's own)."""
    return path.startswith(("/api/v2/jobs", "/api/v2/assets", "/api/v2/health"))


def v2_error(code: str, message: str, details: dict[str, Any] | None = None) -> dict[str, Any]:
    """An error in the shape of the Comfy API v2."""
    return {"error": {"code": code, "message": message, "details": details}}


# What the Comfy API v2 calls an error, and its status, where that is not our own code and status.
_V2: dict[str, tuple[str, int]] = {
    "prompt-invalid": ("invalid_workflow", 422),
    "file-refused": ("invalid_request", 400),
    "path-escape": ("invalid_request", 400),
    "too-large": ("payload_too_large", 413),
}


def _v2_response(error: RingfenceError) -> tuple[dict[str, Any], int]:
    code, status = _V2.get(error.code, (error.code.replace("-", "_"), status_of(error)))
    details: dict[str, Any] = dict(getattr(error, "details", None) or {})
    if isinstance(error, PromptInvalidError):
        details = {"error": error.error, "node_errors": error.node_errors}
    elif error.hint:
        details = {"hint": error.hint, **details}
    return v2_error(code, _with_first(error), details or None), status


def _with_first(error: RingfenceError) -> str:
    """An error's message; a refused workflow says what is wrong with its first node, which many clients show alone."""
    if isinstance(error, PromptInvalidError):
        for node_id, entry in error.node_errors.items():
            for first in entry.get("errors", ())[:1]:
                where = f"Node {node_id} ({entry.get('class_type', '')})"
                return safe_text(f"{where}: {first.get('message', '')}: {first.get('details', '')}", 2000)
    return error.message


def response_to(error: RingfenceError, path: str) -> Response:
    """The answer for an error that was raised on purpose."""
    status = status_of(error)
    headers: dict[str, str] = {}
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="ringfence"'
    if status in (429, 503):
        wait_s = getattr(error, "retry_after_s", None) or 5
        headers["Retry-After"] = str(math.ceil(wait_s))
    body: Any
    if is_v2(path):
        body, status = _v2_response(error)
    elif isinstance(error, PromptInvalidError):
        body = {"error": error.error, "node_errors": error.node_errors}
    elif path.startswith("/ringfence/"):
        body = error_body(error)
    else:
        body = comfy_error(error.code.replace("-", "_"), error.message, error.hint)
    return OrjsonResponse(body, status, headers=headers)


def install(app: FastAPI) -> None:
    """Make the application answer errors this way."""
    for kind, answer in _ANSWERS.items():
        app.add_exception_handler(kind, answer)


async def known_answer(request: Request, error: Exception) -> Response | None:
    """The same answer where no such application stands around a route; None for what nobody foresaw."""
    for kind in type(error).__mro__:
        if kind in _ANSWERS:
            return await _ANSWERS[kind](request, error)
    return None


async def _known(request: Request, error: Exception) -> Response:
    assert isinstance(error, RingfenceError)  # noqa: S101 - registered for this class only
    remarks_of(request.scope).error = error
    if status_of(error) >= 500:
        log.error("%s %s: %s", request.method, safe_text(request.url.path, 200), error)
    return response_to(error, request.url.path)


async def _malformed(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this class only
    first = error.errors()[0]
    place = ".".join(str(part) for part in first.get("loc", ())[1:])
    message = safe_text(f"{place}: {first.get('msg', 'not valid')}", 300)
    return response_to(BodyError(message, hint="see docs/http-api.md"), request.url.path)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class only
    if is_v2(request.url.path):
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
        body = v2_error(code, safe_text(str(error.detail), 300))
    elif request.url.path.startswith("/ringfence/"):
        body = {"error": {"code": "http-error", "message": safe_text(str(error.detail), 300), "hint": ""}}
    elif error.status_code == 404:
        body = comfy_error("not_found", "there is nothing here")
    else:
        body = comfy_error("http_error", safe_text(str(error.detail), 300))
    return OrjsonResponse(body, error.status_code, headers=dict(error.headers or {}))


_ANSWERS: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
    RingfenceError: _known,
    RequestValidationError: _malformed,
    HTTPException: _http,
}


def unforeseen(error: Exception, method: str, path: str) -> Response:
    """The answer for everything else; the guard asks for it, so that it passes out as every answer does."""
    number = secrets.token_hex(6)
    log.error("%s %s: internal error %s", method, safe_text(path, 200), number, exc_info=error)
    text, where = "something went wrong on the server", f"it is in the log as {number}"
    if is_v2(path):
        return OrjsonResponse(v2_error("internal_error", text, {"hint": where}), 500)
    body = comfy_error("internal_error", text, where)
    return OrjsonResponse(body, 500)

"""The form of a request, before anybody asks what it wants: version, sizes of URL and headers, announced length."""

from __future__ import annotations

from itertools import chain

from starlette.types import Scope

from api.bodies import BodyError, BodyTooLargeError, HeadersTooLargeError, UrlTooLongError
from api.first_headers import first_headers
from api.settings import Settings
from api.upload_limits import is_upload
from policies import format_bytes


def check_form(scope: Scope, settings: Settings) -> int:
    """The body limit for this request; refuses oversized URLs and headers."""
    if scope["http_version"] not in ("1.0", "1.1"):
        raise BodyError("this server speaks HTTP/1.1", hint="send HTTP/1.1")
    url = len(scope.get("raw_path") or b"") + len(scope.get("query_string", b""))
    if url > settings.max_url_bytes:
        raise UrlTooLongError(
            f"the URL is longer than {format_bytes(settings.max_url_bytes)} (RINGFENCE_MAX_URL_BYTES)"
        )
    if "\0" in scope["path"]:
        raise BodyError("the URL has a NUL character in it")
    headers = scope["headers"]
    if len(headers) > settings.max_headers:
        raise HeadersTooLargeError(
            f"there are {len(headers)} headers, at most {settings.max_headers} (RINGFENCE_MAX_HEADERS)"
        )
    if sum(map(len, chain.from_iterable(headers))) > settings.max_header_bytes:
        most = format_bytes(settings.max_header_bytes)
        raise HeadersTooLargeError(f"the headers are longer than {most} (RINGFENCE_MAX_HEADER_BYTES)")
    names = first_headers(scope)
    if b"content-length" in names and b"transfer-encoding" in names:
        # A proxy in front may go by the one and we by the other: then one's body is the next one's request.
        raise BodyError("a request says Content-Length and Transfer-Encoding", hint="send one of them")
    return settings.max_upload_bytes if is_upload(scope) else settings.max_json_bytes


def announced(scope: Scope) -> int:
    """The body's size as the request says it, in bytes; 0 when it does not."""
    length = first_headers(scope).get(b"content-length", b"0")
    return int(length) if length.isdigit() else 0


def too_large(scope: Scope, limit: int) -> BodyTooLargeError:
    """What to say of a body of more than ``limit`` bytes."""
    setting = "RINGFENCE_MAX_UPLOAD_BYTES" if is_upload(scope) else "RINGFENCE_MAX_JSON_BYTES"
    hint = f"send less, or raise {setting}"
    if scope["path"].removeprefix("/api").startswith("/ringfence/v1/extensions"):
        hint = (
            "leave its example pictures and videos out, add it by its git URL (the host fetches it), "
            f"or raise {setting}"
        )
    return BodyTooLargeError(f"the body is larger than {format_bytes(limit)}", hint=hint)

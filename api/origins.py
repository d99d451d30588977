"""From where a request may come: what stands in Host and in Origin, against rebinding and other pages' requests."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.types import Scope

from api.auth import ForbiddenError
from api.first_headers import first_header
from api.settings import Settings

_LONGEST_NAME = 260


def check_host(
    scope: Scope, allowed: tuple[str, ...], *, any_origin: bool = False, any_address: bool = False
) -> None:
    """Stop DNS rebinding and other pages' requests; in single-user mode nothing but the place of origin protects us.

    ``any_address``: an address may stand there, too, since rebinding needs a name.

    Raises:
        ForbiddenError: Host is no loopback name and not allowed, or Origin is not Host.
    """
    host = first_header(scope, b"host") or ""
    ask = _is_ours_again if len(host) <= _LONGEST_NAME else _is_ours
    if not ask(host, allowed, any_address):
        raise ForbiddenError(
            "this name is not allowed in Host",
            hint='use http://127.0.0.1, or list the name in RINGFENCE_ALLOWED_HOSTS, e.g. ["studio.lan"]',
        )
    if not any_origin:
        check_origin(scope)


def check_origin(scope: Scope) -> None:
    """Refuse what another page sends with what the browser adds by itself.

    Raises:
        ForbiddenError: Origin is not Host.
    """
    origin = first_header(scope, b"origin")
    if origin is None:
        return
    try:
        place = urlsplit(origin)
        host = first_header(scope, b"host") or ""
        same = place.scheme in ("http", "https") and _with_port(place.netloc) == _with_port(host)
    except ValueError:
        same = False
    if not same:
        raise ForbiddenError(
            "requests from other web sites are refused", hint="Origin and Host must be the same"
        )


def _name(netloc: str) -> str:
    try:
        return (urlsplit(f"//{netloc}").hostname or "").rstrip(".").lower()
    except ValueError:
        return ""


def _with_port(netloc: str) -> tuple[str, int | None]:
    parts = urlsplit(f"//{netloc}")
    return (parts.hostname or "").lower(), None if parts.port in (80, 443) else parts.port


def _is_ours(host: str, allowed: tuple[str, ...], any_address: bool) -> bool:
    name = _name(host)
    if name == "localhost" or name.endswith(".localhost") or name in {other.lower() for other in allowed}:
        return True
    try:
        return ipaddress.ip_address(name).is_loopback or any_address
    except ValueError:
        return False


# Clients of one server name it in few ways; what others make up fills 64 places of a few bytes.
_is_ours_again = lru_cache(64)(_is_ours)


def friendly_origin(scope: Scope, settings: Settings) -> str | None:
    """The request's origin if that is another page that may use us."""
    if not settings.allowed_origins:
        return None
    origin = first_header(scope, b"origin") or ""
    return origin if origin.lower() in settings.allowed_origins else None

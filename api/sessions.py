"""The browser's side of a log-in: its cookie, and the proof that a request comes from our own page.

A browser sends its cookie with whatever any page asks of us, another port of this machine included (that is the same
*site*). So the cookie counts only on requests that our own page made: by ``Origin``, which every browser sends with
what can change something and with WebSockets, and by ``Sec-Fetch-Site``.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import Response

from api.auth import ForbiddenError
from api.peers import Peer

COOKIE = "ringfence"
SECURE_COOKIE = "__Host-ringfence"
"""Over TLS: a browser takes a cookie of this name only from this very host, for every path, over TLS."""
_SAFE = ("GET", "HEAD")
_LONGEST = 200


def cookie_of(headers: Headers, peer: Peer) -> str | None:
    """The session's secret that the browser sent, if it sent one."""
    secret = cookie_parser(headers.get("cookie", "")).get(SECURE_COOKIE if peer.is_https else COOKIE)
    return secret if secret and len(secret) <= _LONGEST else None


def give_cookie(response: Response, secret: str, peer: Peer, *, max_age_s: int) -> None:
    """Log the browser in."""
    response.set_cookie(
        SECURE_COOKIE if peer.is_https else COOKIE,
        secret,
        max_age=max_age_s,
        path="/",
        secure=peer.is_https,
        httponly=True,
        samesite="strict",
    )


def take_cookie(response: Response, peer: Peer) -> None:
    """Log the browser out."""
    give_cookie(response, "", peer, max_age_s=0)


def check_own_page(headers: Headers, method: str, peer: Peer) -> None:
    """Refuse what a page of anybody else made the browser send; ``method`` is "WEBSOCKET" for those.

    Raises:
        ForbiddenError: the request does not prove that it comes from our own page.
    """
    origin = headers.get("origin")
    site = headers.get("sec-fetch-site", "").lower()
    if origin is not None:
        is_own = _is_same(origin, headers.get("host", ""), peer)
    elif method in _SAFE:
        # What a person opened, or a browser that does not say; another page would learn nothing from it.
        is_own = site in ("", "none", "same-origin") or is_navigation(headers, method)
    else:
        is_own = site == "same-origin"
    if not is_own or (site == "same-site" and not is_navigation(headers, method)):
        raise ForbiddenError(
            "this did not come from this server's own page",
            hint="programs send 'Authorization: Bearer TOKEN'; behind a proxy that ends TLS, name it in "
            "RINGFENCE_TRUSTED_PROXIES and let it pass Host on",
        )


def is_navigation(headers: Headers, method: str) -> bool:
    """True for a page that a browser opens in a tab: a frame or a picture of another page is none."""
    if method not in _SAFE:
        return False
    mode = headers.get("sec-fetch-mode")
    if mode is None:  # over plain HTTP browsers say nothing of it
        return "text/html" in headers.get("accept", "")
    return mode == "navigate" and headers.get("sec-fetch-dest", "document") == "document"


def local_path(wanted: str) -> str:
    """Where to go after a log-in: a path of this server, whatever was asked for."""
    if not wanted.startswith("/") or wanted.startswith("//") or len(wanted) > 2000:
        return "/"
    if any(char == "\\" or ord(char) <= 0x20 or ord(char) >= 0x7F for char in wanted):
        return "/"  # browsers drop some of these, and read a backslash as a slash
    return "/" if wanted.startswith(("/ringfence/login", "/ringfence/logout")) else wanted


def _is_same(origin: str, host: str, peer: Peer) -> bool:
    try:
        place, ours = urlsplit(origin), urlsplit(f"//{host}")
        usual = 443 if peer.is_https else 80
        return (
            place.scheme == ("https" if peer.is_https else "http")
            and bool(place.hostname)
            and place.hostname == (ours.hostname or "").lower()
            and (place.port or usual) == (ours.port or usual)
        )
    except ValueError:
        return False

"""A request's headers for those who look one up: sought once, and not anew for each question."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.types import Scope

_KEPT = "ringfence_headers"


def first_headers(scope: Scope) -> Mapping[bytes, bytes]:
    """The first of each name, which is in lower case, as every server below hands it over."""
    found: Mapping[bytes, bytes] | None = scope.get(_KEPT)
    if found is None:
        found = scope[_KEPT] = dict(reversed(scope["headers"]))
    return found


def first_header(scope: Scope, name: bytes) -> str | None:
    """The text of one, if it is there."""
    found = first_headers(scope).get(name)
    return None if found is None else found.decode("latin-1")

"""Which paths a route of a pack answers, decided without running anybody's pattern; pure.

A pack writes paths as aiohttp reads them: ``/a/{name}``, ``/a/{name:regex}``, or a folder. A regex of a stranger is
never compiled here: such a route takes every path that begins with what stands before it, and the sandbox, which does
know its routes, answers 404 where it has none. A route whose first part is a variable is asked after all others and
gets no path of this server's; one that names nothing of its own would take everybody's, and is none at ComfyUI's path.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote

OWN_PARTS = frozenset({"ringfence", "internal", "healthz", "readyz", "metrics", "ws"})
"""First parts of paths that are this server's own, whatever routes it has there."""
MAX_PATH = 1024
_VARIABLE = re.compile(r"\{[A-Za-z_][A-Za-z0-9_]*\}")


@dataclass(frozen=True, slots=True)
class RoutePath:
    """One route, ready to be compared."""

    method: str
    parts: tuple[str | None, ...]
    """The path cut at its slashes; None stands for any text without one."""
    is_open: bool
    """The path may go on after these parts, in any way."""
    text: str
    is_last: bool = False
    """Its first part is a variable: asked only where no other route answers."""

    def answers(self, method: str, parts: tuple[str, ...]) -> bool:
        """Whether a request may be for this route."""
        if self.method not in ("*", method) and not (
            (method == "HEAD" and self.method == "GET")
            or (self.method == "STATIC" and method in ("GET", "HEAD"))
        ):
            return False
        if self.is_open:
            if len(parts) < len(self.parts):
                return False
        elif len(parts) != len(self.parts):
            return False
        if self.is_last and (parts[0] in OWN_PARTS or parts[0] == "api"):
            return False
        *before, last = zip(self.parts, parts, strict=False)
        if any(mine not in (None, theirs) or not theirs for mine, theirs in before):
            return False
        mine, theirs = last
        if self.is_open and self.method != "STATIC":
            return mine is None or theirs.startswith(mine)
        return mine == theirs or (mine is None and theirs != "")


def read_route(method: str, path: str) -> RoutePath | None:
    """A route as a pack registered it; None when it cannot be reached at ComfyUI's path."""
    if not path.startswith("/") or len(path) > MAX_PATH or not path.isprintable():
        return None
    bare = _VARIABLE.sub("{}", path.rstrip("/") if method == "STATIC" else path)
    head, brace, _ = bare.partition("{")
    is_open = method == "STATIC"
    while brace and bare[len(head) :].startswith("{}"):
        rest, brace, _ = bare[len(head) + 2 :].partition("{")
        head = bare[: len(head) + 2 + len(rest)]
    if brace:  # a variable with a regex: what stands before it is all that is looked at
        bare, is_open = head, True
    parts = tuple(None if "{}" in part else unquote(part) for part in bare.split("/")[1:])
    own = parts[1:] if parts[:1] == ("api",) else parts
    if parts[:1] == (None,):
        named = parts[1:-1] if is_open else parts[1:]
        is_somebodys = method != "STATIC" and any(named)
        return RoutePath(method, parts, is_open, path, is_last=True) if is_somebodys else None
    if not own or not own[0] or own[0] in OWN_PARTS or (is_open and len(own) < 2 and method != "STATIC"):
        return None
    return RoutePath(method, parts, is_open, path)


def path_parts(path: str) -> tuple[str, ...]:
    """A request's path, percent-decoded, cut at its slashes."""
    return tuple(path.split("/")[1:])


def read_routes(routes: Iterable[tuple[str, str]]) -> tuple[RoutePath, ...]:
    """All routes that can be reached at ComfyUI's path."""
    return tuple(found for method, path in routes if (found := read_route(method, path)) is not None)

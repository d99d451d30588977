"""Which route needs which scope: one table for the whole API. What is not in it is refused, but to the operator.

The guard asks before any route runs and before anything is looked up, so a refusal says nothing about what exists. A
test goes over every route of the application and demands that it stands here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.routing import Match
from starlette.types import Scope as AsgiScope

from api.auth import ForbiddenError, Identity
from api.routes.frontend import FrontendRoute
from engine import Scope

_RUN, _UPLOAD, _ADMIN = Scope.RUN, Scope.UPLOAD, Scope.ADMIN


class Need(Enum):
    """What a route asks of whoever calls it; any one of the scopes will do."""

    OPEN = frozenset[Scope]()
    """Nothing at all."""
    KNOWN = frozenset(Scope)
    """A token of any scope."""
    READ = frozenset((_RUN, _ADMIN))
    RUN = frozenset((_RUN,))
    UPLOAD = frozenset((_UPLOAD,))
    ADMIN = frozenset((_ADMIN,))
    OPERATOR = frozenset(("operator",))
    """The operator's token."""


_N = Need
WEBSOCKET = "WEBSOCKET"
# By path without "/api" in front, where the route has a twin there; then by method.
NEEDS: dict[str, dict[str, Need]] = {
    # -- prompts and what they made
    "/prompt": {"GET": _N.RUN, "POST": _N.RUN},
    "/queue": {"GET": _N.RUN, "POST": _N.RUN},
    "/interrupt": {"POST": _N.RUN},
    "/free": {"POST": _N.RUN},
    "/history": {"GET": _N.RUN, "POST": _N.RUN},
    "/history/{prompt_id}": {"GET": _N.RUN},
    "/api/jobs": {"GET": _N.RUN},
    "/api/jobs/{job_id}": {"GET": _N.RUN},
    "/api/jobs/{job_id}/cancel": {"POST": _N.RUN},
    "/api/jobs/cancel": {"POST": _N.RUN},
    "/ws": {"GET": _N.RUN, WEBSOCKET: _N.RUN},
    "/view": {"GET": _N.RUN, "HEAD": _N.RUN},
    "/object_info": {"GET": _N.RUN},
    "/object_info/{class_type:path}": {"GET": _N.RUN},
    "/node_replacements": {"GET": _N.RUN},
    "/ringfence/v1/prompts/{prompt_id}": {"GET": _N.RUN},
    "/ringfence/v1/extensions/{name}/routes/{path:path}": dict.fromkeys(
        ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", WEBSOCKET), _N.RUN
    ),
    # -- files that a tenant brings
    "/upload/image": {"POST": _N.UPLOAD},
    "/upload/mask": {"POST": _N.UPLOAD},
    "/users": {"GET": _N.READ, "POST": _N.UPLOAD},
    "/settings": {"GET": _N.READ, "POST": _N.UPLOAD},
    "/settings/{name:path}": {"GET": _N.READ, "POST": _N.UPLOAD},
    "/userdata": {"GET": _N.RUN},
    "/v2/userdata": {"GET": _N.RUN},
    "/userdata/{_file:path}": {
        "GET": _N.RUN,
        "HEAD": _N.RUN,
        "POST": _N.UPLOAD,
        "DELETE": _N.UPLOAD,
    },
    # -- what there is to choose from
    "/models": {"GET": _N.READ},
    "/models/{folder}": {"GET": _N.READ},
    "/embeddings": {"GET": _N.READ},
    "/experiment/models": {"GET": _N.READ},
    "/experiment/models/{folder}": {"GET": _N.READ},
    "/experiment/models/preview/{folder}/{path_index}/{filename:path}": {"GET": _N.READ},
    "/view_metadata/{folder}": {"GET": _N.READ},
    "/system_stats": {"GET": _N.KNOWN},
    "/features": {"GET": _N.KNOWN},
    "/extensions": {"GET": _N.READ},
    "/extensions/{name}/{path:path}": {"GET": _N.READ},
    "/i18n": {"GET": _N.READ},
    "/workflow_templates": {"GET": _N.READ},
    "/api/workflow_templates/{pack}/{file}": {"GET": _N.READ},
    "/global_subgraphs": {"GET": _N.READ},
    "/global_subgraphs/{subgraph_id}": {"GET": _N.READ},
    "/api/assets": dict.fromkeys(("GET", "HEAD", "POST", "PUT", "DELETE"), _N.KNOWN),  # off
    "/api/assets/{_rest:path}": dict.fromkeys(("GET", "HEAD", "POST", "PUT", "DELETE"), _N.KNOWN),
    "/api/tags": {"GET": _N.KNOWN},
    "/internal/logs": {"GET": _N.READ},
    "/internal/logs/raw": {"GET": _N.READ},
    "/internal/logs/subscribe": {"PATCH": _N.RUN},
    "/internal/folder_paths": {"GET": _N.READ},
    "/internal/files/{kind}": {"GET": _N.RUN},
    # -- the Comfy API v2
    "/api/v2/health": {"GET": _N.KNOWN},
    "/api/v2/jobs": {"GET": _N.RUN, "POST": _N.RUN},
    "/api/v2/jobs/{job_id}": {"GET": _N.RUN},
    "/api/v2/jobs/{job_id}/cancel": {"POST": _N.RUN},
    "/api/v2/jobs/{job_id}/events": {"GET": _N.RUN},
    "/api/v2/jobs/{job_id}/workflow": {"GET": _N.RUN},
    "/api/v2/assets": {"POST": _N.UPLOAD},
    "/api/v2/assets/from-hash": {"POST": _N.UPLOAD},
    "/api/v2/assets/by-hash/{digest}": {"HEAD": _N.RUN},
    "/api/v2/assets/{asset_id}": {"GET": _N.RUN, "DELETE": _N.UPLOAD},
    "/api/v2/assets/{asset_id}/content": {"GET": _N.RUN, "HEAD": _N.RUN},
    # -- a tenant's extensions, sandboxes, tokens and sessions
    "/ringfence/v1/extensions": {"GET": _N.READ, "POST": _N.ADMIN},
    "/ringfence/v1/extensions/{name}": {"DELETE": _N.ADMIN},
    "/ringfence/v1/extensions/{name}/reload": {"POST": _N.ADMIN},
    "/ringfence/v1/extensions/{name}/update": {"POST": _N.ADMIN},
    "/ringfence/v1/extensions/{name}/sbom": {"GET": _N.READ},
    "/ringfence/v1/extensions/{name}/audit": {"GET": _N.READ},
    "/ringfence/v1/extensions/{name}/verify": {"POST": _N.ADMIN},
    "/ringfence/v1/sandboxes": {"GET": _N.READ},
    "/ringfence/v1/sandboxes/{sandbox}": {"DELETE": _N.ADMIN},
    "/ringfence/v1/sandboxes/{sandbox}/logs": {"GET": _N.READ},
    "/ringfence/v1/policies/schema": {"GET": _N.KNOWN},
    "/ringfence/v1/policies/{extension}": {"GET": _N.READ},
    "/ringfence/v1/tokens": {"GET": _N.ADMIN, "POST": _N.ADMIN},
    "/ringfence/v1/tokens/{name}": {"DELETE": _N.ADMIN},
    "/ringfence/v1/sessions": {"GET": _N.ADMIN},
    "/ringfence/v1/sessions/{session_id}": {"DELETE": _N.ADMIN},
    "/ringfence/v1/tenants/{name}/usage": {"GET": _N.KNOWN},  # of one's own, or for the operator
    "/ringfence/v1/audit": {"GET": _N.ADMIN},
    "/ringfence/v1/audit/events": {"GET": _N.ADMIN},
    "/ringfence/v1/status": {"GET": _N.KNOWN},
    "/ringfence/v1/openapi.json": {"GET": _N.KNOWN, "HEAD": _N.KNOWN},
    "/ringfence/v1/licences": {"GET": _N.KNOWN},
    # -- the operator's
    "/ringfence/v1/policies/check": {"POST": _N.OPERATOR},
    "/ringfence/v1/policies/{extension}/learn": {"POST": _N.OPERATOR},
    "/ringfence/v1/doctor": {"GET": _N.OPERATOR},
    "/ringfence/v1/tenants": {"GET": _N.OPERATOR, "POST": _N.OPERATOR},
    "/ringfence/v1/tenants/{name}": {"DELETE": _N.OPERATOR},
    "/ringfence/v1/tenants/{name}/rotate-token": {"POST": _N.OPERATOR},
    "/metrics": {"GET": _N.OPERATOR},
    # -- everybody's
    "/healthz": {"GET": _N.OPEN},
    "/readyz": {"GET": _N.OPEN},
    "/ringfence/login": {"GET": _N.OPEN, "POST": _N.OPEN},
    "/ringfence/logout": {"POST": _N.OPEN},
    "/{frontend}": {"GET": _N.KNOWN, "HEAD": _N.KNOWN},
}
_NOT_BY_COOKIE = ("/ringfence/v1/tokens", "/ringfence/v1/tenants")
"""Script of a pack in the page has what the page's log-in has; it must not turn that into a token that stays."""
_AT_A_PACKS_OWN_PATH = Need.RUN
"""Where this server has no route a pack may answer; else the answer is a 404."""


@dataclass(frozen=True, slots=True)
class _Rule:
    methods: frozenset[str]
    pattern: re.Pattern[str]
    need: dict[str, Need]


class Permissions:
    """The table, laid over the routes of one application in the order in which they are asked."""

    def __init__(self, app: FastAPI) -> None:
        self._rules = [
            _Rule(methods, pattern, _needs(path))
            for path, methods, pattern in routes_of(app)
            if pattern is not None
        ]
        found = [route for route in app.router.routes if isinstance(route, FrontendRoute)]
        self._frontend = found[0] if found else None

    def check(self, scope: AsgiScope, identity: Identity) -> None:
        """Raises: ForbiddenError unless this caller may use the route of this request."""
        if (
            identity.session_sha256
            and scope["path"].startswith(_NOT_BY_COOKIE)
            and scope.get("method") != "GET"
        ):
            raise ForbiddenError(
                "a browser's log-in makes, replaces and revokes no tokens and no tenants",
                hint="use the command with the token itself: ringfence token create",
            )
        if identity.is_operator:
            return
        need = self.need(scope)
        if need is None:
            raise ForbiddenError("this route is closed", hint="no scope opens it; the operator can use it")
        if need is Need.OPEN or identity.scopes & need.value:
            return
        if need is Need.OPERATOR:
            identity.require_operator()
        wanted = " or ".join(sorted(str(scope) for scope in need.value))
        has = ", ".join(sorted(identity.scopes)) or "none"
        raise ForbiddenError(
            f"this needs a token with the scope {wanted}; yours has: {has}",
            hint="make one: ringfence token create NAME --scope ...",
        )

    def need(self, scope: AsgiScope) -> Need | None:
        """What the route of this request asks; None where a route stands that the table does not know."""
        method = WEBSOCKET if scope["type"] == "websocket" else scope["method"]
        tries = (method, "GET") if method == "HEAD" else (method,)
        for each in tries:
            for rule in self._rules:
                if each in rule.methods and rule.pattern.match(scope["path"]):
                    return rule.need.get(each)
        if self._frontend is not None and self._frontend.matches(scope)[0] is Match.FULL:
            return NEEDS[self._frontend.path]["GET"]
        return _AT_A_PACKS_OWN_PATH

    def is_page(self, scope: AsgiScope) -> bool:
        """Whether this is a file of the web page itself: hundreds at each visit, cheap, and the same for everybody."""
        if self._frontend is None or self._frontend.matches(scope)[0] is not Match.FULL:
            return False
        return not any("GET" in rule.methods and rule.pattern.match(scope["path"]) for rule in self._rules)


def routes_of(app: FastAPI) -> list[tuple[str, frozenset[str], re.Pattern[str] | None]]:
    """Every route: its path as it was declared, its methods, and what it matches (None: it decides by itself)."""
    found = []
    for context in iter_route_contexts(app.router.routes):
        path = context.path or ""
        pattern = getattr(context, "path_regex", None)
        methods = frozenset(context.methods or ())
        if not methods:
            methods = frozenset(("GET", "HEAD")) if pattern is None else frozenset((WEBSOCKET,))
        found.append((path, methods, pattern))
    return found


def _needs(path: str) -> dict[str, Need]:
    return NEEDS.get(path) or NEEDS.get(path.removeprefix("/api")) or {}

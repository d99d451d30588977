"""What the host records in its audit log: who asked, from where, for what, and what became of it.

One place for all routes: the guard calls ``answered`` once for each request. What changes something stands in
``_CHANGES``; what was refused is recorded whatever the route, with the line of the policy where one decided. Refusals
and calls of routes are kept to a rate per sender, and what is over it is counted in the next one.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final

import anyio.to_thread
from fastapi import Request
from starlette.types import Scope

from api.auth import AuthError, ForbiddenError, Identity
from api.peers import peer_of
from api.remarks import remarks_of
from api.services import Services, identity_of
from engine import Engine
from engine.events import PromptEvent, PromptFailed, PromptInterrupted, PromptSucceeded
from policies import ExtensionName, PolicyError, PolicyStore, RingfenceError, TenantId, safe_text
from sandbox import (
    Allowance,
    Attempt,
    AuditEvent,
    AuditValue,
    AuditWriter,
    Entry,
    FastPath,
    Outcome,
    Verdict,
    denial,
    log_attempt,
    takes,
)

ENDS: Final[tuple[type[PromptEvent], ...]] = (PromptSucceeded, PromptFailed, PromptInterrupted)
"""What ``prompt_witness`` is to be told of."""
_SENDERS: Final = 4096
_CLASSES: Final = 64
_DIGESTS_S: Final = 0.25
"""For so long the policies of a tenant's prompt are those of its last one."""
_DIGESTS_KEPT: Final = 256
_V1: Final = "/ringfence/v1"
#: Method, path, what was done. The last part of the path, or what the route remarked, says to which.
_CHANGES: Final = tuple(
    (method, re.compile(pattern + r"\Z"), what)
    for method, pattern, what in (
        ("POST", rf"{_V1}/extensions", "extension added"),
        ("DELETE", rf"{_V1}/extensions/(?P<name>[^/]+)", "extension removed"),
        ("POST", rf"{_V1}/extensions/(?P<name>[^/]+)/reload", "extension reloaded"),
        ("POST", rf"{_V1}/extensions/(?P<name>[^/]+)/update", "extension updated"),
        ("POST", rf"{_V1}/policies/(?P<name>[^/]+)/learn", "extension watched to learn its policy"),
        ("DELETE", rf"{_V1}/sandboxes/(?P<name>[^/]+)", "sandbox stopped"),
        ("POST", rf"{_V1}/tokens", "token made"),
        ("DELETE", rf"{_V1}/tokens/(?P<name>[^/]+)", "token revoked"),
        ("DELETE", rf"{_V1}/sessions/(?P<name>[^/]+)", "session ended"),
        ("POST", rf"{_V1}/tenants", "tenant created"),
        ("DELETE", rf"{_V1}/tenants/(?P<name>[^/]+)", "tenant removed"),
        ("POST", rf"{_V1}/tenants/(?P<name>[^/]+)/rotate-token", "token replaced"),
        ("POST", r"(/api)?/queue", "queue changed"),
        ("POST", r"(/api)?/interrupt", "prompts interrupted"),
        ("POST", r"/api(/v2)?/jobs/((?P<name>[^/]+)/)?cancel", "job cancelled"),
        ("POST", r"/ringfence/logout", "logged out"),
    )
)
#: What lets go of something is done even while nothing can be recorded.
_ALWAYS: Final = re.compile(
    r"(/api)?/(queue|interrupt|free|history)\Z|/api(/v2)?/jobs/.*cancel\Z|/ringfence/logout\Z"
)
_READS: Final = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})
_TURNED_AWAY: Final = frozenset(
    {
        "audit-unavailable",
        "queue-full",
        "too-many-attempts",
        "too-many-sockets",
        "too-many-streams",
        "update-asks-more",
    }
)


class Trail:
    """Records requests of one application."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._senders: OrderedDict[str, tuple[Allowance, list[int]]] = OrderedDict()
        self._digests: dict[tuple[TenantId, tuple[ExtensionName, ...]], tuple[float, dict[str, str]]] = {}

    async def digests(
        self, policies: PolicyStore, tenant: TenantId, extensions: list[ExtensionName]
    ) -> dict[str, str]:
        """The policy that is effective for each: as of 250 ms ago at most, while prompts follow closely."""
        key = (tenant, tuple(extensions))
        known, read_at = self._digests.get(key), self._clock()
        if known is not None and read_at - known[0] < _DIGESTS_S and takes(FastPath.KEPT_DIGESTS):
            return known[1]
        found = await anyio.to_thread.run_sync(_digests, policies, tenant, extensions)
        if len(self._digests) >= _DIGESTS_KEPT:
            self._digests.clear()
        self._digests[key] = (read_at, found)
        return found

    def check(self, scope: Scope, services: Services) -> None:
        """Raises: AuditUnavailableError where new work is asked for and the log is required and cannot be kept."""
        if scope["type"] == "http" and scope["method"] not in _READS and not _ALWAYS.match(scope["path"]):
            services.audit.check()

    def answered(self, scope: Scope, services: Services, identity: Identity | None, status: int) -> None:
        """A request has its answer."""
        remarks = remarks_of(scope)
        method = str(scope.get("method", "WEBSOCKET"))
        peer = peer_of(scope, services.settings.trusted_proxies)
        about: dict[str, Any] = {
            "tenant": identity.tenant if identity is not None else "",
            "by": who(identity),
            "address": str(peer.address),
        }
        request: dict[str, AuditValue] = {"request": f"{method} {scope['path']}", "status": status}
        error = remarks.error
        if error is not None and _is_refusal(error):
            key = f"refused {about['tenant']} {peer.group}"
            unrecorded = self._unrecorded(key, rate=0.5, burst=30.0)
            if unrecorded is None:
                return
            event = AuditEvent.LOGIN_FAILED if isinstance(error, AuthError) else AuditEvent.REFUSED
            refused: dict[str, AuditValue] = {
                **request,
                **remarks.details,
                "code": error.code,
                "unrecorded": unrecorded,
            }
            found = denial(error)
            services.audit.note(
                Entry(
                    event,
                    Outcome.DENIED,
                    extensions=_names(remarks.extension),
                    text=error.message,
                    denied_by=found.get("denied_by", ""),
                    would_allow=found.get("would_allow", "") or error.hint,
                    details=refused,
                    **about,
                )
            )
        elif remarks.is_route:
            unrecorded = self._unrecorded(
                f"route {about['tenant']} {remarks.extension}", rate=5.0, burst=50.0
            )
            if unrecorded is not None:
                details = {**request, "unrecorded": unrecorded}
                services.audit.note(
                    Entry(
                        AuditEvent.ROUTE_CALLED,
                        extensions=_names(remarks.extension),
                        details=details,
                        **about,
                    )
                )
        elif change := _change(method, scope["path"]):
            what, name = change
            outcome = Outcome.OK if status < 400 and error is None else Outcome.FAILED
            text = what if error is None else f"{what}: {error.message}"
            details = {**request, **({"name": name} if name else {}), **remarks.details}
            extension = remarks.extension or (name if what.startswith("extension") else "")
            services.audit.note(
                Entry(
                    AuditEvent.CHANGED,
                    outcome,
                    text=text,
                    extensions=_names(extension),
                    details=details,
                    **about,
                )
            )

    def _unrecorded(self, sender: str, *, rate: float, burst: float) -> int | None:
        """How many of this sender had no record since the last one; None when this one gets none either."""
        allowance, count = self._senders.setdefault(sender, (Allowance(rate, burst), [0]))
        self._senders.move_to_end(sender)
        while len(self._senders) > _SENDERS:
            self._senders.popitem(last=False)
        if not allowance.take():
            count[0] += 1
            return None
        found, count[0] = count[0], 0
        return found


def who(identity: Identity | None) -> str:
    """As records say it."""
    if identity is None:
        return ""
    name = "operator" if identity.is_operator else f"token {identity.token_name or '?'}"
    return f"session of {name}" if identity.session_sha256 else name


def logged_in(services: Services, name: str, tenant: str, address: str, *, failed: bool = False) -> None:
    """A browser's log-in."""
    event, outcome = (
        (AuditEvent.LOGIN_FAILED, Outcome.DENIED) if failed else (AuditEvent.LOGGED_IN, Outcome.OK)
    )
    services.audit.note(Entry(event, outcome, tenant=tenant, by=name, address=address, text="log-in page"))


async def queued(request: Request, services: Services, prompt_id: str, graph: Mapping[str, Any]) -> None:
    """A prompt was accepted: its classes, whose they are, and the policy that is effective for each."""
    identity = identity_of(request)
    classes = _classes(graph)
    extensions = await _extensions(services.engine, identity.tenant, classes)
    trail: Trail = request.app.state.trail
    policies = await trail.digests(services.policies, identity.tenant, extensions)
    services.audit.note(
        Entry(
            AuditEvent.PROMPT_QUEUED,
            tenant=identity.tenant,
            extensions=extensions,
            prompt=prompt_id,
            by=who(identity),
            address=str(peer_of(request.scope, services.settings.trusted_proxies).address),
            details={"nodes": len(graph), "classes": classes, "policies": policies},
        )
    )


def prompt_witness(audit: AuditWriter) -> Callable[[PromptEvent], None]:
    """Records the end of each prompt from the engine's events; to be told of ``ENDS``."""

    def see(event: PromptEvent) -> None:
        match event:
            case PromptSucceeded():
                outcome, text, details = Outcome.OK, "", {}
            case PromptInterrupted():
                outcome, text, details = Outcome.FAILED, "interrupted", {"node": event.node_id}
            case PromptFailed():
                outcome = Outcome.FAILED
                text = str(event.details.get("exception_message", ""))
                details = {
                    "node": str(event.details.get("node_id", "")),
                    "class": str(event.details.get("node_type", "")),
                    "error": str(event.details.get("exception_type", "")),
                }
            case _:
                return
        audit.note(
            Entry(
                AuditEvent.PROMPT_ENDED,
                outcome,
                tenant=event.tenant,
                prompt=event.prompt_id,
                text=text,
                details=details,
            )
        )

    return see


def egress_sink(audit: AuditWriter) -> Callable[[Attempt], None]:
    """Records each attempt of a sandbox to reach a host."""

    def see(attempt: Attempt) -> None:
        log_attempt(attempt)
        outcome = {
            Verdict.ALLOWED: Outcome.OK,
            Verdict.REFUSED: Outcome.DENIED,
            Verdict.FAILED: Outcome.FAILED,
        }[attempt.verdict]
        audit.note(
            Entry(
                AuditEvent.EGRESS,
                outcome,
                tenant=attempt.tenant,
                extensions=attempt.extensions,
                sandbox=attempt.sandbox,
                text=attempt.reason,
                **denial(RingfenceError(attempt.reason)) if outcome is Outcome.DENIED else {},
                details={
                    "target": attempt.target,
                    "address": attempt.address,
                    "method": attempt.method,
                    "secret": attempt.secret,
                    "up": attempt.up,
                    "down": attempt.down,
                    "seconds": round(attempt.seconds, 3),
                    "unrecorded": attempt.unrecorded,
                },
            )
        )

    return see


def _is_refusal(error: RingfenceError) -> bool:
    return (
        isinstance(error, AuthError | ForbiddenError | PolicyError)
        or error.code.startswith("quota-")
        or error.code in _TURNED_AWAY
        or bool(denial(error))
    )


def _change(method: str, path: str) -> tuple[str, str] | None:
    for wanted, pattern, what in _CHANGES:
        if wanted == method and (found := pattern.match(path)):
            return what, found.groupdict().get("name") or ""
    return None


def _names(extension: str) -> tuple[str, ...]:
    return (extension,) if extension else ()


def _classes(graph: Mapping[str, Any]) -> list[str]:
    found = {
        safe_text(str(node["class_type"]), 200)
        for node in graph.values()
        if isinstance(node, Mapping) and "class_type" in node
    }
    return sorted(found)[:_CLASSES]


async def _extensions(engine: Engine, tenant: TenantId, classes: list[str]) -> list[ExtensionName]:
    try:
        types = await engine.extensions.node_types(tenant)
    except RingfenceError:
        return []  # the prompt is queued all the same; its sandboxes' own records name them
    return sorted({types[name].extension for name in classes if name in types})


def _digests(policies: PolicyStore, tenant: TenantId, extensions: list[ExtensionName]) -> dict[str, str]:
    found = {}
    for extension in extensions[:_CLASSES]:
        try:
            found[str(extension)] = policies.effective(extension, tenant).digest()
        except RingfenceError as error:
            found[str(extension)] = error.code
    return found

"""Figures for Prometheus. Labels come from closed sets (route patterns, states), never from what a client sends."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from api.usage import usage_of
from policies import LOCAL_TENANT, TenantId

if TYPE_CHECKING:
    from api.services import Services

REGISTRY = CollectorRegistry()

REQUESTS = Counter(
    "ringfence_http_requests", "HTTP requests answered", ["method", "route", "status"], registry=REGISTRY
)
REQUEST_SECONDS = Histogram(
    "ringfence_http_request_seconds", "Time to answer an HTTP request", ["route"], registry=REGISTRY
)
WEBSOCKETS = Gauge("ringfence_websockets", "Open WebSockets", registry=REGISTRY)
WEBSOCKETS_DROPPED = Counter(
    "ringfence_websockets_dropped",
    "WebSocket clients dropped because they read too slowly",
    registry=REGISTRY,
)
QUEUE_REMAINING = Gauge(
    "ringfence_queue_remaining", "Prompts pending or running", ["tenant"], registry=REGISTRY
)
SANDBOXES = Gauge("ringfence_sandboxes", "Sandboxes by state", ["state"], registry=REGISTRY)
POOL = Gauge("ringfence_pool_spares", "Spare sandboxes kept and room for more", ["state"], registry=REGISTRY)
POOL_STARTS = Gauge(
    "ringfence_pool_starts", "Starts served by a spare, or from nothing", ["from"], registry=REGISTRY
)

QUOTA_LIMIT = Gauge("ringfence_quota_limit", "What a tenant may use", ["tenant", "quota"], registry=REGISTRY)
QUOTA_USED = Gauge("ringfence_quota_used", "What it uses", ["tenant", "quota"], registry=REGISTRY)
QUOTA_REFUSALS = Gauge(
    "ringfence_quota_refusals",
    "Refusals because of a quota since the start",
    ["tenant", "quota"],
    registry=REGISTRY,
)

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def observe_request(scope: Any, status: int, seconds: float) -> None:
    """Count one answered request under its route's pattern."""
    route = getattr(scope.get("route"), "path", None) or "other"
    method = scope["method"] if scope["method"] in _METHODS else "other"
    count, times = _counted_under(method, route, status)
    count.inc()
    times.observe(seconds)


@cache
def _counted_under(method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    """Kept without an end, as the registry keeps them: each comes from a closed set."""
    return REQUESTS.labels(method, route, str(status or 499)), REQUEST_SECONDS.labels(route)


async def _quotas(services: Services, tenant: TenantId) -> None:
    shown = await usage_of(services, tenant, None)
    for quota, item in shown["quotas"].items():
        for gauge, value in ((QUOTA_LIMIT, item["limit"]), (QUOTA_USED, item["used"])):
            if value is not None:
                gauge.labels(tenant, quota).set(value)


async def render(services: Services) -> bytes:
    """The text that Prometheus reads, with the states as they are now."""
    engine = services.engine
    SANDBOXES.clear()
    for info in engine.sandboxes.list():
        SANDBOXES.labels(str(info.state)).inc()
    pool = engine.sandboxes.pool
    for state, count in (("size", pool.size), ("ready", pool.ready), ("starting", pool.starting)):
        POOL.labels(state).set(count)
    POOL_STARTS.labels("spare").set(pool.taken)
    POOL_STARTS.labels("nothing").set(pool.missed)
    names = [tenant.name for tenant in await services.tenants.list()] or [LOCAL_TENANT]
    for name in names:
        counts = await engine.counts(name)
        QUEUE_REMAINING.labels(name).set(counts.pending + counts.running)
        await _quotas(services, name)
    QUOTA_REFUSALS.clear()
    for tenant, quota, count in services.quotas.refusals():
        if tenant in names:
            QUOTA_REFUSALS.labels(tenant, quota).set(count)
    return generate_latest(REGISTRY)

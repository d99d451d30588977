"""A tenant's quotas beside what it uses, for people and for Prometheus."""

from __future__ import annotations

from typing import Any

from api.services import Services
from policies import QUOTA_KEYS, TenantId
from sandbox import SandboxState


async def usage_of(services: Services, tenant: TenantId, websockets: int | None) -> dict[str, Any]:
    """``{"tenant", "quotas": {key: {"limit", "used", "source"}}}``; None: no limit, or nothing that is counted."""
    quotas = await services.quotas.of(tenant)
    counts = await services.engine.counts(tenant)
    sandboxes = [
        info for info in services.engine.sandboxes.list(tenant) if info.state is not SandboxState.SPARE
    ]
    used: dict[str, float | int | None] = {
        "prompts": counts.running,
        "queued": counts.pending,
        "sandboxes": len(sandboxes),
        "memory": sum(info.memory_limit for info in sandboxes),
        "shared_memory": None if services.store is None else services.store.usage(tenant).bytes,
        "websockets": websockets,
        "history": counts.history_bytes,
        **await services.quotas.measured(tenant),
    }
    return {
        "tenant": tenant,
        "quotas": {
            key: {
                "limit": getattr(quotas, key),
                "used": used.get(key),
                "source": quotas.source(key) if getattr(quotas, key) is not None else None,
            }
            for key in QUOTA_KEYS
        },
    }

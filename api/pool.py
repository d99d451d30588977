"""The pool of spare sandboxes as operators see it: for the doctor, the status and Prometheus."""

from __future__ import annotations

from typing import Any

from api.doctor_check import Check
from policies import safe_text
from sandbox import PoolState

_SHOWN = 20


def as_json(pool: PoolState) -> dict[str, Any]:
    """For the operator's status; names of other tenants are in it."""
    return {
        "size": pool.size,
        "ready": pool.ready,
        "starting": pool.starting,
        "taken": pool.taken,
        "missed": pool.missed,
        "without": [
            {"tenant": tenant, "name": name, "why": safe_text(why, 300)}
            for tenant, name, why in pool.without[:_SHOWN]
        ],
    }


def check(pool: PoolState, memory: int) -> Check:
    """What the doctor says; ``memory`` is what the spares use together."""
    if pool.size == 0:
        return Check("pool", "ok", "no spare sandboxes are kept (RINGFENCE_POOL)")
    waits = "" if not pool.without else f"; {len(pool.without)} extensions used before have none"
    because = (
        "" if not pool.without else f", such as {pool.without[-1][1]}: {safe_text(pool.without[-1][2], 200)}"
    )
    return Check(
        "pool",
        "ok",
        f"{pool.ready} of {pool.size} spare sandboxes wait with {memory // 2**20} MiB; {pool.taken} starts came from "
        f"it, {pool.missed} from nothing{waits}{because}",
    )

"""What operators ask that ComfyUI has no route for: status, where a prompt's nodes ran, the doctor."""

from __future__ import annotations

from collections import Counter
from typing import Any

import anyio
from fastapi import APIRouter
from starlette.responses import Response

from api import doctor, doctor_running, jobs, pool
from api.errors import OrjsonResponse
from api.routes.system import ringfence_version
from api.services import Caller, ForTenant, Have, Operator
from api.trees import FileUnknownError
from policies import safe_text
from sandbox import SandboxState

router = APIRouter()


@router.get("/status")
async def status(services: Have, caller: Caller) -> Response:
    """Version, mode, and the caller's queue, extensions and sandboxes in figures."""
    snapshot = await services.engine.queue(caller.tenant)
    extensions = await services.engine.extensions.list(caller.tenant)
    sandboxes = services.engine.sandboxes.list(caller.tenant)
    return OrjsonResponse(
        {
            "version": ringfence_version(),
            "instance": services.settings.instance,
            "mode": "single-user" if await services.tenants.is_single_user() else "tenants",
            "tenant": caller.tenant,
            "operator": caller.is_operator,
            "queue": {"running": len(snapshot.running), "pending": len(snapshot.pending)},
            "extensions": dict(Counter(str(info.state) for info in extensions)),
            "sandboxes": dict(Counter(str(info.state) for info in sandboxes)),
            # So that the command can name files on this very machine; a tenant learns no path of it.
            **(
                {
                    "data_dir": str(services.settings.data_dir),
                    "policies_dir": str(services.policies.directory),
                    "pool": pool.as_json(services.engine.sandboxes.pool),
                }
                if caller.is_operator
                else {}
            ),
        }
    )


@router.get("/prompts/{prompt_id}")
async def prompt_details(prompt_id: str, services: Have, tenant: ForTenant) -> Response:
    """One prompt: how it stands, its outputs, and for each node which extension and sandbox ran it, and how long."""
    snapshot = await services.engine.queue(tenant)
    for items, state in ((snapshot.running, "running"), (snapshot.pending, "pending")):
        for place, item in enumerate(items):
            if item.prompt_id == prompt_id:
                return OrjsonResponse(
                    {"prompt_id": prompt_id, "state": state, "ahead": place if state == "pending" else 0}
                )
    entry = await services.engine.history_entry(tenant, prompt_id)
    if entry is None:
        raise FileUnknownError(
            f"there is no prompt '{safe_text(prompt_id, 80)}'",
            hint="it may have been dropped from the history",
        )
    job = jobs.finished_job(prompt_id, entry)
    return OrjsonResponse(
        {
            "prompt_id": prompt_id,
            "state": job["status"],
            "started_ms": job.get("execution_start_time"),
            "ended_ms": job.get("execution_end_time"),
            "error": job.get("execution_error"),
            "outputs": entry.get("outputs", {}),
            "nodes": _where_nodes_ran(entry),
        }
    )


@router.get("/doctor")
async def run_doctor(services: Have, _operator: Operator) -> Response:
    """What is missing on the server's machine."""
    settings, sandboxes = services.settings, services.engine.sandboxes
    checks = await anyio.to_thread.run_sync(
        lambda: [*doctor.examine(settings), *doctor_running.examine(settings)]
    )
    await sandboxes.refresh()
    spares = [info for info in sandboxes.list() if info.state is SandboxState.SPARE]
    checks.append(pool.check(sandboxes.pool, sum(info.memory_used or 0 for info in spares)))
    return OrjsonResponse(doctor.report(checks))


def _where_nodes_ran(entry: dict[str, Any]) -> list[dict[str, Any]]:
    prompt = entry["prompt"][2]
    recorded = (entry.get("ringfence") or {}).get("nodes") or {}
    nodes = []
    for node_id, ran in recorded.items():
        top = (
            prompt.get(ran.get("real_node_id", node_id)) or {}
        )  # of an expansion: the node that was submitted
        nodes.append(
            {
                "node_id": node_id,
                "class_type": ran.get("class_type") or top.get("class_type"),
                "title": (top.get("_meta") or {}).get("title"),
                "extension": ran.get("extension"),
                "sandbox": ran.get("sandbox"),
                "duration_ms": ran.get("duration_ms"),
                "cached": ran.get("cached"),
            }
        )
    return nodes

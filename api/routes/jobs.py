"""Jobs: queue and history as one list. Only under /api, as in ComfyUI."""

from __future__ import annotations

import re
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from api import jobs
from api.bodies import BodyError, read_object
from api.errors import OrjsonResponse
from api.services import ForTenant, Have, Services
from policies import TenantId, safe_text

router = APIRouter()

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z")
_BATCH_LIMIT = 1000
_SORTS = ("created_at", "execution_duration")
_ORDERS = ("desc", "asc")


@router.get("/jobs")
async def list_jobs(request: Request, services: Have, tenant: ForTenant) -> Response:
    """A page of jobs, newest first unless asked otherwise."""
    query = request.query_params
    try:
        statuses = _choice_list(query.get("status"))
        sort_by = _choice("sort_by", query.get("sort_by"), _SORTS)
        order = _choice("sort_order", query.get("sort_order"), _ORDERS)
        limit = _whole("limit", query.get("limit"))
        offset = max(_whole("offset", query.get("offset")) or 0, 0)
        if limit is not None and limit < 1:
            raise BodyError("limit must be at least 1")
    except BodyError as error:
        return OrjsonResponse({"error": error.message}, 400)
    found = await _collect(services, tenant, statuses)
    workflow_id = query.get("workflow_id")
    if workflow_id:
        found = [job for job in found if job.get("workflow_id") == workflow_id]
    by_time = sort_by == "created_at"
    found.sort(
        key=lambda job: job.get("create_time", 0) if by_time else jobs.duration(job), reverse=order == "desc"
    )
    page = found[offset:] if limit is None else found[offset : offset + limit]
    return OrjsonResponse(
        {
            "jobs": page,
            "pagination": {
                "offset": offset,
                "limit": limit,
                "total": len(found),
                "has_more": offset + len(page) < len(found),
            },
        }
    )


@router.post("/jobs/cancel")
async def cancel_jobs(request: Request, services: Have, tenant: ForTenant) -> Response:
    """Cancel several jobs."""
    try:
        wanted = (await read_object(request)).get("job_ids")
    except BodyError as error:
        return OrjsonResponse({"error": error.message}, 400)
    if not isinstance(wanted, list) or len(wanted) > _BATCH_LIMIT:
        return OrjsonResponse({"error": f"job_ids must be a list of at most {_BATCH_LIMIT} ids"}, 400)
    invalid = [item for item in wanted if not (isinstance(item, str) and _UUID.match(item))]
    if invalid:
        shown = [safe_text(str(item), 80) for item in invalid[:20]]
        return OrjsonResponse({"error": "job_ids must be UUIDs", "invalid_ids": shown}, 400)
    cancelled = [await services.engine.cancel(tenant, job_id) for job_id in dict.fromkeys(wanted)]
    return OrjsonResponse({"cancelled": any(cancelled)})


@router.get("/jobs/{job_id}")
async def get_job(job_id: str, services: Have, tenant: ForTenant) -> Response:
    """One job with its workflow, and with its outputs once it has ended."""
    # Queue first: a job only ever moves from there to the history, so it cannot slip between the two looks.
    snapshot = await services.engine.queue(tenant)
    for items, status in ((snapshot.running, "in_progress"), (snapshot.pending, "pending")):
        for item in items:
            if item.prompt_id == job_id:
                return OrjsonResponse(jobs.with_workflow(jobs.queued_job(item, status), item))
    entry = await services.engine.history_entry(tenant, job_id)
    if entry is None:
        return OrjsonResponse({"error": "there is no such job"}, 404)
    return OrjsonResponse(jobs.with_details(jobs.finished_job(job_id, entry), entry))


@router.post("/jobs/{job_id}/cancel")
async def cancel_job(job_id: str, services: Have, tenant: ForTenant) -> Response:
    """Cancel one job; one that has ended or is unknown stays as it is."""
    return OrjsonResponse({"cancelled": await services.engine.cancel(tenant, job_id)})


async def _collect(services: Services, tenant: TenantId, statuses: frozenset[str]) -> list[dict[str, Any]]:
    snapshot = await services.engine.queue(tenant)
    found = []
    if "in_progress" in statuses:
        found += [jobs.queued_job(item, "in_progress") for item in snapshot.running]
    if "pending" in statuses:
        found += [jobs.queued_job(item, "pending") for item in snapshot.pending]
    if statuses - {"in_progress", "pending"}:
        queued = {item.prompt_id for item in (*snapshot.running, *snapshot.pending)}
        entries = await services.engine.history(tenant)
        ended = [jobs.finished_job(key, entry) for key, entry in entries.items() if key not in queued]
        found += [job for job in ended if job["status"] in statuses]
    return found


def _choice_list(value: str | None) -> frozenset[str]:
    if not value:
        return frozenset(jobs.STATUSES)
    wanted = frozenset(part.strip() for part in value.split(",") if part.strip())
    unknown = wanted - frozenset(jobs.STATUSES)
    if unknown:
        raise BodyError(f"unknown status; use {', '.join(jobs.STATUSES)}")
    return wanted


def _choice(name: str, value: str | None, allowed: tuple[str, ...]) -> str:
    if not value:
        return allowed[0]
    if value not in allowed:
        raise BodyError(f"{name} must be one of {', '.join(allowed)}")
    return value


def _whole(name: str, value: str | None) -> int | None:
    if value is None or value == "":
        return None
    try:
        return int(value[:12])
    except ValueError:
        raise BodyError(f"{name} must be a whole number") from None

"""The Comfy API v2: running workflows."""

from __future__ import annotations

import base64
import binascii
import re
import uuid
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from api import audit_trail
from api.bodies import BodyError, read_object
from api.errors import OrjsonResponse, v2_error
from api.services import ForTenant, services_of
from api.v2 import references
from api.v2.dependencies import Base, HaveJobs
from api.v2.events import EventSource, JobEvents
from api.v2.jobs import LABELS, Found, Jobs, update_ms
from api.v2.models import ErrorEnvelope, JobItem, JobPage, JobView, WorkflowView
from engine import JobPlace, PromptRequest
from policies import RingfenceError, TenantId, safe_text

router = APIRouter()

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
_PLACE = re.compile(r"j(\d{1,18}) (\d{1,18}) ([0-9a-f-]{36})\Z", re.ASCII)
_KEY = re.compile(r"[\x20-\x7e]{1,255}\Z")
_LABEL_COUNT, _LABEL_KEY, _LABEL_VALUE = 16, 64, 512
_PAGE, _LONGEST_PAGE = 50, 100
_SCANNED = 1000  # jobs that one request looks at for labels
_STATUSES = frozenset({"queued", "running", "canceling", "succeeded", "canceled", "failed", "expired"})

ERRORS: dict[int | str, dict[str, Any]] = {
    401: {"model": ErrorEnvelope, "description": "No valid token (`unauthorized`)"},
    403: {"model": ErrorEnvelope, "description": "Not allowed (`forbidden`)"},
}
_UNKNOWN: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorEnvelope, "description": "No such job (`not_found`)"}
}


_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["workflow"],
                    "properties": {
                        "workflow": {"type": "object", "description": "Nodes by id, in API format"},
                        "metadata": {**_TEXTS, "description": "Labels, at most 16"},
                        "extra_data": {
                            "type": "object",
                            "properties": {"api_key_comfy_org": {"type": "string"}},
                        },
                    },
                }
            }
        },
    }
}


class LabelsError(RingfenceError):
    """A job's labels cannot be used."""

    code = "metadata-invalid"


class WorkflowError(RingfenceError):
    """A workflow that is no graph of nodes."""

    code = "invalid-workflow"


class FormatError(RingfenceError):
    """A workflow as the editor saves it, not as the API takes it."""

    code = "workflow-format-ui"


class JobUnknownError(RingfenceError):
    """There is no such job."""

    code = "not-found"

    def __init__(self) -> None:
        super().__init__("there is no such job", hint="GET /api/v2/jobs lists them")


@router.post(
    "/jobs",
    status_code=201,
    response_model=JobView,
    responses={
        **ERRORS,
        422: {
            "model": ErrorEnvelope,
            "description": "`invalid_workflow`, `workflow_format_ui`, `missing_asset`, `idempotency_key_reuse` or "
            "`metadata_invalid`",
        },
        429: {"model": ErrorEnvelope, "description": "`queue_full`; `Retry-After` says when to try again"},
    },
    summary="Run a workflow",
    openapi_extra=_BODY,
)
async def create_job(request: Request, jobs: HaveJobs, tenant: ForTenant, base: Base) -> Response:
    """Queue a workflow in API format; ``core/ASSET`` references in it are replaced by the assets' files."""
    await jobs.board.watch(tenant)
    body = await read_object(request)
    key = _idempotency_key(request.headers.get("idempotency-key"))
    workflow = _workflow(body)
    extra_data = _extra_data(body)
    job_id = str(uuid.uuid4())
    created = await jobs.submissions.claim(tenant, job_id, key)
    jobs.submitting.add((tenant, job_id))
    try:
        resolved = await references.resolve(jobs.assets, tenant, workflow)
        # A client id of its own: nobody's socket hears of the job unless it asks for just this one.
        body = {"prompt": resolved, "client_id": job_id, "extra_data": extra_data}
        changed = await jobs.engine.hook_prompt(tenant, body)
        wanted = PromptRequest(
            prompt=changed["prompt"],
            prompt_id=job_id,
            client_id=job_id,
            extra_data=_handled(changed.get("extra_data"), extra_data),
        )
        submitted = await jobs.engine.submit(tenant, wanted)
        await audit_trail.queued(request, services_of(request), submitted.prompt_id, wanted.prompt)
    except RingfenceError:
        await jobs.submissions.release(tenant, job_id)  # nothing was queued: the key is free again
        raise
    finally:
        jobs.submitting.discard((tenant, job_id))
    found = await jobs.find(tenant, job_id) or Found(
        job_id, "queued", workflow, extra_data, created_ms=created
    )
    view = await jobs.view(tenant, found, base)
    if submitted.node_errors:
        view.node_errors = submitted.node_errors
    return _shown(view, 201)


@router.get(
    "/jobs",
    response_model=JobPage,
    responses={**ERRORS, 400: {"model": ErrorEnvelope, "description": "`invalid_cursor`, `invalid_request`"}},
    summary="List jobs",
)
async def list_jobs(
    request: Request, jobs: HaveJobs, tenant: ForTenant, limit: str | None = None, cursor: str | None = None
) -> Response:
    """All jobs, newest first, whichever API queued them; ``status=a,b`` and ``metadata[key]=value`` choose."""
    labels = {
        name[len("metadata[") : -1]: value
        for name, value in request.query_params.multi_items()
        if name.startswith("metadata[") and name.endswith("]")
    }
    statuses = frozenset(filter(None, request.query_params.get("status", "").split(",")))
    if statuses - _STATUSES:
        raise BodyError(f"unknown status; use {', '.join(sorted(_STATUSES))}")
    wanted = _limit(limit)
    try:
        before = _read_cursor(cursor)
    except ValueError:
        body = v2_error("invalid_cursor", "the cursor is not one that this server gave")
        return OrjsonResponse(body, 400)
    page: list[JobItem] = []
    scanned = 0
    while len(page) < wanted and scanned < _SCANNED:
        places = await jobs.listed.page(tenant, before=before, limit=_LONGEST_PAGE)
        queued = await jobs.queued(tenant)
        for place in places:
            if len(page) == wanted:
                break
            job = await jobs.among(queued, tenant, place.job_id)
            before = place
            scanned += 1
            if job is None:
                continue  # deleted this instant
            if (not statuses or job.status in statuses) and _has_labels(job, labels):
                page.append(_item(job))
        else:
            if len(places) < _LONGEST_PAGE:
                before = None
                break
    return _shown(JobPage(jobs=page, next_cursor=None if before is None else _write_cursor(before)))


@router.get("/jobs/{job_id}", response_model=JobView, responses={**ERRORS, **_UNKNOWN}, summary="One job")
async def get_job(job_id: str, jobs: HaveJobs, tenant: ForTenant, base: Base) -> Response:
    """Where a job is, and what it has made so far."""
    await jobs.board.watch(tenant)
    return _shown(await jobs.view(tenant, await _found(jobs, tenant, job_id), base))


@router.get(
    "/jobs/{job_id}/workflow",
    response_model=WorkflowView,
    responses={**ERRORS, **_UNKNOWN},
    summary="A job's workflow",
)
async def get_workflow(job_id: str, jobs: HaveJobs, tenant: ForTenant) -> Response:
    """The graph that ran, with names of files where references to assets were."""
    job = await _found(jobs, tenant, job_id)
    if not job.prompt:
        raise JobUnknownError
    return OrjsonResponse({"workflow": job.prompt, "format": "api"})


@router.post(
    "/jobs/{job_id}/cancel", response_model=JobView, responses={**ERRORS, **_UNKNOWN}, summary="Cancel a job"
)
async def cancel_job(job_id: str, jobs: HaveJobs, tenant: ForTenant, base: Base) -> Response:
    """Take it out of the queue, or interrupt it; one that has ended stays as it is."""
    await jobs.board.watch(tenant)
    job = await _found(jobs, tenant, job_id)
    if job.status in ("queued", "running", "canceling"):
        was_waiting = job.status == "queued"
        if await jobs.engine.cancel(tenant, job_id):
            after = await jobs.find(tenant, job_id)
            if after is not None and after.status == "running":
                jobs.board.canceling(tenant, job_id)
            elif was_waiting and (after is None or after.status == "expired"):
                document = {"prompt": job.prompt, "extra_data": job.extra_data}
                await jobs.submissions.cancel(tenant, job_id, document)
        job = await jobs.find(tenant, job_id) or Found(job_id, "canceled", job.prompt, job.extra_data)
    return _shown(await jobs.view(tenant, job, base))


@router.get(
    "/jobs/{job_id}/events",
    status_code=200,
    response_class=EventSource,
    responses={
        **ERRORS,
        **_UNKNOWN,
        200: {
            "description": "`status`, `progress`, `preview`, `output` and `log` events; the last is the final status",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        429: {"model": ErrorEnvelope, "description": "`too_many_streams`"},
    },
    summary="A job's events",
)
async def job_events(job_id: str, jobs: HaveJobs, tenant: ForTenant, base: Base) -> Response:
    """Server-Sent Events until the job has ended, with a comment every 15 seconds when nothing happens."""
    await jobs.board.watch(tenant)
    job = await _found(jobs, tenant, job_id)
    return EventSource(JobEvents(jobs, tenant, job, base))


@router.get("/health", summary="Is the API there", responses=ERRORS)
async def health() -> Response:
    """Yes, when this is answered."""
    return OrjsonResponse({"status": "healthy"})


async def _found(jobs: Jobs, tenant: TenantId, job_id: str) -> Found:
    job = await jobs.find(tenant, job_id) if _UUID.match(job_id) else None
    if job is None:
        raise JobUnknownError
    return job


def _shown(view: BaseModel, status: int = 200) -> OrjsonResponse:
    return OrjsonResponse(view.model_dump(mode="json", exclude_none=isinstance(view, JobPage)), status)


def _item(job: Found) -> JobItem:
    return JobItem.model_validate(
        {
            "id": job.id,
            "status": job.status,
            "create_time": job.created / 1000,
            "update_time": update_ms(job) / 1000,
            "metadata": job.labels,
        }
    )


def _workflow(body: Mapping[str, Any]) -> dict[str, Any]:
    for name in ("webhook_url", "inputs"):
        if body.get(name) is not None:
            raise WorkflowError(f"'{name}' is not supported", hint="leave it out")
    workflow = body.get("workflow")
    if not isinstance(workflow, dict):
        raise WorkflowError("the body needs a 'workflow': an object of nodes by id")
    if isinstance(workflow.get("nodes"), list) and "links" in workflow:
        raise FormatError("this is the editor's own format", hint="export the workflow in API format")
    return workflow


def _handled(changed: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """``extra_data`` as the packs' prompt handlers left it; a job's labels are its client's."""
    kept = changed if isinstance(changed, dict) else {}
    labels = {LABELS: given[LABELS]} if LABELS in given else {}
    return {key: value for key, value in kept.items() if key != LABELS} | labels


def _extra_data(body: Mapping[str, Any]) -> dict[str, Any]:
    given = body.get("extra_data")
    extra: dict[str, Any] = {}
    if given is not None:
        if not isinstance(given, dict) or set(given) - {"api_key_comfy_org"}:
            raise BodyError("extra_data may hold 'api_key_comfy_org' and nothing else")
        if not all(isinstance(value, str) for value in given.values()):
            raise BodyError("api_key_comfy_org must be a text")
        extra.update(given)
    labels = body.get("metadata")
    if labels is not None:
        extra[LABELS] = _labels(labels)
    return extra


def _labels(labels: Any) -> dict[str, str] | str:
    if isinstance(labels, str) and len(labels.encode("utf-8", "replace")) <= 1024:
        return labels
    if not isinstance(labels, dict):
        raise LabelsError("metadata must be an object of texts")
    if len(labels) > _LABEL_COUNT:
        raise LabelsError(f"metadata has {len(labels)} labels; the limit is {_LABEL_COUNT}")
    for name, value in labels.items():
        if not 0 < len(name) <= _LABEL_KEY or not isinstance(value, str) or len(value) > _LABEL_VALUE:
            raise LabelsError(
                f"the label '{safe_text(name, 80)}' cannot be used",
                hint=f"names have 1 to {_LABEL_KEY} characters, values are texts of at most {_LABEL_VALUE}",
            )
    return labels


def _has_labels(job: Found, labels: Mapping[str, str]) -> bool:
    own = job.labels
    return not labels or (
        isinstance(own, dict) and all(own.get(key) == value for key, value in labels.items())
    )


def _idempotency_key(key: str | None) -> str | None:
    if key is not None and not _KEY.match(key):
        raise BodyError("the Idempotency-Key must have 1 to 255 printable ASCII characters")
    return key


def _limit(text: str | None) -> int:
    if text is None:
        return _PAGE
    if not text.isascii() or not text.isdigit() or not int(text[:9]) >= 1:
        raise BodyError("limit must be a whole number of at least 1")
    return min(int(text[:9]), _LONGEST_PAGE)


def _write_cursor(place: JobPlace) -> str:
    plain = f"j{place.created_ms} {place.sequence} {place.job_id}"
    return base64.urlsafe_b64encode(plain.encode()).decode().rstrip("=")


def _read_cursor(cursor: str | None) -> JobPlace | None:
    if not cursor:
        return None
    try:
        plain = base64.urlsafe_b64decode(cursor[:200] + "=" * (-len(cursor) % 4)).decode()
    except (binascii.Error, ValueError):
        raise ValueError(cursor) from None
    found = _PLACE.match(plain)
    if not found:
        raise ValueError(cursor)
    return JobPlace(int(found[1]), int(found[2]), found[3])

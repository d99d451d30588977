"""Queueing prompts, looking at the queue, stopping what runs.

Most take the request itself and no dependencies: these are plain routes (api/plain_routes.py).
"""

from __future__ import annotations

import math
import re
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from api import audit_trail
from api.bodies import BodyError, read_json, read_object, string_list
from api.errors import OrjsonResponse, comfy_error
from api.services import ForTenant, Have, identity_of, services_of
from engine import PromptInvalidError, PromptRequest, QueueItem
from policies import safe_text

router = APIRouter()

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
_CLIENT_ID_LIMIT = 256


@router.post("/prompt")
async def post_prompt(request: Request) -> Response:
    """Validate a prompt and queue it; 200 only once it is on disk."""
    services, tenant = services_of(request), identity_of(request).tenant
    try:
        body = await read_json(request)
    except BodyError as error:
        return OrjsonResponse(comfy_error("invalid_json", error.message, error.hint), 400)
    body = await services.engine.hook_prompt(tenant, body)
    usage = request.headers.get("comfy-usage-source")
    wanted = parse_prompt(body, usage_source=usage)
    submitted = await services.engine.submit(tenant, wanted)
    await audit_trail.queued(request, services, submitted.prompt_id, wanted.prompt)
    return OrjsonResponse(
        {
            "prompt_id": submitted.prompt_id,
            "number": submitted.number,
            "node_errors": submitted.node_errors,
        }
    )


@router.get("/prompt")
async def get_prompt(request: Request) -> Response:
    """How many prompts are waiting or running."""
    services, tenant = services_of(request), identity_of(request).tenant
    return OrjsonResponse({"exec_info": {"queue_remaining": await services.engine.remaining(tenant)}})


@router.get("/queue")
async def get_queue(request: Request) -> Response:
    """The caller's own queue."""
    services, tenant = services_of(request), identity_of(request).tenant
    snapshot = await services.engine.queue(tenant)
    return OrjsonResponse(
        {
            "queue_running": [_row(item) for item in snapshot.running],
            "queue_pending": [_row(item) for item in snapshot.pending],
        }
    )


@router.post("/queue")
async def post_queue(request: Request) -> Response:
    """Drop waiting prompts; what runs is untouched."""
    services, tenant = services_of(request), identity_of(request).tenant
    body = await read_object(request)
    if body.get("clear"):
        await services.engine.clear_pending(tenant)
    if "delete" in body:
        await services.engine.delete_pending(tenant, string_list(body["delete"], "delete"))
    return Response()


@router.post("/interrupt")
async def post_interrupt(request: Request) -> Response:
    """Interrupt the caller's running prompts, or one of them."""
    services, tenant = services_of(request), identity_of(request).tenant
    try:
        body = await read_object(request, optional=True)
    except BodyError:
        body = {}  # ComfyUI's clients send all sorts of bodies here
    prompt_id = body.get("prompt_id")
    await services.engine.interrupt(tenant, prompt_id if isinstance(prompt_id, str) and prompt_id else None)
    return Response()


@router.post("/free")
async def post_free(request: Request, services: Have, tenant: ForTenant) -> Response:
    """Let go of models and cached results."""
    body = await read_object(request, optional=True)
    free_memory = body.get("free_memory") is True
    unload_models = body["unload_models"] is True if "unload_models" in body else free_memory
    await services.engine.free(tenant, unload_models=unload_models, free_memory=free_memory)
    return Response()


def parse_prompt(body: Any, *, usage_source: str | None = None) -> PromptRequest:
    """The request in a body's JSON; the graph itself is the engine's to check.

    Raises:
        PromptInvalidError: in ComfyUI's shape.
    """
    if not isinstance(body, dict) or "prompt" not in body or body["prompt"] is None:
        text = "No prompt provided"
        raise _invalid("no_prompt", text, text)
    if not isinstance(body["prompt"], dict):
        raise _invalid("invalid_prompt", "The prompt must be an object of nodes by id")
    extra_data = body.get("extra_data") if body.get("extra_data") is not None else {}
    if not isinstance(extra_data, dict):
        raise _invalid("invalid_prompt", "extra_data must be an object")
    if usage_source and "comfy_usage_source" not in extra_data:
        extra_data = {**extra_data, "comfy_usage_source": safe_text(usage_source, 100)}
    client_id = body.get("client_id") if body.get("client_id") is not None else extra_data.get("client_id")
    if isinstance(client_id, int) and not isinstance(client_id, bool):
        client_id = str(
            client_id
        )  # some clients count; the address of their WebSocket says it in text anyway
    if client_id is not None and not (isinstance(client_id, str) and len(client_id) <= _CLIENT_ID_LIMIT):
        raise _invalid(
            "invalid_client_id", f"client_id must be a string of at most {_CLIENT_ID_LIMIT} characters"
        )
    return PromptRequest(
        prompt=body["prompt"],
        prompt_id=_prompt_id(body.get("prompt_id")),
        client_id=client_id or None,
        extra_data=extra_data,
        number=_number(body.get("number")),
        front=bool(body.get("front")),
        targets=_targets(body.get("partial_execution_targets")),
    )


def _prompt_id(value: Any) -> str | None:
    if value is None:
        return None
    # One spelling per id: it becomes a key, a log field and part of a file name.
    if not isinstance(value, str) or not _UUID.match(value):
        raise _invalid(
            "invalid_prompt_id",
            "prompt_id must be a UUID in its canonical form",
            "36 characters, lower case, with hyphens",
        )
    return value


def _number(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _invalid("invalid_prompt", "number must be a number")
    number = float(value) if abs(value) < 1e300 else math.inf
    if not math.isfinite(number):
        raise _invalid("invalid_prompt", "number is out of range")
    return number


def _targets(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _invalid("invalid_prompt", "partial_execution_targets must be a list of node ids")
    return tuple(value)


def _row(item: QueueItem) -> list[Any]:
    return [item.number, item.prompt_id, item.prompt, item.extra_data, list(item.outputs)]


def _invalid(kind: str, message: str, details: str = "") -> PromptInvalidError:
    return PromptInvalidError({"type": kind, "message": message, "details": details, "extra_info": {}}, {})

"""Policies: what holds for an extension and why, whether a file is good, what it would need, schemas for editors."""

from __future__ import annotations

import dataclasses
import re
import tempfile
from pathlib import Path
from typing import Any

import anyio
from fastapi import APIRouter, Request
from starlette.responses import Response

from api import audit_trail
from api.bodies import BodyError, read_object
from api.errors import OrjsonResponse
from api.progress import ProgressResponse, Report
from api.routes.prompt import parse_prompt
from api.services import Caller, Have, Operator
from engine import Learner, Lesson, PromptRequest, Submitted, Trial
from policies import EffectivePolicy, PolicyStore, TenantId, explain, parse_extension_name, safe_text

router = APIRouter()

_HIDDEN = "(hidden)"
_LEARN_S = 1800.0
_LEARN_MOST_S = 6 * 3600
_LEARN_PROMPTS = 100
_HOST = re.compile(r"host: [^,]*,")  # no path has a comma in it


@router.get("/policies/schema")
async def schemas() -> Response:
    """JSON Schemas of <extension>.yaml and default.yaml."""
    return OrjsonResponse(PolicyStore.schema())


@router.post("/policies/check")
async def check(request: Request, services: Have, caller: Operator, name: str = "extension") -> Response:
    """Check the policy file in the body; 400 with file and line when it is wrong."""
    text = await request.body()
    stem = "default" if name == "default" else parse_extension_name(name)
    effective = await anyio.to_thread.run_sync(_check, services.policies, stem, text, caller.tenant)
    return OrjsonResponse({"valid": True, "policy": policy_rows(effective)})


@router.get("/policies/{extension}")
async def show(extension: str, services: Have, caller: Caller) -> Response:
    """The effective policy, each value with its source; what variables hold and host paths are the operator's."""
    name = parse_extension_name(extension)
    effective = await anyio.to_thread.run_sync(services.policies.effective, name, caller.tenant)
    rows = policy_rows(effective)
    if not caller.is_operator:
        rows = [{**row, "value": _for_tenants(row["key"], row["value"])} for row in rows]
    return OrjsonResponse({"extension": name, "tenant": caller.tenant, "policy": rows})


@router.post("/policies/{extension}/learn")
async def learn(extension: str, request: Request, services: Have, caller: Operator) -> Response:
    """Run an extension in a watched sandbox and answer with the smallest policy that it needed.

    The body: ``prompts`` (a list of ``{"name", "body"}``, each body as for ``/prompt``), ``nodes`` (true: also run each
    of its nodes, with made-up values), ``limit_s``. Answers with progress as NDJSON; nothing is written. A client that
    goes away ends it.
    """
    name = parse_extension_name(extension)
    wanted = await read_object(request)
    trials, with_nodes, limit_s = _trials(wanted.get("prompts")), wanted.get("nodes"), wanted.get("limit_s")
    if not isinstance(with_nodes, bool | None):
        raise BodyError("nodes must be true or false")
    if limit_s is None:
        limit_s = _LEARN_S
    if isinstance(limit_s, bool) or not isinstance(limit_s, int | float) or not 1 <= limit_s <= _LEARN_MOST_S:
        raise BodyError(f"limit_s must be a number of seconds from 1 to {_LEARN_MOST_S}")

    async def submit(prompt: PromptRequest) -> Submitted:
        submitted = await services.engine.submit(caller.tenant, prompt)
        await audit_trail.queued(request, services, submitted.prompt_id, prompt.prompt)
        return submitted

    async def work(report: Report) -> Any:
        learner = Learner(services.engine, services.policies)
        lesson = await learner.learn(
            caller.tenant,
            name,
            trials,
            with_nodes=bool(with_nodes),
            limit_s=limit_s,
            submit=submit,
            progress=report,
        )
        return _shown(lesson, caller.tenant)

    return ProgressResponse(work)


def _trials(value: Any) -> list[Trial]:
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > _LEARN_PROMPTS:
        raise BodyError(f"prompts must be a list of at most {_LEARN_PROMPTS}")
    trials = []
    for item in value:
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise BodyError("each of prompts must be an object with name and body")
        trials.append(Trial(safe_text(item["name"], 120), parse_prompt(item.get("body"))))
    return trials


def _shown(lesson: Lesson, tenant: TenantId) -> dict[str, Any]:
    learned = lesson.policy
    return {
        "extension": lesson.extension,
        "tenant": tenant,
        "policy": learned.text,
        "has_run": lesson.has_run,
        "is_whole": lesson.is_whole,
        "runs": [dataclasses.asdict(outcome) for outcome in lesson.outcomes],
        "notes": list(learned.notes),
        "values": [
            {
                "key": line.key,
                "value": item.text,
                "basis": str(item.basis),
                "seen": safe_text(item.said, 1000),
                "granted": not (line.is_wish or item.is_wish),
            }
            for line in learned.lines
            for item in line.items
        ],
    }


def _for_tenants(key: str, value: str) -> str:
    """A value without what variables hold, and without places of this machine."""
    if key.startswith("environment."):
        return _HIDDEN
    return _HOST.sub(f"host: {_HIDDEN},", value) if key.startswith("paths[") else value


def policy_rows(effective: EffectivePolicy) -> list[dict[str, Any]]:
    """An effective policy as rows: key, value, and where the value comes from."""
    return [
        {"key": row.key, "value": row.value, "file": row.source.file, "line": row.source.line}
        for row in explain(effective)
    ]


def _check(policies: PolicyStore, stem: str, text: bytes, tenant: Any) -> EffectivePolicy:
    with tempfile.TemporaryDirectory(prefix="ringfence-policy-") as directory:
        path = Path(directory) / f"{stem}.yaml"
        path.write_bytes(text)
        return policies.check(path, tenant)

"""Policies: what holds for an extension and why, whether a file is good, and the schemas for editors."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import anyio
from fastapi import APIRouter, Request
from starlette.responses import Response

from api.errors import OrjsonResponse
from api.services import Caller, Have, Operator
from policies import EffectivePolicy, PolicyStore, explain, parse_extension_name

router = APIRouter()

_HIDDEN = "(hidden)"
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

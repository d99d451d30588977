"""What an extension is made of: whether it is what was pinned, its bill of materials, its known vulnerabilities."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from api.errors import OrjsonResponse
from api.services import ForTenant, Have
from engine import Audit, Verified
from policies import parse_extension_name
from sandbox import BILL_MEDIA_TYPE

router = APIRouter()


@router.get("/extensions/{name}/sbom")
async def bill_of_materials(name: str, services: Have, tenant: ForTenant) -> Response:
    """The extension and every package that it can import, in CycloneDX JSON; the same parts give the same bytes."""
    extension = parse_extension_name(name)
    bill = await services.engine.extensions.supply.bill_of_materials(tenant, extension)
    disposition = f'attachment; filename="{extension}.cdx.json"'
    return Response(bill, media_type=BILL_MEDIA_TYPE, headers={"Content-Disposition": disposition})


@router.post("/extensions/{name}/verify")
async def verify(name: str, services: Have, tenant: ForTenant) -> Response:
    """Read the extension's pinned files and its environment in full, and say whether they are what they were."""
    verified = await services.engine.extensions.supply.verify(tenant, parse_extension_name(name))
    return OrjsonResponse(_verified(verified))


@router.get("/extensions/{name}/audit")
async def audit(name: str, services: Have, tenant: ForTenant) -> Response:
    """Known vulnerabilities of the packages that the extension can import, from the operator's database."""
    found = await services.engine.extensions.supply.audit(tenant, parse_extension_name(name))
    return OrjsonResponse(_audit(found))


def _verified(verified: Verified) -> dict[str, Any]:
    return {**asdict(verified), "ok": not verified.problems}


def _audit(found: Audit) -> dict[str, Any]:
    # Where the database lies is the operator's own business.
    database = {
        "entries": found.database.entries,
        "refused": found.database.refused,
        "newest": found.database.newest,
    }
    return {
        "name": found.name,
        "packages": found.packages,
        "findings": [asdict(finding) for finding in found.findings],
        "database": database,
    }

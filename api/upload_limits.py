"""How large a body may be for whom: the installation's limit, the tenant's quota of one upload, room on its disk."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import Scope

from engine import QuotaBook, SizeQuotaError
from policies import RingfenceError, TenantId, format_bytes

_UPLOADS = ("/upload/", "/userdata/", "/ringfence/v1/extensions", "/assets", "/v2/assets")
_WRITES = frozenset({"POST", "PUT", "PATCH"})


def is_upload(scope: Scope) -> bool:
    """Whether a request may bring a file."""
    path: str = scope["path"].removeprefix("/api")
    return path.startswith(_UPLOADS)


async def allowed_size(
    scope: Scope, quotas: QuotaBook, tenant: TenantId, limit: int
) -> tuple[int, RingfenceError | None]:
    """The most bytes of this request's body, and the error for one byte more where a quota says so.

    Raises:
        SpaceQuotaError: what it announces does not fit on the tenant's disk.
    """
    if scope["type"] != "http" or scope["method"] not in _WRITES or not is_upload(scope):
        return limit, None
    own = await quotas.of(tenant)
    length = Headers(scope=scope).get("content-length", "0")
    coming = int(length) if length.isascii() and length.isdigit() else 0
    if own.upload is None or own.upload >= limit:
        await quotas.check_disk(tenant, min(coming, limit))
        return limit, None
    error = SizeQuotaError(
        tenant,
        own,
        "upload",
        figure="the body is larger" if coming <= own.upload else f"{format_bytes(coming)} were announced",
        limit=format_bytes(own.upload),
        hint="send less at once",
    )
    if coming <= own.upload:
        await quotas.check_disk(tenant, coming)
    else:
        quotas.note_refusal(tenant, "upload")
    return own.upload, error

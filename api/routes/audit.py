"""The audit log, to read and to follow: the operator all of it, a tenant's admin what is the tenant's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated

import anyio
import anyio.to_thread
from fastapi import APIRouter, Query
from starlette.responses import Response, StreamingResponse

from api.bodies import BodyError
from api.errors import OrjsonResponse, dump_json
from api.services import Caller, Have
from policies import parse_extension_name, parse_tenant_id
from sandbox import AuditEvent, AuditReader, Filter, cursor_text, parse_cursor

router = APIRouter()

_POLL_S = 0.5
_MOST = 1_000
_FOLLOWERS = 8
_open = 0


@router.get("/audit")
async def read_audit(
    services: Have,
    caller: Caller,
    tenant: str = "",
    extension: str = "",
    event: Annotated[list[str] | None, Query()] = None,
    since: float | None = None,
    after: Annotated[str, Query(max_length=100)] = "",
    limit: Annotated[int, Query(ge=1, le=_MOST)] = 200,
    denied: bool = False,
) -> Response:
    """Records after the cursor ``after`` (or from ``since``, seconds since the epoch), oldest first.

    ``next`` is where to go on, ``more`` whether there is anything by now. Without either: the last day.
    """
    wanted = _filter(caller, tenant, extension, event, since, denied=denied, has_cursor=bool(after))
    reader = AuditReader(services.settings.data_dir)
    cursor = _cursor(after)
    found, following, more = await anyio.to_thread.run_sync(
        lambda: reader.read(wanted, after=cursor, limit=limit)
    )
    rows = [record.model_dump(exclude_defaults=True) for record in found]
    failing = services.audit.failure if caller.is_operator else ""
    return OrjsonResponse(
        {"records": rows, "next": cursor_text(following), "more": more, "failure": failing or None},
        headers={"Cache-Control": "no-store"},
    )


@router.get("/audit/events", include_in_schema=True)
async def follow_audit(
    services: Have,
    caller: Caller,
    tenant: str = "",
    extension: str = "",
    event: Annotated[list[str] | None, Query()] = None,
    after: Annotated[str, Query(max_length=100)] = "",
    denied: bool = False,
) -> Response:
    """Records as they come, one JSON object a line, until either side hangs up; an empty line is a sign of life."""
    wanted = _filter(caller, tenant, extension, event, None, denied=denied, has_cursor=True)
    reader = AuditReader(services.settings.data_dir)
    cursor = _cursor(after) or await anyio.to_thread.run_sync(reader.end)
    if _open >= _FOLLOWERS:
        raise BodyError(f"{_FOLLOWERS} readers follow the audit log already", hint="try again later")
    return StreamingResponse(
        _lines(reader, wanted, cursor),
        media_type="application/x-ndjson",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _lines(reader: AuditReader, wanted: Filter, cursor: dict[str, int]) -> AsyncIterator[bytes]:
    global _open
    _open += 1
    quiet = 0
    try:
        yield b"\n"
        while True:
            end = await anyio.to_thread.run_sync(reader.end)
            if end == cursor:
                quiet += 1
                if quiet % 20 == 0:
                    yield b"\n"
                await anyio.sleep(_POLL_S)
                continue
            at = cursor
            found, cursor, _ = await anyio.to_thread.run_sync(
                lambda at=at: reader.read(wanted, after=at, limit=_MOST)  # type: ignore[misc]
            )
            for record in found:
                row = {**record.model_dump(exclude_defaults=True)}
                yield dump_json(row) + b"\n"
            if cursor == at:
                await anyio.sleep(_POLL_S)
    finally:
        _open -= 1


def _filter(
    caller: Caller,
    tenant: str,
    extension: str,
    events: list[str] | None,
    since: float | None,
    *,
    denied: bool,
    has_cursor: bool,
) -> Filter:
    if caller.is_operator:
        whose = str(parse_tenant_id(tenant)) if tenant else ""
    else:
        # Whatever was asked for: another tenant's records are as those of one that does not exist.
        whose = str(caller.tenant)
        if tenant and tenant != whose:
            whose = "-"
    known = frozenset(str(each) for each in AuditEvent)
    wanted = frozenset(events or ())
    if unknown := wanted - known:
        raise BodyError(
            f"there is no event '{min(unknown)[:60]}'", hint=f"events are {', '.join(sorted(known))}"
        )
    try:
        start = None if since is None else datetime.fromtimestamp(since, UTC)
    except (OverflowError, ValueError, OSError):
        raise BodyError("since must be seconds since the epoch") from None
    if start is None and not has_cursor:
        start = datetime.fromtimestamp(datetime.now(UTC).timestamp() - 86400, UTC)
    return Filter(
        tenant=whose,
        extension=str(parse_extension_name(extension)) if extension else "",
        events=wanted,
        since=start,
        denied=denied,
    )


def _cursor(text: str) -> dict[str, int]:
    try:
        return parse_cursor(text)
    except ValueError as error:
        raise BodyError(str(error), hint="send what 'next' said") from None

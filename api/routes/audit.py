"""The audit log, to read and to follow: the operator all of it, a tenant's admin what is the tenant's."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any

import anyio
import anyio.to_thread
from fastapi import APIRouter, Query
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from api.audit_cursors import MAX_CHARACTERS, AuditCursors
from api.bodies import BodyError
from api.errors import OrjsonResponse, dump_json
from api.services import Caller, Have
from policies import RingfenceError, parse_extension_name, parse_tenant_id
from sandbox import AuditEvent, AuditReader, Filter, Record

router = APIRouter()

_POLL_S = 0.5
_MOST = 1_000
_FOLLOWERS = 8
"""Open readers of the operator; each tenant has a few of its own, so that none keeps the others out."""
_TENANTS_FOLLOWERS = 2
_open: Counter[str] = Counter()


@router.get("/audit")
async def read_audit(
    services: Have,
    caller: Caller,
    tenant: str = "",
    extension: str = "",
    event: Annotated[list[str] | None, Query()] = None,
    since: float | None = None,
    after: Annotated[str, Query(max_length=MAX_CHARACTERS)] = "",
    limit: Annotated[int, Query(ge=1, le=_MOST)] = 200,
    denied: bool = False,
) -> Response:
    """Records after the cursor ``after`` (or from ``since``, seconds since the epoch), oldest first.

    ``next`` is where to go on, ``more`` whether there is anything by now. Without either: the last day.
    """
    wanted = _filter(caller, tenant, extension, event, since, denied=denied, has_cursor=bool(after))
    reader = AuditReader(services.settings.data_dir)
    cursors = AuditCursors(services.operator_token, caller)
    cursor = _place(cursors, after)
    found, following, more = await anyio.to_thread.run_sync(
        lambda: reader.read(wanted, after=cursor, limit=limit)
    )
    rows = [_shown(record, cursors) for record in found]
    failing = services.audit.failure if caller.is_operator else ""
    return OrjsonResponse(
        {"records": rows, "next": cursors.write(following), "more": more, "failure": failing or None},
        headers={"Cache-Control": "no-store"},
    )


@router.get("/audit/events", include_in_schema=True)
async def follow_audit(
    services: Have,
    caller: Caller,
    tenant: str = "",
    extension: str = "",
    event: Annotated[list[str] | None, Query()] = None,
    after: Annotated[str, Query(max_length=MAX_CHARACTERS)] = "",
    denied: bool = False,
) -> Response:
    """Records as they come, one JSON object a line, until either side hangs up; an empty line is a sign of life."""
    wanted = _filter(caller, tenant, extension, event, None, denied=denied, has_cursor=True)
    reader = AuditReader(services.settings.data_dir)
    cursors = AuditCursors(services.operator_token, caller)
    cursor = _place(cursors, after) or await anyio.to_thread.run_sync(reader.end)
    whose, most = ("", _FOLLOWERS) if caller.is_operator else (caller.tenant, _TENANTS_FOLLOWERS)
    if _open[whose] >= most:
        raise TooManyReadersError(
            f"{most} readers of yours follow the audit log already", hint="end one of them"
        )
    return _Following(_lines(reader, wanted, cursor, cursors), whose)


class TooManyReadersError(RingfenceError):
    """Nobody keeps more open than a few."""

    code = "too-many-readers"


class _Following(StreamingResponse):
    """Holds one of its reader's places for as long as it is answered."""

    def __init__(self, lines: AsyncIterator[bytes], whose: str) -> None:
        super().__init__(
            lines,
            media_type="application/x-ndjson",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )
        self._whose = whose
        _open[whose] += 1  # when it is made, not when it is sent: between the two others may ask

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            _open[self._whose] -= 1


async def _lines(
    reader: AuditReader, wanted: Filter, cursor: dict[str, int], cursors: AuditCursors
) -> AsyncIterator[bytes]:
    quiet = 0
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
        place = dict(at)
        for record in found:
            place[record.writer] = record.seq
            yield dump_json({**_shown(record, cursors), "next": cursors.write(place)}) + b"\n"
        if cursor == at:
            await anyio.sleep(_POLL_S)


def _shown(record: Record, cursors: AuditCursors) -> dict[str, Any]:
    """A record for its reader; the chain runs through all tenants' records, so that only the operator sees it."""
    hidden = set() if cursors.are_plain else {"seq", "prev", "hash"}
    return record.model_dump(exclude_defaults=True, exclude=hidden)


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


def _place(cursors: AuditCursors, text: str) -> dict[str, int]:
    try:
        return cursors.read(text)
    except ValueError as error:
        raise BodyError(str(error), hint="send what 'next' said") from None

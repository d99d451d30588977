"""Prompts that ended: reading, appending and bounding the history table. Each function works inside its caller's
transaction; queue.py decides which transaction that is."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database import decode, encode, history_table
from policies import TenantId

HISTORY_LIMIT = 10_000
"""Entries kept per tenant, as many as ComfyUI keeps."""

_t = history_table.c
_BATCH = 500  # ids per statement: databases bound the number of parameters


async def append(
    connection: AsyncConnection, tenant: TenantId, prompt_id: str, entry: Mapping[str, Any], *, limit: int
) -> None:
    """Add an entry as the newest, replacing one of the same id, and drop the oldest beyond ``limit``."""
    await connection.execute(
        sa.delete(history_table).where(_t.tenant == tenant, _t.prompt_id == prompt_id),
    )
    await connection.execute(
        sa.insert(history_table).values(
            tenant=tenant, prompt_id=prompt_id, ended_ms=time.time_ns() // 1_000_000, document=encode(entry)
        )
    )
    # The first entry beyond the limit, counted from the newest; it and everything older goes.
    beyond = (
        sa.select(_t.sequence).where(_t.tenant == tenant).order_by(_t.sequence.desc()).offset(limit).limit(1)
    )
    last = (await connection.execute(beyond)).scalar_one_or_none()
    if last is not None:
        await connection.execute(
            sa.delete(history_table).where(_t.tenant == tenant, _t.sequence <= last),
        )


async def entries(
    connection: AsyncConnection, tenant: TenantId, *, max_items: int | None, offset: int | None
) -> dict[str, Any]:
    """Entries by prompt id, oldest first; see ``Storage.history`` for the two parameters."""
    if max_items is not None and max_items <= 0:
        return {}
    query = sa.select(_t.prompt_id, _t.document).where(_t.tenant == tenant)
    from_newest = max_items is not None and (offset is None or offset < 0)
    query = query.order_by(_t.sequence.desc() if from_newest else _t.sequence)
    if max_items is not None:
        query = query.limit(max_items)
    elif offset is not None and offset > 0:
        query = query.limit(HISTORY_LIMIT * 10)  # SQL dialects want a limit beside an offset
    if offset is not None and offset > 0:
        query = query.offset(offset)
    rows = (await connection.execute(query)).all()
    return {row.prompt_id: decode(row.document) for row in (reversed(rows) if from_newest else rows)}


async def entry(connection: AsyncConnection, tenant: TenantId, prompt_id: str) -> Any | None:
    """One entry, or None."""
    query = sa.select(_t.document).where(_t.tenant == tenant, _t.prompt_id == prompt_id)
    document = (await connection.execute(query)).scalar_one_or_none()
    return None if document is None else decode(document)


async def delete(connection: AsyncConnection, tenant: TenantId, prompt_ids: Collection[str] | None) -> int:
    """Delete these entries (None: all of the tenant's); returns how many were there."""
    if prompt_ids is None:
        return (await connection.execute(sa.delete(history_table).where(_t.tenant == tenant))).rowcount
    wanted = sorted(set(prompt_ids))
    gone = 0
    for start in range(0, len(wanted), _BATCH):
        batch = wanted[start : start + _BATCH]
        result = await connection.execute(
            sa.delete(history_table).where(_t.tenant == tenant, _t.prompt_id.in_(batch)),
        )
        gone += result.rowcount
    return gone

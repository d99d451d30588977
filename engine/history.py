"""Prompts that ended: reading, appending and bounding the history table. Each function works inside its caller's
transaction; queue.py decides which transaction that is."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database import decode, history_table
from policies import TenantId

HISTORY_LIMIT = 10_000
"""Entries kept per tenant, as many as ComfyUI keeps."""

_t = history_table.c
_BATCH = 500  # ids per statement: databases bound the number of parameters


READ_BYTES: Final = 64 * 1024 * 1024
"""Of entries that one answer may hold: whoever asks for all gets the newest that fit."""


def append(
    connection: sa.Connection,
    tenant: TenantId,
    prompt_id: str,
    document: bytes,
    *,
    created_ms: int | None,
    limit: int,
    most_bytes: int | None = None,
) -> None:
    """Add an entry as the newest, replacing one of the same id, and drop the oldest beyond the two limits.

    The newest stays, however large: whoever waited for it asks for it now. ``created_ms``: when it was queued, if
    that is known.
    """
    connection.execute(
        sa.delete(history_table).where(_t.tenant == tenant, _t.prompt_id == prompt_id),
    )
    now = time.time_ns() // 1_000_000
    connection.execute(
        sa.insert(history_table).values(
            tenant=tenant,
            prompt_id=prompt_id,
            created_ms=now if created_ms is None else created_ms,
            ended_ms=now,
            document=document,
            nbytes=len(document),
        )
    )
    count, nbytes = size(connection, tenant)
    if count <= limit and (most_bytes is None or nbytes <= most_bytes):
        return
    newest = sa.select(_t.sequence, _t.nbytes).where(_t.tenant == tenant).order_by(_t.sequence.desc())
    held = 0
    for kept, row in enumerate(connection.execute(newest).all()):
        held += row.nbytes
        if kept and (kept >= limit or (most_bytes is not None and held > most_bytes)):
            connection.execute(
                sa.delete(history_table).where(_t.tenant == tenant, _t.sequence <= row.sequence)
            )
            return


def size(connection: sa.Connection, tenant: TenantId) -> tuple[int, int]:
    """How many entries a tenant has, and their bytes."""
    query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(_t.nbytes), 0)).where(_t.tenant == tenant)
    count, nbytes = connection.execute(query).one()
    return int(count), int(nbytes)


async def documents(
    connection: AsyncConnection, tenant: TenantId, *, max_items: int | None, offset: int | None
) -> list[tuple[str, bytes]]:
    """Entries as they are stored, oldest first; see ``Storage.history`` for the two parameters.

    At most ``READ_BYTES`` of them (and one in any case): which, is decided from their sizes before any is read.
    """
    if max_items is not None and max_items <= 0:
        return []
    query = sa.select(_t.sequence, _t.nbytes).where(_t.tenant == tenant)
    from_newest = offset is None or offset < 0
    query = query.order_by(_t.sequence.desc() if from_newest else _t.sequence)
    if max_items is not None:
        query = query.limit(max_items)
    elif offset is not None and offset > 0:
        query = query.limit(HISTORY_LIMIT * 10)  # SQL dialects want a limit beside an offset
    if offset is not None and offset > 0:
        query = query.offset(offset)
    wanted: list[int] = []
    left = READ_BYTES
    for row in (await connection.execute(query)).all():
        left -= row.nbytes
        if left < 0 and wanted:
            break
        wanted.append(row.sequence)
    found: list[tuple[int, str, bytes]] = []
    for start in range(0, len(wanted), _BATCH):
        batch = sa.select(_t.sequence, _t.prompt_id, _t.document).where(
            _t.sequence.in_(wanted[start : start + _BATCH])
        )
        found += [tuple(row) for row in (await connection.execute(batch)).all()]
    return [(prompt_id, document) for _, prompt_id, document in sorted(found)]


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

"""Prompts that ended: reading, appending and bounding the history table. Each function works inside its caller's
transaction; queue.py decides which transaction that is."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database import decode
from engine.prepared import Prepared
from engine.tables import history_table
from policies import TenantId

HISTORY_LIMIT = 10_000
"""Entries kept per tenant, as many as ComfyUI keeps."""

_t = history_table.c
_BATCH = 500  # ids per statement: databases bound the number of parameters
_OF_TENANT = _t.tenant == sa.bindparam("of_tenant")
_OF_NAME: Final = Prepared(
    # Its length stands in the head of a row; a column behind a large document is found by reading all of it.
    sa.select(_t.sequence, sa.func.length(_t.document)).where(
        _OF_TENANT, _t.prompt_id == sa.bindparam("named")
    )
)
_FORGET: Final = Prepared(sa.delete(history_table).where(_t.sequence == sa.bindparam("gone")))
_ADD: Final = Prepared(
    sa.insert(history_table),
    columns=("tenant", "prompt_id", "created_ms", "ended_ms", "document", "nbytes"),
)
_SIZE: Final = Prepared(
    sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(_t.nbytes), 0)).where(_OF_TENANT)
)
_OLDEST: Final = Prepared(
    sa.select(_t.sequence, _t.nbytes).where(_OF_TENANT).order_by(_t.sequence).limit(_BATCH)
)
_FORGET_UNTIL: Final = Prepared(
    sa.delete(history_table).where(_OF_TENANT, _t.sequence <= sa.bindparam("last"))
)


READ_BYTES: Final = 64 * 1024 * 1024
"""Of entries that one answer may hold: whoever asks for all gets the newest that fit."""


class TakesLongError(Exception):
    """An entry replaces a large one, or older ones have to go: not for a transaction that is to be short."""


def append(
    connection: sa.Connection,
    tenant: TenantId,
    prompt_id: str,
    document: bytes,
    *,
    created_ms: int | None,
    limit: int,
    most_bytes: int | None = None,
    held: tuple[int, int] | None = None,
    replaces_bytes: int | None = None,
) -> tuple[int, int]:
    """Add an entry as the newest, replacing one of the same id, and drop the oldest beyond the two limits.

    The newest stays, however large: whoever waited for it asks for it now. ``created_ms``: when it was queued, if
    that is known. ``held``: at least so many entries and bytes as there were, where that is known; returns the same
    of now. Only where a limit seems to be reached are they counted, and then a hundredth more than need be goes, so
    that not each entry from then on drops one. ``replaces_bytes``: no larger entry is replaced, and none dropped.

    Raises:
        TakesLongError: one would be; the transaction is to be rolled back.
    """
    now = time.time_ns() // 1_000_000
    for sequence, of_one in _OF_NAME.all(connection, of_tenant=tenant, named=prompt_id):
        if replaces_bytes is not None and of_one > replaces_bytes:
            raise TakesLongError
        _FORGET.change(connection, gone=sequence)
    _ADD.change(
        connection,
        tenant=tenant,
        prompt_id=prompt_id,
        created_ms=now if created_ms is None else created_ms,
        ended_ms=now,
        document=document,
        nbytes=len(document),
    )
    count, nbytes = size(connection, tenant) if held is None else (held[0] + 1, held[1] + len(document))
    if not is_over(count, nbytes, limit, most_bytes):
        return count, nbytes
    if replaces_bytes is not None:
        raise TakesLongError
    if held is not None:
        count, nbytes = size(connection, tenant)
    if is_over(count, nbytes, limit, most_bytes):
        limit -= limit // 100
        most_bytes = most_bytes and most_bytes - most_bytes // 100
    while count > 1 and is_over(count, nbytes, limit, most_bytes):
        last = 0
        for sequence, of_one in _OLDEST.all(connection, of_tenant=tenant):
            if count == 1 or not is_over(count, nbytes, limit, most_bytes):
                break
            last, count, nbytes = sequence, count - 1, nbytes - of_one
        _FORGET_UNTIL.change(connection, of_tenant=tenant, last=last)
    return count, nbytes


def is_over(count: int, nbytes: int, limit: int, most_bytes: int | None) -> bool:
    """Whether so many entries of so many bytes are too many."""
    return count > limit or (most_bytes is not None and nbytes > most_bytes)


def size(connection: sa.Connection, tenant: TenantId) -> tuple[int, int]:
    """How many entries a tenant has, and their bytes."""
    ((count, nbytes),) = _SIZE.all(connection, of_tenant=tenant)
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

"""The queue that survives: ``SqlStorage``, the ``Storage`` protocol on SQLAlchemy.

A prompt is one row of the queue table until it ends; ``finish`` moves it to the history in the same transaction. Not
here: which tenant's prompt runs next (engine.py) and the history's own statements (history.py).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from engine import history as history_rows
from engine.database import Database, counters_table, decode, encode, queue_table
from engine.documents import decoded, encoded
from engine.errors import DuplicatePromptError, QueueFullError
from engine.history import HISTORY_LIMIT
from engine.storage import NewPrompt, QueuedPrompt
from policies import TenantId

_q = queue_table.c
_SHOWN = (_q.tenant, _q.prompt_id, _q.number, _q.counted, _q.document)  # everything but the secrets
PENDING_BYTES: Final = 256 * 1024 * 1024
"""Of one tenant's pending prompts, however few: whoever looks at a queue holds all of it in memory."""
_BATCH = 500  # ids per statement: databases bound the number of parameters


class SqlStorage:
    """Queue and history of all tenants in one database; fulfils ``engine.storage.Storage``."""

    def __init__(
        self,
        database: Database,
        *,
        history_limit: int = HISTORY_LIMIT,
        history_bytes: Callable[[TenantId], int | None] = lambda _tenant: None,
    ) -> None:
        self._database = database
        self._history_limit = history_limit
        self._history_bytes = history_bytes

    async def requeue_running(self) -> int:
        """At start: what was running when the host died is pending again."""
        async with self._database.write() as connection:
            result = await connection.execute(
                sa.update(queue_table).where(_q.claimed.is_not(None)).values(claimed=None)
            )
            return result.rowcount

    async def enqueue(self, new: NewPrompt, *, limit: int) -> QueuedPrompt:
        """Store a prompt; on disk when this returns.

        Raises:
            DuplicatePromptError: the id is pending or running already.
            QueueFullError: ``limit`` prompts are pending.
        """
        document = await encoded([new.prompt, new.extra_data, list(new.outputs)])
        secrets = encode(new.secrets) if new.secrets else None
        async with self._database.write() as connection:
            await self._refuse_if_full(connection, new.tenant, limit, len(document))
            number = await _next_number(connection, new) if new.number is None else float(new.number)
            row = {
                "tenant": new.tenant,
                "prompt_id": new.prompt_id,
                "client_sha256": None if new.client_id is None else _client_key(new.client_id),
                "number": number,
                "counted": new.number is None,
                "created_ms": time.time_ns() // 1_000_000,
                "document": document,
                "secrets": secrets,
            }
            try:
                await connection.execute(sa.insert(queue_table).values(row))
            except IntegrityError as error:
                raise DuplicatePromptError(new.prompt_id) from error
        return QueuedPrompt(
            tenant=new.tenant,
            prompt_id=new.prompt_id,
            number=number,
            prompt=new.prompt,
            extra_data=new.extra_data,
            outputs=tuple(new.outputs),
            secrets=new.secrets,
        )

    async def pending_count(self, tenant: TenantId) -> int:
        """How many prompts wait."""
        query = sa.select(sa.func.count()).select_from(queue_table)
        query = query.where(_q.tenant == tenant, _q.claimed.is_(None))
        async with self._database.read() as connection:
            return int((await connection.execute(query)).scalar_one())

    async def waiting_tenants(self) -> Sequence[TenantId]:
        """Tenants that have pending prompts, by name."""
        query = sa.select(_q.tenant).where(_q.claimed.is_(None)).distinct().order_by(_q.tenant)
        async with self._database.read() as connection:
            return [TenantId(name) for name in (await connection.execute(query)).scalars()]

    async def claim_next(self, tenant: TenantId, busy: Collection[str] = ()) -> QueuedPrompt | None:
        """Mark the tenant's first pending prompt running, those of the ``busy`` clients passed over."""
        first = _pending(sa.select(_q.sequence, *_SHOWN, _q.secrets), tenant).limit(1)
        if busy:
            clients = [_client_key(client) for client in busy]
            first = first.where(sa.or_(_q.client_sha256.is_(None), _q.client_sha256.not_in(clients)))
        async with self._database.write() as connection:
            row = (await connection.execute(first)).one_or_none()
            if row is None:
                return None
            place = sa.select(sa.func.coalesce(sa.func.max(_q.claimed), 0) + 1)
            claimed = (await connection.execute(place)).scalar_one()
            await connection.execute(
                sa.update(queue_table).where(_q.sequence == row.sequence).values(claimed=claimed)
            )
        return _queued(row, {} if row.secrets is None else decode(row.secrets))

    async def finish(self, tenant: TenantId, prompt_id: str, entry: Mapping[str, Any]) -> None:
        """Move a prompt from the queue into the history; its secrets are gone with the row."""
        of_prompt = sa.and_(_q.tenant == tenant, _q.prompt_id == prompt_id)
        most_bytes = self._history_bytes(tenant)
        document = await encoded(entry)
        async with self._database.write() as connection:
            has_secrets = sa.select(sa.literal(1)).where(of_prompt, _q.secrets.is_not(None))
            scrub = (await connection.execute(has_secrets)).first() is not None
            await connection.execute(sa.delete(queue_table).where(of_prompt))
            await history_rows.append(
                connection, tenant, prompt_id, document, limit=self._history_limit, most_bytes=most_bytes
            )
        if scrub:
            await self._database.scrub()

    async def pending(self, tenant: TenantId) -> Sequence[QueuedPrompt]:
        """Pending prompts in running order, without secrets."""
        async with self._database.read() as connection:
            rows = await connection.execute(_pending(sa.select(*_SHOWN), tenant))
            return [_queued(row) for row in rows]

    async def running(self, tenant: TenantId) -> Sequence[QueuedPrompt]:
        """Claimed prompts in the order of claiming, without secrets."""
        query = sa.select(*_SHOWN).where(_q.tenant == tenant, _q.claimed.is_not(None)).order_by(_q.claimed)
        async with self._database.read() as connection:
            return [_queued(row) for row in await connection.execute(query)]

    async def remaining(self, tenant: TenantId) -> int:
        """Pending plus running."""
        query = sa.select(sa.func.count()).select_from(queue_table).where(_q.tenant == tenant)
        async with self._database.read() as connection:
            return int((await connection.execute(query)).scalar_one())

    async def remove(self, tenant: TenantId, prompt_ids: Collection[str] | None) -> Sequence[str]:
        """Remove pending prompts (None: all); returns the removed ids in the order in which they would have run."""
        wanted = None if prompt_ids is None else set(prompt_ids)
        async with self._database.write() as connection:
            columns = sa.select(_q.sequence, _q.prompt_id, _q.secrets.is_not(None).label("has_secrets"))
            rows = (await connection.execute(_pending(columns, tenant))).all()
            gone = [row for row in rows if wanted is None or row.prompt_id in wanted]
            for start in range(0, len(gone), _BATCH):
                batch = [row.sequence for row in gone[start : start + _BATCH]]
                await connection.execute(sa.delete(queue_table).where(_q.sequence.in_(batch)))
        if any(row.has_secrets for row in gone):
            await self._database.scrub()
        return [row.prompt_id for row in gone]

    async def history(
        self, tenant: TenantId, *, max_items: int | None = None, offset: int | None = None
    ) -> dict[str, Any]:
        """Entries by prompt id, oldest first; the newest of them where they are too many bytes to hold."""
        async with self._database.read() as connection:
            rows = await history_rows.documents(connection, tenant, max_items=max_items, offset=offset)
        return await decoded(rows)

    async def history_size(self, tenant: TenantId) -> tuple[int, int]:
        """Entries and bytes that are kept."""
        async with self._database.read() as connection:
            return await history_rows.size(connection, tenant)

    async def history_entry(self, tenant: TenantId, prompt_id: str) -> Any | None:
        """One entry, or None."""
        async with self._database.read() as connection:
            return await history_rows.entry(connection, tenant, prompt_id)

    async def delete_history(self, tenant: TenantId, prompt_ids: Collection[str] | None) -> int:
        """Delete entries (None: all); returns how many went."""
        async with self._database.write() as connection:
            return await history_rows.delete(connection, tenant, prompt_ids)

    async def _refuse_if_full(
        self, connection: AsyncConnection, tenant: TenantId, limit: int, nbytes: int
    ) -> None:
        stored = sa.func.coalesce(sa.func.sum(sa.func.length(_q.document)), 0)
        query = sa.select(sa.func.count(), stored).where(_q.tenant == tenant, _q.claimed.is_(None))
        count, used = (await connection.execute(query)).one()
        if count >= limit:
            raise QueueFullError(limit)
        if count and int(used) + nbytes > PENDING_BYTES:
            raise QueueFullError(count, nbytes=PENDING_BYTES)


def _client_key(client_id: str) -> str:
    """What stands for a client in the table: a client chooses its id, and not every database takes every text."""
    return hashlib.sha256(client_id.encode("utf-8", "surrogatepass")).hexdigest()


def _pending(query: sa.Select[Any], tenant: TenantId) -> sa.Select[Any]:
    return query.where(_q.tenant == tenant, _q.claimed.is_(None)).order_by(_q.number, _q.prompt_id)


def _queued(row: Any, secrets: Mapping[str, Any] | None = None) -> QueuedPrompt:
    prompt, extra_data, outputs = decode(row.document)
    return QueuedPrompt(
        tenant=TenantId(row.tenant),
        prompt_id=row.prompt_id,
        number=int(row.number) if row.counted else row.number,
        prompt=prompt,
        extra_data=extra_data,
        outputs=tuple(outputs),
        secrets=secrets or {},
    )


async def _next_number(connection: AsyncConnection, new: NewPrompt) -> int:
    counters = counters_table.c
    of_tenant = counters.tenant == new.tenant
    query = sa.select(counters.next_number).where(of_tenant).with_for_update()
    number: int | None = (await connection.execute(query)).scalar_one_or_none()
    if number is None:
        number = 0
        await connection.execute(sa.insert(counters_table).values(tenant=new.tenant, next_number=1))
    else:
        await connection.execute(sa.update(counters_table).where(of_tenant).values(next_number=number + 1))
    return -number if new.front else number

"""What the Comfy API v2 must remember of its jobs beyond queue and history: used idempotency keys, and jobs that were
cancelled before they ran. Bounded per tenant; the oldest go first.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from engine.database import Database, decode, encode
from engine.errors import EngineError
from engine.tables import submissions_table
from policies import TenantId

SUBMISSIONS_LIMIT: Final = 10_000
"""Rows kept per tenant, as many as history entries."""

_t = submissions_table.c


class KeyReusedError(EngineError):
    """An idempotency key was used for an earlier request."""

    code = "idempotency-key-reuse"


@dataclass(frozen=True, slots=True)
class Submission:
    """One job. ``document``: what was cancelled, as ``prompt`` and ``extra_data``."""

    job_id: str
    created_ms: int
    canceled_ms: int | None
    document: Any | None


class Submissions:
    """The jobs of all tenants."""

    def __init__(self, database: Database, *, limit: int = SUBMISSIONS_LIMIT) -> None:
        self._database = database
        self._limit = limit

    async def claim(self, tenant: TenantId, job_id: str, key: str | None) -> int:
        """Remember a job that is about to be queued; returns the time of it in ms.

        Raises:
            KeyReusedError: the key was used before.
        """
        now = time.time_ns() // 1_000_000
        row = {"tenant": tenant, "job_id": job_id, "idempotency_key": key, "created_ms": now}
        async with self._database.write() as connection:
            try:
                await connection.execute(sa.insert(submissions_table).values(row))
            except IntegrityError as error:
                raise KeyReusedError(
                    "this idempotency key was used before",
                    hint="look for the job that the first request made, or send a new key for a new job",
                ) from error
            beyond = (
                sa.select(_t.sequence)
                .where(_t.tenant == tenant)
                .order_by(_t.sequence.desc())
                .offset(self._limit)
                .limit(1)
            )
            last = (await connection.execute(beyond)).scalar_one_or_none()
            if last is not None:
                await connection.execute(
                    sa.delete(submissions_table).where(_t.tenant == tenant, _t.sequence <= last)
                )
        return now

    async def release(self, tenant: TenantId, job_id: str) -> None:
        """Forget a job that was refused: its key may be used again."""
        async with self._database.write() as connection:
            await connection.execute(
                sa.delete(submissions_table).where(_t.tenant == tenant, _t.job_id == job_id)
            )

    async def cancel(self, tenant: TenantId, job_id: str, document: Any) -> None:
        """Remember a job that was taken out of the queue."""
        now = time.time_ns() // 1_000_000
        async with self._database.write() as connection:
            await connection.execute(
                sa.update(submissions_table)
                .where(_t.tenant == tenant, _t.job_id == job_id)
                .values(canceled_ms=now, document=encode(document))
            )

    async def get(self, tenant: TenantId, job_id: str) -> Submission | None:
        """One job, or None."""
        query = sa.select(submissions_table).where(_t.tenant == tenant, _t.job_id == job_id)
        async with self._database.read() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else _submission(row)


def _submission(row: Any) -> Submission:
    document = None if row.document is None else decode(row.document)
    return Submission(row.job_id, row.created_ms, row.canceled_ms, document)

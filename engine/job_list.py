"""All jobs of a tenant by age: those that wait, run or have ended, and what the Comfy API v2 remembers beyond them.

One statement over the three tables, which reads no prompt: a job that moves from one to the next while it is asked is
listed once, at the same place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from engine.database import Database
from engine.tables import history_table, queue_table, submissions_table
from policies import TenantId

_s, _q, _h = submissions_table.c, queue_table.c, history_table.c


@dataclass(frozen=True, slots=True, order=True)
class JobPlace:
    """Where a job stands in the list: older is less. ``sequence`` tells jobs of one millisecond apart, where the
    Comfy API v2 made them."""

    created_ms: int
    sequence: int
    job_id: str


class JobList:
    """The jobs of all tenants."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, tenant: TenantId, *, before: JobPlace | None, limit: int) -> Sequence[JobPlace]:
        """Jobs, newest first, older than ``before``."""
        query = sa.select(_PLACES)
        if before is not None:
            ours = sa.tuple_(_PLACES.c.created_ms, _PLACES.c.sequence, _PLACES.c.job_id)
            query = query.where(ours < sa.tuple_(before.created_ms, before.sequence, before.job_id))
        query = query.order_by(
            _PLACES.c.created_ms.desc(), _PLACES.c.sequence.desc(), _PLACES.c.job_id.desc()
        )
        async with self._database.read() as connection:
            rows = (await connection.execute(query.limit(limit), {"of_tenant": tenant})).all()
        return [JobPlace(*row) for row in rows]


def _places() -> sa.Subquery[Any]:
    tenant = sa.bindparam("of_tenant", type_=sa.String)
    submitted = sa.exists().where(_s.tenant == tenant)
    waiting = sa.exists().where(_q.tenant == tenant, _q.prompt_id == _h.prompt_id)
    none = sa.literal(0, sa.BigInteger)
    return sa.union_all(
        sa.select(_s.created_ms, _s.sequence, _s.job_id).where(_s.tenant == tenant),
        sa.select(_q.created_ms, none.label("sequence"), _q.prompt_id.label("job_id")).where(
            _q.tenant == tenant, ~submitted.where(_s.job_id == _q.prompt_id)
        ),
        # A client may use the id of a prompt that has ended again.
        sa.select(_h.created_ms, none.label("sequence"), _h.prompt_id.label("job_id")).where(
            _h.tenant == tenant, ~submitted.where(_s.job_id == _h.prompt_id), ~waiting
        ),
    ).subquery("places")


_PLACES: Final = _places()

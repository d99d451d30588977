"""The queue table in statements, and what a row of it is.

``queue.py`` says when which is asked, and in which transaction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Final

import sqlalchemy as sa

from engine.crowds import Waiting
from engine.database import decode
from engine.prepared import Prepared
from engine.storage import NewPrompt, QueuedPrompt
from engine.tables import counters_table, queue_table
from policies import TenantId

_q = queue_table.c
SHOWN: Final = (_q.tenant, _q.prompt_id, _q.number, _q.counted, _q.document)
"""Everything but the secrets."""
_BATCH: Final = 500  # ids per statement: databases bound the number of parameters
NBYTES = sa.func.length(_q.document)
INSERT = Prepared(
    sa.insert(queue_table),
    columns=(
        *("tenant", "prompt_id", "number", "counted", "created_ms", "document", "secrets"),
        "client_sha256",
    ),
)
LAST_CLAIM = Prepared(sa.select(sa.func.coalesce(sa.func.max(_q.claimed), 0)))
CLAIM = Prepared(
    sa.update(queue_table)
    .where(_q.sequence == sa.bindparam("claimed_row"))
    .values(claimed=sa.bindparam("place"))
)
_NAMED = sa.and_(_q.tenant == sa.bindparam("of_tenant"), _q.prompt_id == sa.bindparam("named"))
_ENDING = Prepared(
    sa.select(
        _q.sequence,
        _q.claimed,
        _q.created_ms,
        _q.secrets.is_not(None).label("has_secrets"),
        NBYTES.label("nbytes"),
    ).where(_NAMED)
)
DELETE = Prepared(sa.delete(queue_table).where(_q.sequence == sa.bindparam("ended_row")))


@dataclass(frozen=True, slots=True)
class Ended:
    """A row that goes, as far as it matters then."""

    sequence: int
    is_claimed: bool
    created_ms: int
    has_secrets: bool
    nbytes: int


CONTENT = Prepared(sa.select(_q.document, _q.secrets).where(_q.sequence == sa.bindparam("wanted")))
COUNTED = sa.select(
    _q.tenant,
    _q.claimed.is_not(None).label("is_running"),
    sa.func.count(),
    sa.func.coalesce(sa.func.sum(NBYTES), 0),
).group_by(_q.tenant, sa.text("is_running"))
LISTED = sa.select(
    _q.tenant,
    _q.number,
    _q.prompt_id,
    _q.sequence,
    _q.client_sha256,
    _q.counted,
    NBYTES.label("nbytes"),
    _q.secrets.is_not(None).label("has_secrets"),
    _q.claimed,
    _q.created_ms,
)
"""All prompts of all tenants, without what they say."""


def client_key(client_id: str) -> str:
    """What stands for a client in the table: a client chooses its id, and not every database takes every text."""
    return _short_key(client_id) if len(client_id) <= _SHORT else _key(client_id)


def _key(client_id: str) -> str:
    return hashlib.sha256(client_id.encode("utf-8", "surrogatepass")).hexdigest()


_SHORT: Final = 200
_short_key: Final = lru_cache(1_000)(_key)


def pending(query: sa.Select[Any], tenant: TenantId) -> sa.Select[Any]:
    """What waits, in its order."""
    return query.where(_q.tenant == tenant, _q.claimed.is_(None)).order_by(_q.number, _q.prompt_id)


def delete(connection: sa.Connection, sequences: Sequence[int]) -> None:
    """Delete these rows."""
    for start in range(0, len(sequences), _BATCH):
        batch = sequences[start : start + _BATCH]
        connection.execute(sa.delete(queue_table).where(_q.sequence.in_(batch)))


@cache
def first_pending(busy: int) -> Prepared:
    """The tenant's first pending prompt, those of so many clients passed over."""
    query = sa.select(_q.sequence, *SHOWN, _q.secrets).where(
        _q.tenant == sa.bindparam("of_tenant"), _q.claimed.is_(None)
    )
    if busy:
        places: list[sa.BindParameter[str]] = [sa.bindparam(client_name(place)) for place in range(busy)]
        query = query.where(sa.or_(_q.client_sha256.is_(None), _q.client_sha256.not_in(places)))
    return Prepared(query.order_by(_q.number, _q.prompt_id).limit(1))


def client_name(place: int) -> str:
    """The name of a client's parameter in ``first_pending``."""
    return f"client_{place}"


def ending(connection: sa.Connection, tenant: TenantId, prompt_id: str) -> Ended | None:
    """The row of a prompt, if it is there."""
    row = _ENDING.first(connection, of_tenant=tenant, named=prompt_id)
    if row is None:
        return None
    sequence, claimed, created_ms, has_secrets, nbytes = row
    return Ended(sequence, claimed is not None, created_ms, bool(has_secrets), nbytes)


def ended_as(run: Waiting) -> Ended:
    """The row of a prompt that runs, as it was when it was stored."""
    return Ended(run.sequence, True, run.created_ms, run.has_secrets, run.nbytes)


def queued(row: Sequence[Any], secrets: Mapping[str, Any] | None = None) -> QueuedPrompt:
    """A row of ``SHOWN``."""
    tenant, prompt_id, number, counted, document = row
    prompt, extra_data, outputs = decode(document)
    return QueuedPrompt(
        tenant=TenantId(tenant),
        prompt_id=prompt_id,
        number=int(number) if counted else number,
        prompt=prompt,
        extra_data=extra_data,
        outputs=tuple(outputs),
        secrets=secrets or {},
    )


def next_number(connection: sa.Connection, new: NewPrompt, known: dict[TenantId, int] | None) -> int:
    """The number of a tenant's new prompt; the counter moves on.

    ``known``: numbers that come next, where nobody else counts; one that is not used after all is left out.
    """
    number = None if known is None else known.get(new.tenant)
    if number is None:
        found = _NUMBER.first(connection, of_tenant=new.tenant)
        number = 0 if found is None else int(found[0])
    if not _COUNT_ON.change(connection, of_tenant=new.tenant, following=number + 1):
        number = 0  # the first, or the first since the tenant was removed
        connection.execute(sa.insert(counters_table).values(tenant=new.tenant, next_number=1))
    if known is not None:
        known[new.tenant] = number + 1
    return -number if new.front else number


_OF_TENANT = counters_table.c.tenant == sa.bindparam("of_tenant")
_NUMBER = Prepared(sa.select(counters_table.c.next_number).where(_OF_TENANT).with_for_update())
_COUNT_ON = Prepared(
    sa.update(counters_table).where(_OF_TENANT).values(next_number=sa.bindparam("following"))
)

"""The queue that survives: ``SqlStorage``, the ``Storage`` protocol on SQLAlchemy.

A prompt is one row of the queue table until it ends; ``finish`` moves it to the history in the same transaction. Not
here: which tenant's prompt runs next (engine.py) and the history's own statements (history.py).
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from engine import history as history_rows
from engine.database import Database, counters_table, decode, encode, queue_table
from engine.documents import decoded, encoded
from engine.errors import DuplicatePromptError, QueueFullError
from engine.history import HISTORY_LIMIT
from engine.prepared import Prepared
from engine.storage import NewPrompt, QueuedPrompt
from policies import TenantId

T = TypeVar("T")

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
        self._counting = asyncio.Lock()
        self._crowds: dict[TenantId, _Crowd] | None = None
        self._last_claim: int | None = None
        self._kept: dict[TenantId, tuple[int, int]] = {}
        """Entries and bytes of histories, or more: what was deleted since is still in it. The writer's thread's own."""
        self._must_count = False

    async def requeue_running(self) -> int:
        """At start: what was running when the host died is pending again."""
        statement = sa.update(queue_table).where(_q.claimed.is_not(None)).values(claimed=None)
        count = await self._database.transact(lambda connection: connection.execute(statement).rowcount)
        self._crowds = None
        self._last_claim = None
        await self._look_again()
        return count

    async def enqueue(self, new: NewPrompt, *, limit: int) -> QueuedPrompt:
        """Store a prompt; on disk when this returns.

        Raises:
            DuplicatePromptError: the id is pending or running already.
            QueueFullError: ``limit`` prompts are pending.
        """
        document = await encoded([new.prompt, new.extra_data, list(new.outputs)])
        row = {
            "tenant": new.tenant,
            "prompt_id": new.prompt_id,
            "client_sha256": None if new.client_id is None else _client_key(new.client_id),
            "counted": new.number is None,
            "created_ms": time.time_ns() // 1_000_000,
            "document": document,
            "secrets": encode(new.secrets) if new.secrets else None,
        }

        def insert(connection: sa.Connection) -> float:
            number = _next_number(connection, new) if new.number is None else float(new.number)
            _INSERT.change(connection, number=number, **row)
            return number

        # Counted before it is stored: two that arrive together cannot both be the last one that fits.
        crowd = await self._crowd(new.tenant)
        if crowd.pending >= limit:
            raise QueueFullError(limit)
        if crowd.pending and crowd.nbytes + len(document) > PENDING_BYTES:
            raise QueueFullError(crowd.pending, nbytes=PENDING_BYTES)
        crowd.add(len(document))
        try:
            number = await self._database.transact(insert)
        except IntegrityError as error:
            crowd.end(was_running=False, nbytes=len(document))
            raise DuplicatePromptError(new.prompt_id) from error
        except BaseException:
            self._crowds = None  # whether it was stored is the database's to say
            raise
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
        return (await self._crowd(tenant)).pending

    async def waiting_tenants(self) -> Sequence[TenantId]:
        """Tenants that have pending prompts, by name."""
        crowds = self._crowds if self._crowds is not None else await self._look_again()
        return sorted(tenant for tenant, crowd in crowds.items() if crowd.pending > 0)

    async def claim_next(self, tenant: TenantId, busy: Collection[str] = ()) -> QueuedPrompt | None:
        """Mark the tenant's first pending prompt running, those of the ``busy`` clients passed over."""
        crowd = await self._crowd(tenant)
        if crowd.pending <= 0:
            return None
        clients = {_client_name(place): _client_key(client) for place, client in enumerate(busy)}

        def claim(connection: sa.Connection) -> Any:
            row = _first_pending(len(clients)).first(connection, of_tenant=tenant, **clients)
            if row is not None:
                if self._last_claim is None:
                    ((self._last_claim,),) = _LAST_CLAIM.all(connection)
                self._last_claim += 1
                _CLAIM.change(connection, claimed_row=row[0], place=self._last_claim)
            return row

        # Not durable: after a power cut it is pending, which is what the start makes of it anyway.
        row = await self._changed(claim, durable=False)
        if row is None:
            return None
        _, *shown, secrets = row
        crowd.start(len(shown[-1]))
        return _queued(shown, {} if secrets is None else decode(secrets))

    async def finish(self, tenant: TenantId, prompt_id: str, entry: Mapping[str, Any]) -> None:
        """Move a prompt from the queue into the history; its secrets are gone with the row."""
        most_bytes = self._history_bytes(tenant)
        document = await encoded(entry)

        def move(connection: sa.Connection) -> Any:
            if self._must_count:
                self._must_count = False
                self._kept.clear()
            row = _ENDING.first(connection, of_tenant=tenant, named=prompt_id)
            _DELETE.change(connection, of_tenant=tenant, named=prompt_id)
            self._kept[tenant] = history_rows.append(
                connection,
                tenant,
                prompt_id,
                document,
                created_ms=None if row is None else row[1],
                limit=self._history_limit,
                most_bytes=most_bytes,
                held=self._kept.get(tenant),
            )
            return row

        crowd = await self._crowd(tenant)
        try:
            row = await self._changed(move)
        except BaseException:
            self._must_count = True  # what it dropped may be there again
            raise
        if row is not None:
            claimed, _, has_secrets, nbytes = row
            crowd.end(was_running=claimed is not None, nbytes=nbytes)
            if has_secrets:
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
        crowd = await self._crowd(tenant)
        return crowd.pending + crowd.running

    async def remove(self, tenant: TenantId, prompt_ids: Collection[str] | None) -> Sequence[str]:
        """Remove pending prompts (None: all); returns the removed ids in the order in which they would have run."""
        wanted = None if prompt_ids is None else set(prompt_ids)
        columns = sa.select(
            _q.sequence, _q.prompt_id, _q.secrets.is_not(None).label("has_secrets"), _NBYTES.label("nbytes")
        )

        def delete(connection: sa.Connection) -> Sequence[Any]:
            rows = connection.execute(_pending(columns, tenant)).all()
            gone = [row for row in rows if wanted is None or row.prompt_id in wanted]
            for start in range(0, len(gone), _BATCH):
                batch = [row.sequence for row in gone[start : start + _BATCH]]
                connection.execute(sa.delete(queue_table).where(_q.sequence.in_(batch)))
            return gone

        crowd = await self._crowd(tenant)
        gone = await self._changed(delete)
        for row in gone:
            crowd.end(was_running=False, nbytes=row.nbytes)
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
            return await connection.run_sync(history_rows.size, tenant)

    async def history_entry(self, tenant: TenantId, prompt_id: str) -> Any | None:
        """One entry, or None."""
        async with self._database.read() as connection:
            return await history_rows.entry(connection, tenant, prompt_id)

    async def delete_history(self, tenant: TenantId, prompt_ids: Collection[str] | None) -> int:
        """Delete entries (None: all); returns how many went."""
        async with self._database.write() as connection:
            return await history_rows.delete(connection, tenant, prompt_ids)

    async def _changed(self, work: Callable[[sa.Connection], T], *, durable: bool = True) -> T:
        """A transaction that changes how many there are."""
        try:
            return await self._database.transact(work, durable=durable)
        except BaseException:
            self._crowds = None  # whether it was stored is the database's to say
            raise

    # -- how many there are: taken hold of, then changed together with the rows, with no wait in between. A count that
    # -- is taken anew meanwhile comes after those changes in the writer's line, and sees them.

    async def _crowd(self, tenant: TenantId) -> _Crowd:
        crowds = self._crowds if self._crowds is not None else await self._look_again()
        return crowds.setdefault(tenant, _Crowd())

    async def _look_again(self) -> dict[TenantId, _Crowd]:
        """Count what the database holds; nobody but this object changes it from here on."""
        async with self._counting:
            return self._crowds if self._crowds is not None else await self._count()

    async def _count(self) -> dict[TenantId, _Crowd]:
        def count(connection: sa.Connection) -> dict[TenantId, _Crowd]:
            found: dict[TenantId, _Crowd] = {}
            for tenant, is_running, prompts, nbytes in connection.execute(_COUNTED):
                crowd = found.setdefault(TenantId(tenant), _Crowd())
                if is_running:
                    crowd.running = prompts
                else:
                    crowd.pending, crowd.nbytes = prompts, int(nbytes)
            return found

        self._crowds = await self._database.transact(count, durable=False)
        return self._crowds


@dataclass(slots=True)
class _Crowd:
    """How many of a tenant's prompts are there, so that nobody who only wants to know that waits for the database."""

    pending: int = 0
    running: int = 0
    nbytes: int = 0
    """Of the documents of those that are pending."""

    def add(self, nbytes: int) -> None:
        self.pending += 1
        self.nbytes += nbytes

    def start(self, nbytes: int) -> None:
        self.pending -= 1
        self.nbytes -= nbytes
        self.running += 1

    def end(self, *, was_running: bool, nbytes: int) -> None:
        if was_running:
            self.running -= 1
        else:
            self.pending -= 1
            self.nbytes -= nbytes


_NBYTES = sa.func.length(_q.document)
_INSERT = Prepared(
    sa.insert(queue_table),
    columns=(
        *("tenant", "prompt_id", "number", "counted", "created_ms", "document", "secrets"),
        "client_sha256",
    ),
)
_LAST_CLAIM = Prepared(sa.select(sa.func.coalesce(sa.func.max(_q.claimed), 0)))
_CLAIM = Prepared(
    sa.update(queue_table)
    .where(_q.sequence == sa.bindparam("claimed_row"))
    .values(claimed=sa.bindparam("place"))
)
_NAMED = sa.and_(_q.tenant == sa.bindparam("of_tenant"), _q.prompt_id == sa.bindparam("named"))
_ENDING = Prepared(
    sa.select(
        _q.claimed, _q.created_ms, _q.secrets.is_not(None).label("has_secrets"), _NBYTES.label("nbytes")
    ).where(_NAMED)
)
_DELETE = Prepared(sa.delete(queue_table).where(_NAMED))
_COUNTED = sa.select(
    _q.tenant,
    _q.claimed.is_not(None).label("is_running"),
    sa.func.count(),
    sa.func.coalesce(sa.func.sum(_NBYTES), 0),
).group_by(_q.tenant, sa.text("is_running"))


def _client_key(client_id: str) -> str:
    """What stands for a client in the table: a client chooses its id, and not every database takes every text."""
    return hashlib.sha256(client_id.encode("utf-8", "surrogatepass")).hexdigest()


def _pending(query: sa.Select[Any], tenant: TenantId) -> sa.Select[Any]:
    return query.where(_q.tenant == tenant, _q.claimed.is_(None)).order_by(_q.number, _q.prompt_id)


@cache
def _first_pending(busy: int) -> Prepared:
    """The tenant's first pending prompt, those of so many clients passed over."""
    query = sa.select(_q.sequence, *_SHOWN, _q.secrets).where(
        _q.tenant == sa.bindparam("of_tenant"), _q.claimed.is_(None)
    )
    if busy:
        places: list[sa.BindParameter[str]] = [sa.bindparam(_client_name(place)) for place in range(busy)]
        query = query.where(sa.or_(_q.client_sha256.is_(None), _q.client_sha256.not_in(places)))
    return Prepared(query.order_by(_q.number, _q.prompt_id).limit(1))


def _client_name(place: int) -> str:
    return f"client_{place}"


def _queued(row: Sequence[Any], secrets: Mapping[str, Any] | None = None) -> QueuedPrompt:
    tenant, prompt_id, number, counted, document = row  # _SHOWN
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


def _next_number(connection: sa.Connection, new: NewPrompt) -> int:
    found = _NUMBER.first(connection, of_tenant=new.tenant)
    number: int = 0 if found is None else found[0]
    if found is None:
        connection.execute(sa.insert(counters_table).values(tenant=new.tenant, next_number=1))
    else:
        _COUNT_ON.change(connection, of_tenant=new.tenant, following=number + 1)
    return -number if new.front else number


_OF_TENANT = counters_table.c.tenant == sa.bindparam("of_tenant")
_NUMBER = Prepared(sa.select(counters_table.c.next_number).where(_OF_TENANT).with_for_update())
_COUNT_ON = Prepared(
    sa.update(counters_table).where(_OF_TENANT).values(next_number=sa.bindparam("following"))
)

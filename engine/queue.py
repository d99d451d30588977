"""The queue that survives: ``SqlStorage``, the ``Storage`` protocol on SQLAlchemy.

A prompt is one row of the queue table until it ends; ``finish`` moves it to the history in the same transaction. Where
this process alone owns the database, which prompt is next and which run is known in memory (known_queue.py): a claim
then costs no transaction, and is noted in the table only when the prompt takes long. Not here: which tenant's prompt
runs next (engine.py), the statements (queue_rows.py) and the history's own (history.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from engine import history as history_rows
from engine import queue_rows as rows
from engine.crowds import Crowd, Waiting
from engine.database import Database, decode, encode
from engine.documents import decoded, encoded
from engine.errors import DuplicatePromptError, QueueFullError
from engine.group_commit import SHORT_BYTES
from engine.history import HISTORY_LIMIT, TakesLongError
from engine.known_queue import KnownQueue
from engine.storage import NewPrompt, QueuedPrompt
from engine.tables import queue_table
from policies import TenantId
from sandbox import FastPath, takes

T = TypeVar("T")

_q = queue_table.c
PENDING_BYTES: Final = 256 * 1024 * 1024
"""Of one tenant's pending prompts, however few: whoever looks at a queue holds all of it in memory."""


def now_ms() -> int:
    """Since the epoch."""
    return time.time_ns() // 1_000_000


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
        # One process owns an SQLite file; another database may have other users.
        self._remembers = database.is_sqlite and takes(FastPath.REMEMBERED_QUEUE)
        self._known = KnownQueue(database, is_alone=self._remembers)
        self._kept: dict[TenantId, tuple[int, int]] = {}
        """Entries and bytes of histories, or more: what was deleted since is still in it. Of whoever has the writer's
        turn."""
        self._must_count = False

    async def requeue_running(self) -> int:
        """At start: what was running when the host died is pending again."""
        await self._known.claims.note()  # none of them is on its way to the table while it is counted
        statement = sa.update(queue_table).where(_q.claimed.is_not(None)).values(claimed=None)
        count = await self._database.transact(lambda connection: connection.execute(statement).rowcount)
        count += self._known.restart()
        await self._known.look()
        return count

    async def enqueue(self, new: NewPrompt, *, limit: int) -> QueuedPrompt:
        """Store a prompt; on disk when this returns.

        Raises:
            DuplicatePromptError: the id is pending or running already.
            QueueFullError: ``limit`` prompts are pending.
        """
        document = await encoded([new.prompt, new.extra_data, list(new.outputs)])
        secrets = encode(new.secrets) if new.secrets else None
        client = None if new.client_id is None else rows.client_key(new.client_id)
        created_ms = now_ms()
        row = {
            "tenant": new.tenant,
            "prompt_id": new.prompt_id,
            "client_sha256": client,
            "counted": new.number is None,
            "created_ms": created_ms,
            "document": document,
            "secrets": secrets,
        }

        numbers = self._known.numbers if self._remembers else None

        def insert(connection: sa.Connection) -> tuple[float, int]:
            try:
                number = (
                    rows.next_number(connection, new, numbers) if new.number is None else float(new.number)
                )
                return number, rows.INSERT.insert(connection, number=number, **row)
            except BaseException:
                if numbers is not None:
                    numbers.pop(new.tenant, None)  # it was not taken
                raise

        # Counted before it is stored: two that arrive together cannot both be the last one that fits.
        crowd = await self._known.crowd(new.tenant)
        if crowd.pending >= limit:
            raise QueueFullError(limit)
        if crowd.pending and crowd.nbytes + len(document) > PENDING_BYTES:
            raise QueueFullError(crowd.pending, nbytes=PENDING_BYTES)
        crowd.add(len(document))
        try:
            number, sequence = await self._database.transact(
                insert, is_short=len(document) + len(secrets or b"") <= SHORT_BYTES
            )
        except IntegrityError as error:
            crowd.end(was_running=False, nbytes=len(document))
            raise DuplicatePromptError(new.prompt_id) from error
        except BaseException:
            self._known.doubt()
            raise
        if self._remembers:
            is_kept = crowd.keeps(document, secrets)
            crowd.join(
                Waiting(
                    number,
                    new.prompt_id,
                    sequence,
                    client,
                    counted=new.number is None,
                    nbytes=len(document),
                    has_secrets=secrets is not None,
                    created_ms=created_ms,
                    document=document if is_kept else None,
                    secrets=secrets if is_kept else None,
                )
            )
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
        return (await self._known.crowd(tenant)).pending

    async def waiting_tenants(self) -> Sequence[TenantId]:
        """Tenants that have pending prompts, by name."""
        crowds = await self._known.crowds()
        return sorted([tenant for tenant, crowd in crowds.items() if crowd.pending > 0])

    async def claim_next(self, tenant: TenantId, busy: Collection[str] = ()) -> QueuedPrompt | None:
        """Mark the tenant's first pending prompt running, those of the ``busy`` clients passed over."""
        if self._remembers:
            return await self._claim_remembered(tenant, {rows.client_key(client) for client in busy})
        crowd = await self._known.crowd(tenant)
        if crowd.pending <= 0:
            return None
        clients = {rows.client_name(place): rows.client_key(client) for place, client in enumerate(busy)}

        def claim(connection: sa.Connection) -> Any:
            row = rows.first_pending(len(clients)).first(connection, of_tenant=tenant, **clients)
            if row is not None:
                if self._known.last_claim is None:
                    ((self._known.last_claim,),) = rows.LAST_CLAIM.all(connection)
                self._known.last_claim += 1
                rows.CLAIM.change(connection, claimed_row=row[0], place=self._known.last_claim)
            return row

        # Not durable: after a power cut it is pending, which is what the start makes of it anyway.
        row = await self._changed(claim, durable=False)
        if row is None:
            return None
        _, *shown, secrets = row
        crowd.start(len(shown[-1]))
        return rows.queued(shown, {} if secrets is None else decode(secrets))

    async def _claim_remembered(self, tenant: TenantId, busy: Collection[str]) -> QueuedPrompt | None:
        """The first in the line; nothing is waited for where its document was kept."""
        while True:
            crowd = await self._known.crowd(tenant)
            first = crowd.first(busy)
            if first is None:
                return None
            self._known.take(tenant, crowd, first)
            document, secrets = first.document, first.secrets
            if document is None:
                try:
                    found = await self._content(first.sequence)
                except BaseException:
                    self._known.give_up(first)
                    raise
                if found is None:  # somebody deleted it from under us
                    self._known.give_up(first)
                    continue
                document, secrets = found
            shown = (tenant, first.prompt_id, first.number, first.counted, document)
            return rows.queued(shown, {} if secrets is None else decode(secrets))

    async def _content(self, row: int) -> Sequence[Any] | None:
        return await self._database.transact(
            lambda connection: rows.CONTENT.first(connection, wanted=row), durable=False
        )

    async def note_running(self) -> None:
        """Write down which prompts run, so that the next start can say how many this process left."""
        await self._known.claims.note()

    async def finish(self, tenant: TenantId, prompt_id: str, entry: Mapping[str, Any]) -> None:
        """Move a prompt from the queue into the history; its secrets are gone with the row."""
        document = await encoded(entry)
        try:
            ended = await self._move(tenant, prompt_id, document)
        except TakesLongError:
            ended = await self._move(tenant, prompt_id, document, may_be_short=False)
        if ended is not None and ended.has_secrets:
            await self._database.scrub()

    async def _move(
        self, tenant: TenantId, prompt_id: str, document: bytes, *, may_be_short: bool = True
    ) -> rows.Ended | None:
        most_bytes = self._history_bytes(tenant)
        crowd = await self._known.crowd(tenant)  # after a failure, this puts right what is known to run
        run = self._known.claims.of(tenant, prompt_id)
        is_short = may_be_short and self._is_short_end(tenant, document, run, most_bytes)

        def move(connection: sa.Connection) -> rows.Ended | None:
            if self._must_count:
                self._must_count = False
                self._kept.clear()
            ended = rows.ended_as(run) if run is not None else rows.ending(connection, tenant, prompt_id)
            if ended is not None and not rows.DELETE.change(connection, ended_row=ended.sequence):
                ended = None  # somebody deleted it from under us
            self._kept[tenant] = history_rows.append(
                connection,
                tenant,
                prompt_id,
                document,
                created_ms=None if ended is None else ended.created_ms,
                limit=self._history_limit,
                most_bytes=most_bytes,
                held=self._kept.get(tenant),
                replaces_bytes=SHORT_BYTES if is_short else None,
            )
            return ended

        try:
            ended = await self._database.transact(move, is_short=is_short)
        except TakesLongError:
            raise
        except BaseException:
            self._must_count = True  # what it dropped may be there again
            self._known.doubt()
            raise
        if ended is not None:
            was_running = ended.is_claimed or ended.sequence in self._known.claims
            self._known.claims.drop(ended.sequence)
            crowd.end(was_running=was_running, nbytes=ended.nbytes)
            if not was_running:
                for waiting in crowd.waiting([prompt_id]):
                    if waiting.sequence == ended.sequence:
                        crowd.leave(waiting)
        elif run is not None:
            self._known.give_up(run)
        return ended

    def _is_short_end(
        self, tenant: TenantId, document: bytes, run: Waiting | None, most_bytes: int | None
    ) -> bool:
        """Whether little is moved, and nothing of the history goes for it."""
        held = self._kept.get(tenant)
        if run is None or held is None or self._must_count or run.has_secrets:
            return False
        if run.nbytes + len(document) > SHORT_BYTES:
            return False
        return not history_rows.is_over(held[0] + 1, held[1] + len(document), self._history_limit, most_bytes)

    async def pending(self, tenant: TenantId) -> Sequence[QueuedPrompt]:
        """Pending prompts in running order, without secrets."""
        await self._known.crowd(tenant)  # after a failure, this puts right what the table says of who runs
        claimed = self._known.claims.now()
        async with self._database.read() as connection:
            found = await connection.execute(rows.pending(sa.select(_q.sequence, *rows.SHOWN), tenant))
            claimed |= self._known.claims.now()
            return [rows.queued(row[1:]) for row in found if row[0] not in claimed]

    async def running(self, tenant: TenantId) -> Sequence[QueuedPrompt]:
        """Claimed prompts in the order of claiming, without secrets."""
        await self._known.crowd(tenant)
        await self._known.claims.note()
        running = sa.and_(_q.tenant == tenant, _q.claimed.is_not(None))
        query = sa.select(*rows.SHOWN).where(running).order_by(_q.claimed)
        async with self._database.read() as connection:
            return [rows.queued(row) for row in await connection.execute(query)]

    async def remaining(self, tenant: TenantId) -> int:
        """Pending plus running."""
        crowd = await self._known.crowd(tenant)
        return crowd.pending + crowd.running

    async def remove(self, tenant: TenantId, prompt_ids: Collection[str] | None) -> Sequence[str]:
        """Remove pending prompts (None: all); returns the removed ids in the order in which they would have run."""
        wanted = None if prompt_ids is None else set(prompt_ids)
        columns = sa.select(
            _q.sequence,
            _q.prompt_id,
            _q.secrets.is_not(None).label("has_secrets"),
            rows.NBYTES.label("nbytes"),
        )

        def delete(connection: sa.Connection) -> Sequence[Any]:
            found = connection.execute(rows.pending(columns, tenant)).all()
            gone = [row for row in found if wanted is None or row.prompt_id in wanted]
            rows.delete(connection, [row.sequence for row in gone])
            return gone

        crowd = await self._known.crowd(tenant)
        if self._remembers:
            gone = await self._remove_remembered(crowd, wanted)
        else:
            gone = await self._changed(delete)
            for row in gone:
                crowd.end(was_running=False, nbytes=row.nbytes)
        if any(row.has_secrets for row in gone):
            await self._database.scrub()
        return [row.prompt_id for row in gone]

    async def _remove_remembered(self, crowd: Crowd, wanted: Collection[str] | None) -> Sequence[Waiting]:
        """Out of the line first, so that none of them is claimed while it is deleted."""
        gone = crowd.waiting(wanted)
        for waiting in gone:
            crowd.leave(waiting)
            crowd.end(was_running=False, nbytes=waiting.nbytes)
        if gone:
            sequences = [waiting.sequence for waiting in gone]
            await self._changed(lambda connection: rows.delete(connection, sequences))
        return gone

    async def history(
        self, tenant: TenantId, *, max_items: int | None = None, offset: int | None = None
    ) -> dict[str, Any]:
        """Entries by prompt id, oldest first; the newest of them where they are too many bytes to hold."""
        async with self._database.read() as connection:
            found = await history_rows.documents(connection, tenant, max_items=max_items, offset=offset)
        return await decoded(found)

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
            self._known.doubt()
            raise

"""What the process that owns the database knows of its queue without asking it: who waits, who runs, the next numbers.

``queue.py`` changes it together with the rows; after a failure, when only the database can say what it holds, it is
forgotten and read anew. Where others may write to the database, only the counts of tenants are kept so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa

from engine import queue_rows as rows
from engine.claims import Claims
from engine.crowds import Crowd, Room, Waiting
from engine.database import Database
from policies import TenantId


class KnownQueue:
    """Crowds are taken hold of, then changed together with the rows, with no wait in between: a count that is taken
    anew meanwhile comes after those changes in the writer's line, and sees them."""

    def __init__(self, database: Database, *, is_alone: bool) -> None:
        self._database = database
        self._is_alone = is_alone
        self._counting = asyncio.Lock()
        self._crowds: dict[TenantId, Crowd] | None = None
        self._room = Room()
        self.claims: Final = Claims(database)
        self.last_claim: int | None = None
        self.numbers: Final[dict[TenantId, int]] = {}
        """The next number of a tenant's prompt; of whoever has the writer's turn."""

    async def crowd(self, tenant: TenantId) -> Crowd:
        """A tenant's; empty when nothing of it waits or runs."""
        crowds = self._crowds if self._crowds is not None else await self.look()
        crowd = crowds.get(tenant)
        if crowd is None:
            crowd = crowds[tenant] = Crowd(room=self._room)
        return crowd

    async def crowds(self) -> Mapping[TenantId, Crowd]:
        """All of them."""
        return self._crowds if self._crowds is not None else await self.look()

    def doubt(self) -> None:
        """Whether a change was stored is the database's to say: look again when somebody asks."""
        self._crowds = None

    def restart(self) -> int:
        """Nothing runs; returns of how many that ran the table does not say so."""
        self._crowds = None
        self.last_claim = None
        return self.claims.forget()

    async def look(self) -> dict[TenantId, Crowd]:
        """Count what the database holds, unless somebody has; nobody but this object changes it from here on."""
        async with self._counting:
            if self._crowds is None:
                if self._is_alone:
                    self._crowds = self._sorted_out(
                        await self._database.transact(self._listed, durable=False)
                    )
                else:
                    self._crowds = await self._database.transact(_counted, durable=False)
            return self._crowds

    # -- runs, of a process that is alone ------------------------------------------------------------------------------

    def take(self, tenant: TenantId, crowd: Crowd, waiting: Waiting) -> None:
        """It runs."""
        crowd.leave(waiting)
        crowd.start(waiting.nbytes)
        self.last_claim = (self.last_claim or 0) + 1
        self.claims.add(tenant, waiting, self.last_claim)

    def give_up(self, waiting: Waiting) -> None:
        """It does not run after all; where it is now is the database's to say."""
        self.claims.drop(waiting.sequence)
        self.doubt()

    # -- what the table says -----------------------------------------------------------------------------------------

    def _listed(self, connection: sa.Connection) -> Sequence[Any]:
        """What the table holds, with no note of a prompt that was to run and does not: it was given up meanwhile."""
        found = connection.execute(rows.LISTED).all()
        for row in found:
            if row.claimed is not None and row.sequence not in self.claims:
                rows.CLAIM.change(connection, claimed_row=row.sequence, place=None)
        return found

    def _sorted_out(self, listed: Sequence[Any]) -> dict[TenantId, Crowd]:
        """The lines of what the table holds and what is known to run. Nothing was claimed since it was read."""
        self.claims.keep_only({row.sequence for row in listed})
        self._room = room = Room()
        found: dict[TenantId, Crowd] = {}
        for row in listed:
            crowd = found.setdefault(TenantId(row.tenant), Crowd(room=room))
            self.last_claim = max(self.last_claim or 0, row.claimed or 0)
            if row.sequence in self.claims:
                crowd.running += 1
                continue
            crowd.add(row.nbytes)
            crowd.join(
                Waiting(
                    row.number,
                    row.prompt_id,
                    row.sequence,
                    row.client_sha256,
                    counted=bool(row.counted),
                    nbytes=row.nbytes,
                    has_secrets=bool(row.has_secrets),
                    created_ms=row.created_ms,
                )
            )
        return found


def _counted(connection: sa.Connection) -> dict[TenantId, Crowd]:
    found: dict[TenantId, Crowd] = {}
    for tenant, is_running, prompts, nbytes in connection.execute(rows.COUNTED):
        crowd = found.setdefault(TenantId(tenant), Crowd())
        if is_running:
            crowd.running = prompts
        else:
            crowd.pending, crowd.nbytes = prompts, int(nbytes)
    return found

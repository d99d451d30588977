"""Which rows of the queue run, as the one process that owns the database knows: in memory, and in the table a little
later.

Nothing depends on the table's note but what the next start says: a prompt that ran is pending there until it ends, and
that is what a start makes of one that is noted, too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Set as AbstractSet
from typing import Final

import sqlalchemy as sa

from engine import queue_rows as rows
from engine.crowds import Waiting
from engine.database import Database
from policies import RingfenceError, TenantId

NOTE_S: Final = 0.25
"""For so long a prompt runs before the table says so: most have ended by then."""

_log = logging.getLogger(__name__)


class Claims:
    """The rows of prompts that run, whatever the table says of them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rows: dict[int, tuple[TenantId, Waiting]] = {}
        """What runs, as it was while it waited."""
        self._unnoted: dict[int, int] = {}
        self._noting = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def __contains__(self, row: int) -> bool:
        return row in self._rows

    def now(self) -> frozenset[int]:
        """All of them at this moment."""
        return frozenset(self._rows)

    def of(self, tenant: TenantId, prompt_id: str) -> Waiting | None:
        """The prompt that runs by this name, as it was while it waited."""
        for owner, waiting in self._rows.values():
            if owner == tenant and waiting.prompt_id == prompt_id:
                return waiting
        return None

    def add(self, tenant: TenantId, waiting: Waiting, place: int) -> None:
        """It runs from now on; ``place`` in the order of claiming."""
        row = waiting.sequence
        self._rows[row] = (tenant, waiting)
        self._unnoted[row] = place
        if self._timer is None:
            self._note_soon()

    def drop(self, row: int) -> None:
        """It runs no more."""
        self._rows.pop(row, None)
        self._unnoted.pop(row, None)

    def keep_only(self, there: AbstractSet[int]) -> None:
        """Those that the table does not hold have ended."""
        for row in self._rows.keys() - there:
            self.drop(row)

    def forget(self) -> int:
        """Nothing runs; returns of how many the table does not say that they did."""
        count = len(self._unnoted)
        self._rows.clear()
        self._unnoted.clear()
        return count

    async def note(self) -> None:
        """Write them down; when this returns the table says what runs, as of the call at least."""
        async with self._noting:
            unnoted, self._unnoted = self._unnoted, {}
            if not unnoted:
                return

            def write(connection: sa.Connection) -> None:
                for row, place in unnoted.items():
                    rows.CLAIM.change(connection, claimed_row=row, place=place)

            try:
                await self._database.transact(write, durable=False)
            except BaseException:
                self._unnoted.update((row, place) for row, place in unnoted.items() if row in self._rows)
                raise

    def _note_soon(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(NOTE_S, self._note_late)

    def _note_late(self) -> None:
        self._timer = None
        if not self._unnoted:
            return
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._note_quietly(), name="queue-notes")
        else:
            self._note_soon()

    async def _note_quietly(self) -> None:
        try:
            await self.note()
        except RingfenceError as error:
            _log.debug("which prompts run is not noted: %s", error)

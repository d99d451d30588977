"""Short transactions for SQLite, whole ones at a time: one hop to one thread, and one commit for all that wait.

A transaction that is awaited statement by statement comes back to the event loop after each, where a flood of others
stands in line. Here it is a plain function, run from its first statement to its last in the writer's thread. Those
that arrive while a commit is on its way to the disk go together in the next one, each behind a savepoint of its own:
what fails takes nothing else with it. ``Database`` is the only user.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import sqlalchemy as sa

from sandbox import FastPath, takes

T = TypeVar("T")
Work = Callable[[sa.Connection], Any]
MOST: Final = 64
"""Transactions in one commit: whoever is first does not wait for all the world."""


@dataclass(eq=False, slots=True)
class _Job:
    work: Work
    durable: bool
    done: asyncio.Future[Any]


@dataclass(frozen=True, slots=True)
class _Failed:
    error: BaseException


class GroupCommit:
    """The one writer; open until ``close``."""

    def __init__(self, engine: Callable[[], sa.Engine], turn: asyncio.Lock) -> None:
        self._make = engine
        self._engine: sa.Engine | None = None
        self._turn = turn
        self._jobs: deque[_Job] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="database-writer")
        self._pump: asyncio.Task[None] | None = None
        self._connection: sa.Connection | None = None
        self._is_durable = True

    async def run(self, work: Callable[[sa.Connection], T], *, durable: bool) -> T:
        """What ``work`` returns, once it is committed.

        ``durable`` False: a power cut may undo it (the end of this process does not). Raises what ``work`` raises,
        which is then rolled back, or why the commit failed.
        """
        job = _Job(work, durable, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._run_all(), name="database-writer")
        result: T = await job.done
        return result

    async def close(self) -> None:
        """End the thread; what was asked for before is done first."""
        if self._pump is not None:
            await self._pump
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown(wait=False)  # it has just done the last thing that it was asked for

    async def _run_all(self) -> None:
        loop = asyncio.get_running_loop()
        while self._jobs:
            async with self._turn:
                most = MOST if takes(FastPath.GROUP_COMMIT) else 1
                batch = [self._jobs.popleft() for _ in range(min(most, len(self._jobs)))]
                outcomes = await loop.run_in_executor(self._thread, self._commit, batch)
            for job, outcome in zip(batch, outcomes, strict=True):
                if job.done.done():
                    continue  # nobody waits any more
                if isinstance(outcome, _Failed):
                    job.done.set_exception(outcome.error)
                else:
                    job.done.set_result(outcome)

    # -- in the thread -----------------------------------------------------------------------------------------------

    def _commit(self, batch: list[_Job]) -> list[Any]:
        try:
            connection = self._connected(durable=any(job.durable for job in batch))
            with connection.begin():
                return [_apart(connection, job.work, alone=len(batch) == 1) for job in batch]
        except Exception as error:  # noqa: BLE001 - each who waits hears it
            if len(batch) == 1 and isinstance(error, _AloneError):
                return [_Failed(error.cause)]
            return [_Failed(error)] * len(batch)

    def _connected(self, *, durable: bool) -> sa.Connection:
        if self._connection is None:
            self._engine = self._engine or self._make()
            self._connection = self._engine.connect().execution_options(ringfence_write=True)
            self._is_durable = True
        if durable is not self._is_durable:
            # In WAL mode NORMAL writes the same log and only does not wait for the disk.
            raw: Any = self._connection.connection
            raw.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            self._is_durable = durable
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._engine is not None:
            self._engine.dispose()


class _AloneError(Exception):
    """Rolls the whole transaction back, which is one function's only."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__()
        self.cause = cause


def _apart(connection: sa.Connection, work: Work, *, alone: bool) -> Any:
    if alone:
        try:
            return work(connection)
        except Exception as error:
            raise _AloneError(error) from error
    try:
        with connection.begin_nested():
            return work(connection)
    except Exception as error:  # noqa: BLE001 - its own sender hears it
        return _Failed(error)

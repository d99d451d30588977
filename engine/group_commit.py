"""Short transactions for SQLite, whole ones at a time: one hop to one thread, and one commit for all that wait.

A transaction that is awaited statement by statement comes back to the event loop after each, where a flood of others
stands in line. Here it is a plain function, run from its first statement to its last in the writer's thread. Those
that arrive while a commit is on its way to the disk go together in the next one, each behind a savepoint of its own:
what fails takes nothing else with it. ``Database`` is the only user.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Final, TypeVar

import anyio
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from engine.prepared import PLAIN, run_plainly
from engine.writer_turn import WriterTurn
from sandbox import FastPath, takes

_log = logging.getLogger(__name__)

T = TypeVar("T")
Work = Callable[[sa.Connection], Any]
MOST: Final = 64
"""Transactions in one commit: whoever is first does not wait for all the world."""


@dataclass(frozen=True, slots=True)
class _Failed:
    error: BaseException


_OPEN: Final = object()


@dataclass(eq=False, slots=True)
class _Job:
    work: Work
    durable: bool
    done: asyncio.Future[None]
    outcome: Any = _OPEN

    def end(self, outcome: Any) -> None:
        self.outcome = outcome
        if not self.done.done():  # else whoever waited is cancelled, and looks at the outcome
            self.done.set_result(None)


class GroupCommit:
    """The one writer; open until ``close``."""

    def __init__(self, engine: Callable[[], sa.Engine], turn: WriterTurn) -> None:
        self._make = engine
        self._engine: sa.Engine | None = None
        self._turn = turn
        self._jobs: deque[_Job] = deque()
        self._is_asking = False
        self._batches: SimpleQueue[list[_Job] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._connection: sa.Connection | None = None
        self._is_plain = False
        self._is_durable = True
        self._is_closed = False

    async def run(self, work: Callable[[sa.Connection], T], *, durable: bool) -> T:
        """What ``work`` returns, once it is committed.

        ``durable`` False: a power cut may undo it (the end of this process does not). Raises what ``work`` raises,
        which is then rolled back, or why the commit failed. Cancelling a scope waits for the outcome.
        """
        job = _Job(work, durable, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        self._ask()
        try:
            await job.done
        except asyncio.CancelledError:
            if anyio.current_effective_deadline() != -math.inf:
                raise  # the task itself is ended, and hears nothing more
            if job.outcome is _OPEN:
                job.done = asyncio.get_running_loop().create_future()
                with anyio.CancelScope(shield=True):
                    await job.done
        if isinstance(job.outcome, _Failed):
            raise job.outcome.error
        result: T = job.outcome
        return result

    async def close(self) -> None:
        """End the thread; what was asked for before is done first."""
        loop = asyncio.get_running_loop()
        try:
            while self._is_asking:
                # Not by ``run``, which would go on waiting after whoever waits for this has given up.
                last = _Job(lambda _: None, durable=False, done=loop.create_future())
                self._jobs.append(last)
                await last.done
        finally:
            self._is_closed = True
            thread, self._thread = self._thread, None
            if thread is not None:
                self._batches.put(None)
        if thread is not None:
            await loop.run_in_executor(None, thread.join)

    def _ask(self) -> None:
        """Have what waits committed, when it is this writer's turn."""
        if not self._is_asking:
            self._is_asking = True
            self._turn.ask(self._send)

    def _send(self) -> None:
        most = MOST if takes(FastPath.GROUP_COMMIT) else 1
        batch = [self._jobs.popleft() for _ in range(min(most, len(self._jobs)))]
        try:
            self._thread = self._thread or self._start()
        except RuntimeError as error:
            self._loop.call_soon(self._told, batch, [_Failed(error)] * len(batch))
        else:
            self._batches.put(batch)

    def _start(self) -> threading.Thread:
        """Raises: RuntimeError: this is closed, or the process may have no more threads."""
        self._loop = asyncio.get_running_loop()
        if self._is_closed:
            raise RuntimeError("the database is closed")
        # Of a process that ends without closing its database nobody waits for it: a commit is whole or is not.
        thread = threading.Thread(target=self._serve, name="database-writer", daemon=True)
        thread.start()
        return thread

    def _told(self, batch: list[_Job], outcomes: list[Any]) -> None:
        self._is_asking = False
        self._turn.pass_on()
        if self._jobs:
            self._ask()
        for job, outcome in zip(batch, outcomes, strict=True):
            job.end(outcome)

    # -- in the thread -----------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        while (batch := self._batches.get()) is not None:
            outcomes = self._commit(batch)
            try:
                self._loop.call_soon_threadsafe(self._told, batch, outcomes)
            except RuntimeError:  # the loop is closed, and nobody listens
                break
        self._disconnect()

    def _commit(self, batch: list[_Job]) -> list[Any]:
        try:
            connection = self._connected(durable=any(job.durable for job in batch))
            if not self._is_plain:
                with connection.begin():
                    return self._work_off(connection, batch)
            run_plainly(connection, "BEGIN IMMEDIATE")
            try:
                outcomes = self._work_off(connection, batch)
                # Whatever of it went through SQLAlchemy, the transaction is one, and the driver's.
                if connection.in_transaction():
                    connection.commit()
                else:
                    run_plainly(connection, "COMMIT")
            except BaseException:
                self._roll_back(connection)
                raise
            return outcomes
        except _AloneError as error:
            return [_Failed(error.cause)]
        except BaseException as error:  # noqa: BLE001 - each who waits hears it
            return [_Failed(error)] * len(batch)

    def _work_off(self, connection: sa.Connection, batch: list[_Job]) -> list[Any]:
        if len(batch) == 1:
            try:
                return [batch[0].work(connection)]
            except Exception as error:
                raise _AloneError(error) from error
        apart = self._apart_plainly if self._is_plain else _apart
        return [apart(connection, job.work) for job in batch]

    def _apart_plainly(self, connection: sa.Connection, work: Work) -> Any:
        run_plainly(connection, "SAVEPOINT job")
        try:
            outcome = work(connection)
        except Exception as error:  # noqa: BLE001 - its own sender hears it
            run_plainly(connection, "ROLLBACK TO job")
            outcome = _Failed(error)
        run_plainly(connection, "RELEASE job")
        return outcome

    def _roll_back(self, connection: sa.Connection) -> None:
        try:
            # SQLAlchemy's notion of it first, which a failed commit does not end, though SQLite has rolled back.
            connection.rollback()
            if connection.get_execution_options()[PLAIN].in_transaction:
                run_plainly(connection, "ROLLBACK")
        except SQLAlchemyError as error:
            _log.error(
                "database: a transaction cannot be rolled back, and its connection is given up: %s", error
            )
            self._connection = None
            connection.invalidate()
            connection.close()

    def _connected(self, *, durable: bool) -> sa.Connection:
        if self._connection is None:
            self._engine = self._engine or self._make()
            connection = self._engine.connect()
            self._is_plain = takes(FastPath.PLAIN_STATEMENTS)
            if self._is_plain:  # when a transaction begins and ends is then said here, and not by SQLAlchemy
                raw = connection.connection.dbapi_connection
                options: dict[str, Any] = {"ringfence_bare": True, PLAIN: raw}
            else:
                options = {"ringfence_write": True}
            self._connection = connection.execution_options(**options)
            self._is_durable = True
        if durable is not self._is_durable:
            # In WAL mode NORMAL writes the same log and only does not wait for the disk.
            driver: Any = self._connection.connection
            driver.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
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


def _apart(connection: sa.Connection, work: Work) -> Any:
    try:
        with connection.begin_nested():
            return work(connection)
    except Exception as error:  # noqa: BLE001 - its own sender hears it
        return _Failed(error)

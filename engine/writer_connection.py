"""The one connection that writes to an SQLite database, and what a transaction on it is; ``group_commit.py`` says when.

Blocking, and for one user at a time: most often the writer's thread, for short transactions the event loop's as far as
the commit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from engine.prepared import PLAIN, commit_plainly, run_plainly
from sandbox import FastPath, takes

_log = logging.getLogger(__name__)

Work = Callable[[sa.Connection], Any]
PATIENCE_MS: Final = 10_000
"""For so long a transaction waits for another process that writes to the file; one on the event loop does not."""


@dataclass(frozen=True, slots=True)
class Failed:
    """An outcome: this was raised."""

    error: BaseException


class WriterConnection:
    """Opened by the first transaction; open until ``close``."""

    def __init__(self, engine: Callable[[], sa.Engine]) -> None:
        self._make = engine
        self._engine: sa.Engine | None = None
        self._connection: sa.Connection | None = None
        self._is_plain = False
        self._is_durable = True
        self._is_patient = True

    @property
    def is_plain(self) -> bool:
        """It is open, and its statements go to the driver as they are."""
        return self._is_plain and self._connection is not None

    def run(self, works: Sequence[Work], *, durable: bool) -> list[Any]:
        """One transaction of all of them; of each what it returned, or ``Failed``. Never raises."""
        try:
            connection = self._ready(durable=durable, patient=True)
            if not self._is_plain:
                with connection.begin():
                    return self._work_off(connection, works)
            run_plainly(connection, "BEGIN IMMEDIATE")
        except _AloneError as error:
            return [Failed(error.cause)]
        except BaseException as error:  # noqa: BLE001 - each who waits hears it
            return [Failed(error)] * len(works)
        return self.commit(self._begun(connection, works))

    def begin(self, works: Sequence[Work], *, durable: bool) -> list[Any] | None:
        """The same without the commit, for ``is_plain`` only: ``commit`` comes next, with what this returns.

        None: another process writes just now, and nothing has begun.
        """
        try:
            connection = self._ready(durable=durable, patient=False)
            run_plainly(connection, "BEGIN IMMEDIATE")
        except Exception:  # noqa: BLE001 - whatever is wrong, ``run`` finds it too, and may wait for it
            return None
        return self._begun(connection, works)

    def commit(self, outcomes: list[Any]) -> list[Any]:
        """End what ``begin`` began; the outcomes, or why it failed for all of them. Never raises."""
        connection = self._connection
        try:
            if connection is None or not self._has_begun(connection):
                return outcomes  # what was begun is rolled back already, and they say why
            try:
                self._end(connection)
            except BaseException:
                self._roll_back(connection)
                raise
        except BaseException as error:  # noqa: BLE001 - each who waits hears it
            return [Failed(error)] * len(outcomes)
        return outcomes

    def close(self) -> None:
        """Close it."""
        if self._connection is not None:
            self._connection.close()
        if self._engine is not None:
            self._engine.dispose()

    # -- a transaction -------------------------------------------------------------------------------------------------

    def _begun(self, connection: sa.Connection, works: Sequence[Work]) -> list[Any]:
        """Outcomes, in a transaction that has begun; where one fails for all of them it is rolled back."""
        try:
            return self._work_off(connection, works)
        except BaseException as error:  # noqa: BLE001 - each who waits hears it
            self._roll_back(connection)
            return [Failed(error.cause if isinstance(error, _AloneError) else error)] * len(works)

    def _work_off(self, connection: sa.Connection, works: Sequence[Work]) -> list[Any]:
        if len(works) == 1:
            try:
                return [works[0](connection)]
            except Exception as error:
                raise _AloneError(error) from error
        apart = self._apart_plainly if self._is_plain else _apart
        return [apart(connection, work) for work in works]

    def _apart_plainly(self, connection: sa.Connection, work: Work) -> Any:
        run_plainly(connection, "SAVEPOINT job")
        try:
            outcome = work(connection)
        except Exception as error:  # noqa: BLE001 - its own sender hears it
            run_plainly(connection, "ROLLBACK TO job")
            outcome = Failed(error)
        run_plainly(connection, "RELEASE job")
        return outcome

    def _end(self, connection: sa.Connection) -> None:
        # Whatever of it went through SQLAlchemy, the transaction is one, and the driver's.
        if connection.in_transaction():
            connection.commit()
        elif takes(FastPath.ONE_STEP_COMMITS):
            commit_plainly(connection)
        else:
            run_plainly(connection, "COMMIT")

    def _roll_back(self, connection: sa.Connection) -> None:
        try:
            # SQLAlchemy's notion of it first, which a failed commit does not end, though SQLite has rolled back.
            connection.rollback()
            if self._has_begun(connection):
                run_plainly(connection, "ROLLBACK")
        except SQLAlchemyError as error:
            _log.error(
                "database: a transaction cannot be rolled back, and its connection is given up: %s", error
            )
            self._connection = None
            connection.invalidate()
            connection.close()

    def _has_begun(self, connection: sa.Connection) -> bool:
        return bool(connection.get_execution_options()[PLAIN].in_transaction)

    def _ready(self, *, durable: bool, patient: bool) -> sa.Connection:
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
            self._is_durable = self._is_patient = True
        if durable is not self._is_durable:
            # In WAL mode NORMAL writes the same log and only does not wait for the disk.
            _set(self._connection, f"synchronous={'FULL' if durable else 'NORMAL'}")
            self._is_durable = durable
        if patient is not self._is_patient:
            _set(self._connection, f"busy_timeout={PATIENCE_MS if patient else 0}")
            self._is_patient = patient
        return self._connection


def _set(connection: sa.Connection, pragma: str) -> None:
    driver: Any = connection.connection
    driver.execute(f"PRAGMA {pragma}")


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
        return Failed(error)

"""Statements that are asked over and over: put into words once, and given to SQLite's driver without a detour.

SQLAlchemy looks each statement up, binds it and wraps its result, in Python and while others wait for the interpreter:
some twenty times of what SQLite needs for a row by its key. In the writer's thread (``group_commit.py``) these go to
the driver as they are; everywhere else, and to every other database, they go through SQLAlchemy as before.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import sqlalchemy as sa

_Statement: TypeAlias = sa.Select[Any] | sa.Insert | sa.Update | sa.Delete
PLAIN: Final = "ringfence_driver"
"""The option of a connection by which its statements go to the driver's connection that it names: that of the writer's
thread only; the others' driver has a thread of its own."""


class Prepared:
    """One statement; ``columns`` are those that an INSERT fills.

    What comes back are plain tuples, with what the driver makes of a column: of a boolean it makes a number.
    """

    def __init__(self, statement: _Statement, *, columns: Sequence[str] | None = None) -> None:
        self._statement = statement
        self._columns = columns
        self._text: str | None = None
        self._names: tuple[str, ...] = ()
        self._constants: dict[str, Any] = {}

    def all(self, connection: sa.Connection, **values: Any) -> Sequence[Sequence[Any]]:
        """The rows."""
        driver = _driver(connection)
        if driver is None:
            return connection.execute(self._statement, values).all()
        return self._run(driver, connection, values).fetchall()

    def first(self, connection: sa.Connection, **values: Any) -> Sequence[Any] | None:
        """The first row, if there is one."""
        driver = _driver(connection)
        if driver is None:
            return connection.execute(self._statement, values).first()
        row: Sequence[Any] | None = self._run(driver, connection, values).fetchone()
        return row

    def change(self, connection: sa.Connection, **values: Any) -> int:
        """Change rows; how many there were."""
        driver = _driver(connection)
        if driver is None:
            return connection.execute(self._statement, values).rowcount
        return self._run(driver, connection, values).rowcount

    def insert(self, connection: sa.Connection, **values: Any) -> int:
        """Add a row; the number that the database gave it."""
        driver = _driver(connection)
        if driver is None:
            key: Any = connection.execute(self._statement, values).inserted_primary_key
            return int(key[0])
        return int(self._run(driver, connection, values).lastrowid or 0)

    def _run(
        self, driver: sqlite3.Connection, connection: sa.Connection, values: dict[str, Any]
    ) -> sqlite3.Cursor:
        """As SQLAlchemy would: raises its errors, in which no values stand."""
        if self._text is None:
            self._put_into_words(connection.dialect)
        constants = self._constants
        found = [values[name] if name in values else constants[name] for name in self._names]
        return _run_plainly(driver, self._text or "", found)

    def _put_into_words(self, dialect: sa.Dialect) -> None:
        compiled: Any = self._statement.compile(
            dialect=dialect, column_keys=None if self._columns is None else list(self._columns)
        )
        self._constants = {
            name: value.effective_value for name, value in compiled.binds.items() if not value.required
        }
        self._names = tuple(compiled.positiontup)
        self._text = compiled.string


def run_plainly(connection: sa.Connection, text: str) -> None:
    """Have a statement without values run by the driver itself, on a connection of the writer's thread."""
    _run_plainly(connection.get_execution_options()[PLAIN], text, ())


def commit_plainly(connection: sa.Connection) -> None:
    """The same for COMMIT: the driver lets go of the interpreter once for it, not for each of a statement's steps."""
    driver: sqlite3.Connection = connection.get_execution_options()[PLAIN]
    try:
        driver.commit()
    except sqlite3.Error as error:
        raise _sqlalchemy_error("COMMIT", error) from error


def _run_plainly(driver: sqlite3.Connection, text: str, values: Sequence[Any]) -> sqlite3.Cursor:
    try:
        return driver.execute(text, values)
    except sqlite3.Error as error:
        raise _sqlalchemy_error(text, error) from error


_KINDS: Final[dict[type[sqlite3.Error], type[sa.exc.DatabaseError]]] = {
    sqlite3.IntegrityError: sa.exc.IntegrityError,
    sqlite3.OperationalError: sa.exc.OperationalError,
}


def _sqlalchemy_error(text: str, error: sqlite3.Error) -> sa.exc.DatabaseError:
    return _KINDS.get(type(error), sa.exc.DatabaseError)(text, None, error)


def _driver(connection: sa.Connection) -> sqlite3.Connection | None:
    driver: sqlite3.Connection | None = connection.get_execution_options().get(PLAIN)
    return driver

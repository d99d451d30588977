"""Where rows live: one SQLAlchemy async engine, and the migrations that run at start.

SQLite by default, in WAL mode with ``synchronous=FULL``: a committed transaction survives ``kill -9`` and a power
cut. Any other SQLAlchemy async URL works the same. The tables are in tables.py.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import anyio
import orjson
import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from engine.group_commit import GroupCommit
from engine.writer_turn import WriterTurn
from policies import RingfenceError
from sandbox import FastPath, takes

T = TypeVar("T")
log = logging.getLogger(__name__)

CLOSE_S: Final = 10.0
"""For so long closing waits for what was asked for before, and for connections."""
ANSWER_S: Final = 30.0
"""For so long a short transaction waits for a database that is elsewhere."""


class DatabaseError(RingfenceError):
    """The database cannot be opened, migrated or written."""

    code = "database-failed"


class Database:
    """Connections and transactions; open it with ``async with``.

    Raises (on entering):
        DatabaseError: the URL is wrong, nobody answers, or the database is newer than this program.
    """

    def __init__(self, url: str) -> None:
        self._url = _checked_url(url)
        self._engine: AsyncEngine | None = None
        self._grouped: GroupCommit | None = None
        # SQLite has one writer: queueing here is fair and cannot end in "database is locked" within this process.
        self._writer: WriterTurn | None = WriterTurn() if self.is_sqlite else None

    @property
    def is_sqlite(self) -> bool:
        """True for the default kind of database."""
        return self._url.get_backend_name() == "sqlite"

    async def __aenter__(self) -> Self:
        await anyio.to_thread.run_sync(_migrate_in_thread, self._url)
        self._engine = _create_engine(self._url)
        if self._writer is not None:
            self._grouped = GroupCommit(partial(_create_plain_engine, self._url), self._writer)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        engine, self._engine = self._engine, None
        grouped, self._grouped = self._grouped, None
        if grouped is not None:
            with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSE_S):
                await grouped.close()
        if engine is not None:
            with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSE_S):
                await engine.dispose()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A connection whose reads see one consistent state."""
        with _translated():
            async with self._opened().connect() as connection:
                yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A transaction: committed (and on disk) when the block ends, rolled back when it raises.

        Cancelling waits for the commit or rollback, so that "was it stored?" always has an answer.
        """
        async with self._writer or nullcontext():
            with _translated():
                async with self._opened().connect() as plain:
                    connection = await plain.execution_options(ringfence_write=True)
                    transaction = await connection.begin()
                    try:
                        yield connection
                    except BaseException:
                        with anyio.CancelScope(shield=True):
                            await transaction.rollback()
                        raise
                    with anyio.CancelScope(shield=True):
                        await transaction.commit()

    async def transact(
        self, work: Callable[[sa.Connection], T], *, durable: bool = True, is_short: bool = False
    ) -> T:
        """Run a short function as one transaction, off the event loop; committed (and on disk) when this returns.

        ``durable`` False, for what a restart makes anew: a power cut may undo it. ``is_short``: it touches a few rows
        by their keys, and at most ``SHORT_BYTES`` of them; all but its commit may then be done on the event loop.
        ``work`` must not wait for anything but the database. Cancelling waits for the commit or rollback.
        """
        self._opened()
        with _translated():
            if self._grouped is None:
                with anyio.fail_after(ANSWER_S):
                    async with self.write() as connection:
                        return await connection.run_sync(work)
            return await self._grouped.run(
                work, durable=durable, is_short=is_short and takes(FastPath.NEAR_STATEMENTS)
            )

    async def scrub(self) -> None:
        """Make deleted secrets leave the disk: SQLite keeps old pages in its log until the log is emptied.

        Tries once and waits for nobody; a reader in the way means that a later call does it.
        """
        if not self.is_sqlite:
            return
        assert self._writer is not None  # noqa: S101 - set for SQLite
        async with self._writer:
            with _translated():
                async with self._opened().connect() as plain:
                    connection = await plain.execution_options(ringfence_bare=True)
                    await connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    async def check(self) -> None:
        """Raises: DatabaseError unless a trivial query is answered."""
        async with self.read() as connection:
            await connection.execute(sa.text("SELECT 1"))

    def _opened(self) -> AsyncEngine:
        if self._engine is None:
            raise DatabaseError("the database is closed", hint="open it with 'async with'")
        return self._engine


def sqlite_url(path: Path) -> str:
    """The URL of the default database."""
    return f"sqlite+aiosqlite:///{path}"


def encode(value: Any) -> bytes:
    """JSON bytes for a document column; whatever json can write, orjson first."""
    try:
        return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:  # integers over 64 bits and lone surrogates, which ComfyUI's own parser lets through
        return json.dumps(value, separators=(",", ":")).encode("ascii")


def decode(document: bytes) -> Any:
    """The value that ``encode`` was given."""
    try:
        return orjson.loads(document)
    except orjson.JSONDecodeError:
        return json.loads(document)


def _checked_url(text: str) -> URL:
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise DatabaseError(
            "RINGFENCE_DATABASE_URL is not a database URL",
            hint="write e.g. sqlite+aiosqlite:////var/lib/ringfence/ringfence.db or postgresql+asyncpg://...",
        ) from error
    if url.get_backend_name() == "sqlite" and "aiosqlite" not in url.drivername:
        url = url.set(drivername="sqlite+aiosqlite")
    return url


def _create_engine(url: URL) -> AsyncEngine:
    try:
        engine = create_async_engine(url, pool_pre_ping=url.get_backend_name() != "sqlite")
    except (ImportError, ArgumentError) as error:
        raise DatabaseError(
            f"no driver for {url.drivername}", hint="install it beside ringfence, e.g. pip install asyncpg"
        ) from error
    if url.get_backend_name() == "sqlite":
        sa.event.listen(engine.sync_engine, "connect", _configure_sqlite)
        sa.event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def _create_plain_engine(url: URL) -> sa.Engine:
    """For SQLite, without the driver that takes a thread's turn for each statement."""
    engine = sa.create_engine(
        # Of two threads, by turns (group_commit.py).
        url.set(drivername="sqlite+pysqlite"),
        poolclass=sa.NullPool,
        connect_args={"check_same_thread": False},
    )
    sa.event.listen(engine, "connect", _configure_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: Any, _record: object) -> None:
    # The driver's own implicit BEGIN is off: _begin_sqlite says which kind of transaction it is.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000", "secure_delete=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    options = connection.get_execution_options()
    if options.get("ringfence_bare"):
        return
    # IMMEDIATE takes the write lock at once: a transaction that reads first could not be upgraded safely.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("ringfence_write") else "BEGIN")


class _translated:  # noqa: N801 - reads as a verb in `with`
    """The one place where the driver's errors become ours."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, sa.exc.IntegrityError):
            return  # its meaning is the caller's
        if isinstance(error, (SQLAlchemyError, OSError)):
            cause = error.orig if isinstance(error, DBAPIError) else error
            log.error("database: %s", cause)
            raise DatabaseError(
                f"the database does not work: {type(cause).__name__}",
                hint="see the server's log; 'ringfence doctor' checks the data directory",
            ) from error


def _migrate_in_thread(url: URL) -> None:
    """Bring the database to this program's schema; runs its own event loop, because alembic blocks."""
    path = url.database
    if url.get_backend_name() == "sqlite" and path and path != ":memory:":
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            # Prompts and token hashes are nobody else's: created private, before SQLite would choose the umask.
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        except OSError as error:
            raise DatabaseError(
                f"cannot open the database file {path}: {error.strerror}",
                hint="make the data directory writable, or set RINGFENCE_DATA_DIR to another",
            ) from error
    asyncio.run(_migrate(url))


async def _migrate(url: URL) -> None:
    engine = _create_engine(url)
    try:
        async with engine.connect() as plain:
            connection = await plain.execution_options(ringfence_write=True)
            async with connection.begin():
                await connection.run_sync(_upgrade)
    except (SQLAlchemyError, OSError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        raise DatabaseError(
            f"cannot open the database {url.render_as_string(hide_password=True)}: {cause}",
            hint="check RINGFENCE_DATABASE_URL and that the database is reachable and writable",
        ) from error
    finally:
        await engine.dispose()


def _upgrade(connection: sa.Connection) -> None:
    migrations = Path(__file__).parent / "migrations"
    if _is_current(connection, migrations / "versions"):
        return
    # Late: it takes a tenth of a second to import, and most starts have nothing to migrate.
    from alembic import command
    from alembic.config import Config
    from alembic.script.revision import RevisionError
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except (CommandError, RevisionError) as error:
        raise DatabaseError(
            "the database was written by a newer Ringfence", hint="upgrade Ringfence, or restore a backup"
        ) from error


def _is_current(connection: sa.Connection, versions: Path) -> bool:
    """Whether the last migration has been done: they are numbered by the names of their files."""
    last = max(file.name.partition("_")[0] for file in versions.glob("[0-9]*.py"))
    if not sa.inspect(connection).has_table("alembic_version"):
        return False
    return connection.scalars(sa.text("SELECT version_num FROM alembic_version")).all() == [last]

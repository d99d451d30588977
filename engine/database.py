"""Where rows live: one SQLAlchemy async engine, the tables, and the migrations that run at start.

SQLite by default, in WAL mode with ``synchronous=FULL``: a committed transaction survives ``kill -9`` and a power
cut. Any other SQLAlchemy async URL works the same. What the rows mean is in queue.py, history.py and tenants.py.
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
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from engine.group_commit import GroupCommit
from engine.writer_turn import WriterTurn
from policies import RingfenceError

T = TypeVar("T")
log = logging.getLogger(__name__)

ANSWER_S: Final = 30.0
"""For so long a short transaction waits for a database that is elsewhere."""

metadata = sa.MetaData()
_Rowid = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite auto-numbers INTEGER keys only
_Document = sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")  # orjson bytes

queue_table = sa.Table(
    "queue",
    metadata,
    sa.Column("sequence", _Rowid, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("prompt_id", sa.String(64), nullable=False),
    sa.Column("number", sa.Double, nullable=False),
    sa.Column("counted", sa.Boolean, nullable=False),
    sa.Column("claimed", sa.BigInteger, nullable=True),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("document", _Document, nullable=False),
    sa.Column("secrets", _Document, nullable=True),
    sa.Column("client_sha256", sa.String(64), nullable=True),
    sa.UniqueConstraint("tenant", "prompt_id", name="queue_prompt"),
    sa.Index("queue_order", "tenant", "claimed", "number", "prompt_id", "client_sha256"),
    sqlite_autoincrement=True,
)
"""Prompts that have not ended. ``counted``: the number came from the counter. ``claimed``: null while pending, else
the place in the order of claiming. ``secrets`` is apart so that no reader of ``document`` can show it; the row, and the
secrets with it, goes when the prompt ends (``secure_delete`` overwrites it in the file). ``client_sha256``: the
client that sent it, if one did; in the index, so that passing over a client's prompts reads no documents."""

history_table = sa.Table(
    "history",
    metadata,
    sa.Column("sequence", _Rowid, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("prompt_id", sa.String(64), nullable=False),
    sa.Column("ended_ms", sa.BigInteger, nullable=False),
    sa.Column("document", _Document, nullable=False),
    sa.Column("nbytes", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("created_ms", sa.BigInteger, nullable=False, server_default="0"),
    sa.UniqueConstraint("tenant", "prompt_id", name="history_prompt"),
    sa.Index("history_order", "tenant", "sequence", "nbytes"),
    sa.Index("history_created", "tenant", "created_ms", "prompt_id"),
    sqlite_autoincrement=True,
)
"""Prompts that ended, as ComfyUI's history entries."""

counters_table = sa.Table(
    "counters",
    metadata,
    sa.Column("tenant", sa.String(64), primary_key=True),
    sa.Column("next_number", sa.BigInteger, nullable=False),
)
"""ComfyUI's prompt counter, one per tenant."""

tenants_table = sa.Table(
    "tenants",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("removed_ms", sa.BigInteger, nullable=True),
)
"""Tenants. A removed one stays known: removing the last must not bring single-user mode back, which needs no token."""

tokens_table = sa.Table(
    "tokens",
    metadata,
    sa.Column("tenant", sa.String(64), primary_key=True),
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("token_sha256", sa.String(64), nullable=False, unique=True),
    sa.Column("scopes", sa.String(64), nullable=False),
    sa.Column("issued_ms", sa.BigInteger, nullable=False),
    sa.Column("expires_ms", sa.BigInteger, nullable=True),
    sa.Column("used_ms", sa.BigInteger, nullable=True),
)
"""Tenants' tokens by hash. ``scopes``: names with blanks between; ``used_ms``: to ten minutes."""

sessions_table = sa.Table(
    "sessions",
    metadata,
    sa.Column("secret_sha256", sa.String(64), primary_key=True),
    sa.Column("id", sa.String(16), nullable=False, unique=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("token_sha256", sa.String(64), nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("used_ms", sa.BigInteger, nullable=False),
    sa.Column("agent", sa.String(200), nullable=False),
    sa.Index("sessions_token", "token_sha256", "created_ms"),
)
"""Browsers that are logged in: the hash of the cookie, and of the token that was given, without which it is worth
nothing. ``id`` names a session in lists; it proves nothing."""

submissions_table = sa.Table(
    "submissions",
    metadata,
    sa.Column("sequence", _Rowid, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("job_id", sa.String(36), nullable=False),
    sa.Column("idempotency_key", sa.String(255), nullable=True),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("canceled_ms", sa.BigInteger, nullable=True),
    sa.Column("document", _Document, nullable=True),
    sa.UniqueConstraint("tenant", "job_id", name="submissions_job"),
    sa.UniqueConstraint("tenant", "idempotency_key", name="submissions_key"),
    sa.Index("submissions_order", "tenant", "sequence"),
    sqlite_autoincrement=True,
)
"""Jobs that came through the Comfy API v2: the keys that may not be used again, and (``document``) what was cancelled
before it ran, which neither queue nor history remembers."""

assets_table = sa.Table(
    "assets",
    metadata,
    sa.Column("sequence", _Rowid, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("id", sa.String(36), nullable=False),
    sa.Column("hash", sa.String(64), nullable=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("content_type", sa.String(128), nullable=False),
    sa.Column("name", sa.String(512), nullable=False),
    sa.Column("job_id", sa.String(36), nullable=True),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("updated_ms", sa.BigInteger, nullable=False),
    sa.Column("accessed_ms", sa.BigInteger, nullable=False),
    sa.Column("idempotency_key", sa.String(255), nullable=True),
    sa.Column("document", _Document, nullable=False),
    sa.UniqueConstraint("tenant", "id", name="assets_id"),
    sa.UniqueConstraint("tenant", "idempotency_key", name="assets_key"),
    sa.Index("assets_hash", "tenant", "hash"),
    sqlite_autoincrement=True,
)
"""Assets: what a tenant uploaded (``hash``: BLAKE3 of a blob that we keep) and what its jobs made (no hash;
``document`` names the file)."""


node_state_table = sa.Table(
    "node_state",
    metadata,
    sa.Column("tenant", sa.String(64), primary_key=True),
    sa.Column("extension", sa.String(64), primary_key=True),
    sa.Column("node", sa.String(64), primary_key=True),
    sa.Column("changed_ms", sa.BigInteger, nullable=False),
    sa.Column("nbytes", sa.BigInteger, nullable=False),
    sa.Column("document", _Document, nullable=False),
)
"""What node instances keep (``node_state.py``): all attributes of one node are one document."""

quota_usage_table = sa.Table(
    "quota_usage",
    metadata,
    sa.Column("tenant", sa.String(64), primary_key=True),
    sa.Column("changed_ms", sa.BigInteger, nullable=False),
    sa.Column("document", _Document, nullable=False),
)
"""What tenants used within the windows of their quotas (``usage_keeper.py``)."""


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
            with anyio.CancelScope(shield=True), anyio.move_on_after(10):
                await grouped.close()
        if engine is not None:
            with anyio.CancelScope(shield=True), anyio.move_on_after(10):
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

    async def transact(self, work: Callable[[sa.Connection], T], *, durable: bool = True) -> T:
        """Run a short function as one transaction, off the event loop; committed (and on disk) when this returns.

        ``durable`` False, for what a restart makes anew: a power cut may undo it. ``work`` must not wait for anything
        but the database. Cancelling waits for the commit or rollback.
        """
        self._opened()
        with _translated():
            if self._grouped is None:
                with anyio.fail_after(ANSWER_S):
                    async with self.write() as connection:
                        return await connection.run_sync(work)
            return await self._grouped.run(work, durable=durable)

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
        url.set(drivername="sqlite+pysqlite"), poolclass=sa.NullPool, connect_args={"check_same_thread": True}
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

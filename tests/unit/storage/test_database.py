"""Opening, migrating and losing the database."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa

from engine.database import Database, DatabaseError, sqlite_url
from engine.tables import metadata

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def prepared_databases() -> None:
    """Here every file goes through the migrations."""


async def test_migrations_make_exactly_the_tables_that_the_code_uses(database: Database) -> None:
    def look(connection: sa.Connection) -> dict[str, set[str]]:
        inspector = sa.inspect(connection)
        return {
            name: {column["name"] for column in inspector.get_columns(name)}
            | {str(index["name"]) for index in inspector.get_indexes(name)}
            for name in inspector.get_table_names()
            if name not in ("alembic_version", "sqlite_sequence")
        }

    async with database.read() as connection:
        found = await connection.run_sync(look)
    assert found == {
        name: {column.name for column in table.columns} | {str(index.name) for index in table.indexes}
        for name, table in metadata.tables.items()
    }


async def test_sqlite_keeps_its_promises(database: Database) -> None:
    async with database.read() as connection:
        pragmas = {
            name: (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "synchronous", "secure_delete")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "secure_delete": 1}


async def test_opening_twice_migrates_once_and_keeps_the_data(url: str) -> None:
    for _ in range(2):
        async with Database(url) as database:
            await database.check()


async def test_a_database_of_a_newer_version_is_refused(url: str, tmp_path: Path) -> None:
    async with Database(url):
        pass
    with sqlite3.connect(tmp_path / "data" / "ringfence.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(DatabaseError, match="newer"):
        async with Database(url):
            pass


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"not a database" * 100)
    with pytest.raises(DatabaseError, match="cannot open"):
        async with Database(sqlite_url(tmp_path / "x.db")):
            pass


async def test_a_directory_that_cannot_be_made_is_named_with_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatabaseError, match="RINGFENCE_DATA_DIR"):
        async with Database(sqlite_url(tmp_path / "file" / "x.db")):
            pass


@pytest.mark.parametrize("url", ["", "nonsense", "postgresql+nodriver://x/y"])
async def test_a_url_that_cannot_work_says_so(url: str) -> None:
    with pytest.raises(DatabaseError):
        async with Database(url):
            pass


async def test_a_password_in_the_url_is_not_shown() -> None:
    with pytest.raises(DatabaseError) as caught:
        async with Database("mysql+nothing://u:hunter2@127.0.0.1:1/x"):
            pass
    assert "hunter2" not in str(caught.value)

"""Real SQLite files, one per test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.database import Database, sqlite_url
from engine.queue import SqlStorage
from tests.unit.prepared_database import prepared_databases

__all__ = ["prepared_databases"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return sqlite_url(tmp_path / "data" / "ringfence.db")


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    async with Database(url) as database:
        yield database


@pytest.fixture
async def storage(database: Database) -> SqlStorage:
    return SqlStorage(database, history_limit=5)

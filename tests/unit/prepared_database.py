"""A database file that the real migrations made once in a session, copied wherever a test opens a new one.

Alembic takes 30 ms of each start, which is most of what opening costs. What the migrations do, and to files that
exist already, stays with the real thing (tests/unit/storage/test_database.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import pytest
from sqlalchemy.engine import URL, make_url

from engine import database

_migrate = database._migrate_in_thread


@cache
def _prepared() -> bytes:
    with TemporaryDirectory() as directory:
        path = Path(directory, "prepared.db")
        _migrate(make_url(database.sqlite_url(path)))
        assert [left.name for left in path.parent.iterdir()] == [path.name]  # all of it is in the one file
        return path.read_bytes()


def copy_or_migrate(url: URL) -> None:
    path = Path(url.database or ":memory:")
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:") or path.exists():
        _migrate(url)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(_prepared())


@pytest.fixture(autouse=True)
def prepared_databases() -> Iterator[None]:
    """New SQLite files begin as a copy."""
    with patch.object(database, "_migrate_in_thread", copy_or_migrate):
        yield

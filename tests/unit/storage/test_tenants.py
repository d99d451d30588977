"""Tenants and their tokens."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from engine.database import Database
from engine.tenant_directories import prepare_tenant_directory
from engine.tenants import TenantExistsError, TenantRegistry, TenantUnknownError
from policies import LOCAL_TENANT, NameInvalidError, TenantId

pytestmark = pytest.mark.anyio


async def owner(tenants: TenantRegistry, secret: str) -> str | None:
    token = await tenants.authenticate(secret)
    return None if token is None else token.tenant


async def test_single_user_mode_lasts_until_the_first_tenant(database: Database) -> None:
    tenants = TenantRegistry(database)
    assert await tenants.is_single_user()
    assert await tenants.exists(LOCAL_TENANT)
    await tenants.create("studio")
    assert not await tenants.is_single_user()
    assert await tenants.exists(TenantId("studio"))
    assert not await tenants.exists(LOCAL_TENANT)


async def test_a_token_names_its_tenant_and_nothing_else_does(database: Database) -> None:
    tenants = TenantRegistry(database)
    _, first = await tenants.create("a")
    _, second = await tenants.create("b")
    assert first != second
    assert await owner(tenants, first) == "a"
    assert await owner(tenants, second) == "b"
    for wrong in ("", first[:-1], first + "x", first.upper(), "\ud800"):
        assert await tenants.authenticate(wrong) is None


async def test_only_the_hash_of_a_token_is_on_disk(database: Database, tmp_path: Path) -> None:
    _, token = await TenantRegistry(database).create("a")
    for path in (tmp_path / "data").iterdir():
        assert token.encode() not in path.read_bytes()


async def test_rotating_refuses_the_old_token_at_once(database: Database) -> None:
    tenants = TenantRegistry(database)
    _, old = await tenants.create("a")
    assert await owner(tenants, old) == "a"
    _, fresh = await tenants.rotate_token("a")
    assert await tenants.authenticate(old) is None
    assert await owner(tenants, fresh) == "a"


async def test_another_process_s_rotation_is_seen_after_a_while(database: Database, tmp_path: Path) -> None:
    tenants = TenantRegistry(database, fresh_s=0)
    _, token = await tenants.create("a")
    assert await owner(tenants, token) == "a"
    with sqlite3.connect(tmp_path / "data" / "ringfence.db") as connection:
        connection.execute("UPDATE tokens SET token_sha256 = 'x'")
    connection.close()
    assert await tenants.authenticate(token) is None


async def test_names_are_checked_and_unique(database: Database) -> None:
    tenants = TenantRegistry(database)
    await tenants.create("a")
    with pytest.raises(TenantExistsError):
        await tenants.create("a")
    with pytest.raises(TenantUnknownError):
        await tenants.rotate_token("b")
    for wrong in ("", "A", "../x", "a/b", "a" * 33, "a\n"):
        with pytest.raises(NameInvalidError):
            await tenants.create(wrong)
    assert [tenant.name for tenant in await tenants.list()] == ["a"]


def test_a_tenants_directory_has_comfyuis_places(tmp_path: Path) -> None:
    root = prepare_tenant_directory(tmp_path, TenantId("a"))
    assert sorted(path.name for path in root.iterdir()) == [
        "assets",
        "input",
        "models",
        "output",
        "temp",
        "user",
    ]

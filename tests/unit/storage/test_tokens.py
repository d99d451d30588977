"""Several tokens of one tenant, what each may do and how long; and tokens from before there were several."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from engine.database import Database, sqlite_url
from engine.tenants import TenantRegistry, TenantUnknownError
from engine.tokens import (
    ALL_SCOPES,
    Scope,
    TokenError,
    TokenExistsError,
    TokenUnknownError,
    hash_secret,
    parse_scopes,
)
from policies import LOCAL_TENANT, TenantId

pytestmark = pytest.mark.anyio
A = TenantId("a")


async def test_a_tenant_has_several_tokens_each_with_its_scopes(database: Database) -> None:
    tenants = TenantRegistry(database)
    _, main = await tenants.create("a")
    made, runs = await tenants.create_token(A, "ci", frozenset((Scope.RUN,)))
    found, first = await tenants.authenticate(runs), await tenants.authenticate(main)
    assert found is not None
    assert first is not None
    assert (found.tenant, found.name, found.scopes) == ("a", "ci", {Scope.RUN})
    assert first.scopes == ALL_SCOPES
    assert [token.name for token in await tenants.tokens(A)] == ["ci", "main"]
    with pytest.raises(TokenExistsError):
        await tenants.create_token(A, "ci", made.scopes)
    await tenants.revoke_token(A, "ci")
    assert await tenants.authenticate(runs) is None
    assert await tenants.authenticate(main) is not None
    with pytest.raises(TokenUnknownError):
        await tenants.revoke_token(A, "ci")
    with pytest.raises(TenantUnknownError):
        await tenants.create_token(TenantId("b"), "x", made.scopes)


async def test_an_expired_token_is_refused_and_rotating_it_gives_it_its_life_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1_000_000_000_000]
    monkeypatch.setattr("engine.tenants._now_ms", lambda: clock[0])
    tenants = TenantRegistry(database)
    await tenants.create("a")
    _, secret = await tenants.create_token(A, "ci", frozenset((Scope.RUN,)), life_s=60)
    clock[0] += 59_999
    assert await tenants.authenticate(secret) is not None
    clock[0] += 1
    assert await tenants.authenticate(secret) is None
    assert await tenants.find(hash_secret(secret)) is None
    _, fresh = await tenants.rotate_token("a", "ci")
    found = await tenants.authenticate(fresh)
    assert found is not None
    assert (found.scopes, found.expires_ms) == ({Scope.RUN}, clock[0] + 60_000)
    with pytest.raises(TokenUnknownError):
        await tenants.rotate_token("a", "none")


async def test_when_a_token_was_used_is_written_down_now_and_then(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1_000_000_000_000]
    monkeypatch.setattr("engine.tenants._now_ms", lambda: clock[0])
    tenants = TenantRegistry(database)
    _, secret = await tenants.create("a")
    used = []
    for later in (0, 60_000, 10 * 60_000):
        clock[0] += later
        await tenants.authenticate(secret)
        used.append((await tenants.tokens(A))[0].used_ms)
    assert used == [1_000_000_000_000, 1_000_000_000_000, clock[0]]


async def test_removing_the_last_tenant_does_not_bring_single_user_mode_back(database: Database) -> None:
    tenants = TenantRegistry(database)
    _, secret = await tenants.create("a")
    await tenants.remove(A)
    for registry in (tenants, TenantRegistry(database)):
        assert not await registry.is_single_user()
        assert not await registry.exists(A)
        assert not await registry.exists(LOCAL_TENANT)
        assert await registry.authenticate(secret) is None
        assert await registry.list() == []
    with pytest.raises(TenantUnknownError):
        await tenants.remove(A)
    _, fresh = await tenants.create("a")
    assert await tenants.authenticate(secret) is None
    assert await tenants.authenticate(fresh) is not None


async def test_a_tenant_has_a_hundred_tokens_at_most(database: Database) -> None:
    tenants = TenantRegistry(database)
    await tenants.create("a")
    for number in range(99):
        await tenants.create_token(A, f"t{number}", ALL_SCOPES)
    with pytest.raises(TokenError, match="100 tokens"):
        await tenants.create_token(A, "more", ALL_SCOPES)


@pytest.mark.parametrize("names", [[], ["root"], ["run", "operator"]])
def test_scopes_that_are_none_are_refused(names: list[str]) -> None:
    with pytest.raises(TokenError):
        parse_scopes(names)


async def test_a_token_from_before_there_were_several_still_works(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(_OLD)
        connection.execute("INSERT INTO tenants VALUES ('a', ?, 5, 7)", (hash_secret("rf_old"),))
    connection.close()
    async with Database(sqlite_url(path)) as database:
        tenants = TenantRegistry(database)
        found = await tenants.authenticate("rf_old")
        assert found is not None
        assert (found.tenant, found.name, found.scopes, found.issued_ms) == ("a", "main", ALL_SCOPES, 7)
        assert (await tenants.list())[0].created_ms == 5


_OLD = """
CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY);
INSERT INTO alembic_version VALUES ('0004');
CREATE TABLE tenants (name VARCHAR(64) NOT NULL PRIMARY KEY, token_sha256 VARCHAR(64) NOT NULL UNIQUE,
  created_ms BIGINT NOT NULL, rotated_ms BIGINT NOT NULL);
CREATE TABLE history (tenant VARCHAR(64) NOT NULL, sequence BIGINT NOT NULL, prompt_id VARCHAR(64) NOT NULL,
  ended_ms BIGINT NOT NULL, document BLOB NOT NULL);
CREATE INDEX history_order ON history (tenant, sequence);
"""

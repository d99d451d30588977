"""Who the tenants are and which tokens prove it.

The database is the truth; a short-lived copy in memory (known_tenants.py) answers requests. What a token is, is in
tokens.py.
"""

from __future__ import annotations

import builtins
import hmac
import logging
import time
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database import Database, DatabaseError
from engine.known_tenants import KnownTenants, Tenant
from engine.tables import tenants_table, tokens_table
from engine.tokens import (
    ALL_SCOPES,
    FIRST_TOKEN,
    Scope,
    Token,
    TokenError,
    TokenExistsError,
    TokenUnknownError,
    hash_secret,
    new_secret,
    parse_scopes,
    parse_token_name,
    scopes_text,
)
from policies import LOCAL_TENANT, RingfenceError, TenantId, parse_tenant_id

log = logging.getLogger(__name__)

_t = tenants_table.c
_k = tokens_table.c
_FRESH_S = 5.0  # another process's rotation is seen within this time; our own at once
_USED_MS = 10 * 60 * 1000  # how coarse "last used" is: a write for each request would cost more than it tells
_MOST_TOKENS = 100
_PREFIX = "rf_"


class TenantError(RingfenceError):
    """Root of what can be wrong with a tenant."""

    code = "tenant"


class TenantExistsError(TenantError):
    """The name is taken."""

    code = "tenant-exists"


class TenantUnknownError(TenantError):
    """There is no such tenant."""

    code = "tenant-unknown"


class TenantRegistry:
    """Tenants of this installation and their tokens; single-user mode lasts until the first one is created."""

    def __init__(self, database: Database, *, fresh_s: float = _FRESH_S) -> None:
        self._database = database
        self._known = KnownTenants(database, fresh_s=fresh_s)
        self._used: dict[str, int] = {}  # by hash: when its use was last written down

    async def is_single_user(self) -> bool:
        """True while no tenant was ever created: every request then acts for ``local``."""
        return not (await self._known.current()).was_any

    @property
    def was_single_user(self) -> bool:
        """The same when the database was last asked; False where that is not known."""
        last = self._known.last
        return last is not None and not last.was_any

    async def list(self) -> Sequence[Tenant]:
        """All tenants, by name."""
        self._known.forget()
        return sorted((await self._known.current()).tenants.values(), key=lambda tenant: tenant.name)

    async def exists(self, name: TenantId) -> bool:
        """True for a tenant that requests can act for (``local`` in single-user mode)."""
        known = await self._known.current()
        return name in known.tenants if known.was_any else name == LOCAL_TENANT

    async def create(self, name: str) -> tuple[Tenant, str]:
        """A new tenant and its first token, which may do everything for it and cannot be read again.

        Raises:
            NameInvalidError: the name does not fit.
            TenantExistsError: it is taken.
        """
        tenant_id = parse_tenant_id(name)
        now = _now_ms()
        secret = new_secret(_PREFIX)
        async with self._database.write() as connection:
            brought_back = await connection.execute(
                sa.update(tenants_table)
                .where(_t.name == tenant_id, _t.removed_ms.is_not(None))
                .values(created_ms=now, removed_ms=None)
            )
            if not brought_back.rowcount:
                try:
                    await connection.execute(sa.insert(tenants_table).values(name=tenant_id, created_ms=now))
                except IntegrityError as error:
                    raise TenantExistsError(
                        f"tenant '{tenant_id}' exists already",
                        hint="choose another name, or replace its token: ringfence tenant rotate-token",
                    ) from error
            await _insert(connection, Token(tenant_id, FIRST_TOKEN, hash_secret(secret), ALL_SCOPES, now))
        self.note_change()
        return Tenant(tenant_id, now, now), secret

    async def remove(self, name: TenantId) -> None:
        """Refuse all that the tenant sends from now on; what it has is removed by tenant_removal.py.

        Raises:
            TenantUnknownError
        """
        async with self._database.write() as connection:
            await self._require(connection, name)
            await connection.execute(
                sa.update(tenants_table).where(_t.name == name).values(removed_ms=_now_ms())
            )
            await connection.execute(sa.delete(tokens_table).where(_k.tenant == name))
        self.note_change()

    async def rotate_token(self, name: str, token: str = FIRST_TOKEN) -> tuple[Tenant, str]:
        """Replace one of a tenant's tokens; the old one, and every session that began with it, is refused from now on.

        The first one is made anew if it was revoked. Others keep their scopes and how long they live.

        Raises:
            NameInvalidError, TenantUnknownError, TokenUnknownError
        """
        tenant_id = parse_tenant_id(name)
        now = _now_ms()
        secret = new_secret(_PREFIX)
        async with self._database.write() as connection:
            created_ms = await self._require(connection, tenant_id)
            found = await connection.execute(
                sa.select(tokens_table).where(_k.tenant == tenant_id, _k.name == token)
            )
            old = found.one_or_none()
            if old is None and token != FIRST_TOKEN:
                raise _unknown_token(tenant_id)
            life_ms = None if old is None or old.expires_ms is None else old.expires_ms - old.issued_ms
            await connection.execute(sa.delete(tokens_table).where(_k.tenant == tenant_id, _k.name == token))
            fresh = Token(
                tenant_id,
                token,
                hash_secret(secret),
                ALL_SCOPES if old is None else parse_scopes(old.scopes.split()),
                now,
                None if life_ms is None else now + life_ms,
            )
            await _insert(connection, fresh)
        self.note_change()
        return Tenant(tenant_id, created_ms, now), secret

    # -- tokens ------------------------------------------------------------------------------------------------------

    async def tokens(self, tenant: TenantId) -> builtins.list[Token]:
        """A tenant's tokens, by name.

        Raises:
            TenantUnknownError
        """
        self._known.forget()
        known = await self._known.current()
        if tenant not in known.tenants:
            raise _unknown_tenant(tenant)
        return sorted(
            (token for token in known.tokens.values() if token.tenant == tenant),
            key=lambda token: token.name,
        )

    async def create_token(
        self, tenant: TenantId, name: str, scopes: frozenset[Scope], *, life_s: int | None = None
    ) -> tuple[Token, str]:
        """One more token; its secret cannot be read again.

        Raises:
            TenantUnknownError, TokenError, TokenExistsError
        """
        secret = new_secret(_PREFIX)
        now = _now_ms()
        token = Token(
            tenant,
            parse_token_name(name),
            hash_secret(secret),
            parse_scopes(scopes),
            now,
            None if life_s is None else now + life_s * 1000,
        )
        async with self._database.write() as connection:
            await self._require(connection, tenant)
            count = await connection.scalar(
                sa.select(sa.func.count()).select_from(tokens_table).where(_k.tenant == tenant)
            )
            if (count or 0) >= _MOST_TOKENS:
                raise TokenError(
                    f"tenant '{tenant}' has {_MOST_TOKENS} tokens, which is the most",
                    hint="revoke those that nobody uses: ringfence token list, ringfence token revoke NAME",
                )
            try:
                await _insert(connection, token)
            except IntegrityError as error:
                raise TokenExistsError(
                    f"tenant '{tenant}' has a token '{name}' already",
                    hint="choose another name, or revoke that one: ringfence token revoke",
                ) from error
        self.note_change()
        return token, secret

    async def revoke_token(self, tenant: TenantId, name: str) -> None:
        """Refuse a token, and every session that began with it, from now on.

        Raises:
            TokenUnknownError
        """
        async with self._database.write() as connection:
            gone = await connection.execute(
                sa.delete(tokens_table).where(_k.tenant == tenant, _k.name == name)
            )
        if not gone.rowcount:
            raise _unknown_token(tenant)
        self.note_change()

    async def authenticate(self, secret: str) -> Token | None:
        """Which token this is, or None for one that is unknown, revoked or expired."""
        given = hash_secret(secret)
        found: Token | None = None
        # Every hash is compared, in constant time: neither the place nor the length of a near miss shows.
        for known, token in (await self._known.current()).tokens.items():
            if hmac.compare_digest(known, given):
                found = token
        if found is None or not found.is_valid(_now_ms()):
            return None
        await self._note_use(found)
        return found

    async def find(self, token_sha256: str) -> Token | None:
        """The valid token of this hash, for who proved it before."""
        token = (await self._known.current()).tokens.get(token_sha256)
        return token if token is not None and token.is_valid(_now_ms()) else None

    async def wait_for_change(self, timeout_s: float) -> None:
        """Return when a token or session may have ended, or after a while."""
        await self._known.wait_for_change(timeout_s)

    def note_change(self) -> None:
        """A token or session was made or ended: ask the database again, and wake whoever waits."""
        self._known.note_change()

    # -- inside ------------------------------------------------------------------------------------------------------

    async def _note_use(self, token: Token) -> None:
        now = _now_ms()
        if now - max(token.used_ms or 0, self._used.get(token.token_sha256, 0)) < _USED_MS:
            return
        if len(self._used) > 10_000:
            self._used.clear()
        self._used[token.token_sha256] = now
        try:
            async with self._database.write() as connection:
                await connection.execute(
                    sa.update(tokens_table).where(_k.token_sha256 == token.token_sha256).values(used_ms=now)
                )
        except DatabaseError as error:  # the request itself needs no write
            log.warning("when a token was used last could not be written down: %s", error)

    async def _require(self, connection: AsyncConnection, tenant: TenantId) -> int:
        found = await connection.execute(
            sa.select(_t.created_ms).where(_t.name == tenant, _t.removed_ms.is_(None))
        )
        created_ms = found.scalar_one_or_none()
        if created_ms is None:
            raise _unknown_tenant(tenant)
        return int(created_ms)


async def _insert(connection: AsyncConnection, token: Token) -> None:
    await connection.execute(
        sa.insert(tokens_table).values(
            tenant=token.tenant,
            name=token.name,
            token_sha256=token.token_sha256,
            scopes=scopes_text(token.scopes),
            issued_ms=token.issued_ms,
            expires_ms=token.expires_ms,
        )
    )


def _unknown_tenant(tenant: TenantId) -> TenantUnknownError:
    return TenantUnknownError(f"there is no tenant '{tenant}'", hint="see them all: ringfence tenant list")


def _unknown_token(tenant: TenantId) -> TokenUnknownError:
    return TokenUnknownError(
        f"tenant '{tenant}' has no token of that name", hint="see them all: ringfence token list"
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000

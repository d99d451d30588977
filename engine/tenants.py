"""Who the tenants are and which token proves it.

Tokens are 256 random bits, shown once and stored as a SHA-256 hash: with that much entropy a slow hash would add
nothing, and every request pays for the check. The database is the truth; a short-lived copy in memory answers
requests. Where a tenant's files lie is said here too, and nowhere else.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from engine.database import Database, tenants_table
from policies import LOCAL_TENANT, RingfenceError, TenantId, parse_tenant_id

_t = tenants_table.c
_FRESH_S = 5.0  # another process's rotation is seen within this time; our own at once

TENANT_DIRECTORIES = ("input", "output", "temp", "user/default", "models", "assets")
"""What a tenant's directory holds. The first three are ComfyUI's file types; ``default`` is its only user; ``assets``
are contents by hash, which no sandbox sees."""


class TenantError(RingfenceError):
    """Root of what can be wrong with a tenant."""

    code = "tenant"


class TenantExistsError(TenantError):
    """The name is taken."""

    code = "tenant-exists"


class TenantUnknownError(TenantError):
    """There is no such tenant."""

    code = "tenant-unknown"


@dataclass(frozen=True, slots=True)
class Tenant:
    """One tenant; times in ms since the epoch."""

    name: TenantId
    created_ms: int
    rotated_ms: int


@dataclass(frozen=True, slots=True)
class _Known:
    tenants: dict[str, Tenant]  # by token hash
    read_at: float


class TenantRegistry:
    """Tenants of this installation; single-user mode lasts as long as there are none."""

    def __init__(self, database: Database, *, fresh_s: float = _FRESH_S) -> None:
        self._database = database
        self._fresh_s = fresh_s
        self._known: _Known | None = None
        self._changes = 0
        self._reading = asyncio.Lock()

    async def is_single_user(self) -> bool:
        """True while no tenant was ever created: every request then acts for ``local``."""
        return not (await self._current()).tenants

    async def list(self) -> Sequence[Tenant]:
        """All tenants, by name."""
        self._forget()
        return sorted((await self._current()).tenants.values(), key=lambda tenant: tenant.name)

    async def exists(self, name: TenantId) -> bool:
        """True for a tenant that requests can act for (``local`` in single-user mode)."""
        known = (await self._current()).tenants.values()
        return any(tenant.name == name for tenant in known) if known else name == LOCAL_TENANT

    async def create(self, name: str) -> tuple[Tenant, str]:
        """A new tenant and its token, which cannot be read again.

        Raises:
            NameInvalidError: the name does not fit.
            TenantExistsError: it is taken.
        """
        tenant_id = parse_tenant_id(name)
        now = time.time_ns() // 1_000_000
        token = _new_token()
        row = {"name": tenant_id, "token_sha256": _hash(token), "created_ms": now, "rotated_ms": now}
        async with self._database.write() as connection:
            try:
                await connection.execute(sa.insert(tenants_table).values(row))
            except IntegrityError as error:
                raise TenantExistsError(
                    f"tenant '{tenant_id}' exists already",
                    hint="choose another name, or replace its token: ringfence tenant rotate-token",
                ) from error
        self._forget()
        return Tenant(tenant_id, now, now), token

    async def rotate_token(self, name: str) -> tuple[Tenant, str]:
        """Replace a tenant's token; the old one is refused from now on.

        Raises:
            NameInvalidError, TenantUnknownError
        """
        tenant_id = parse_tenant_id(name)
        now = time.time_ns() // 1_000_000
        token = _new_token()
        async with self._database.write() as connection:
            created = (
                await connection.execute(sa.select(_t.created_ms).where(_t.name == tenant_id))
            ).scalar_one_or_none()
            if created is None:
                raise TenantUnknownError(
                    f"there is no tenant '{tenant_id}'", hint="see them all: ringfence tenant list"
                )
            await connection.execute(
                sa.update(tenants_table)
                .where(_t.name == tenant_id)
                .values(token_sha256=_hash(token), rotated_ms=now)
            )
        self._forget()
        return Tenant(tenant_id, created, now), token

    async def authenticate(self, token: str) -> TenantId | None:
        """Whose token this is, or None."""
        given = _hash(token)
        found: TenantId | None = None
        # Every hash is compared, in constant time: neither the place nor the length of a near miss shows.
        for known, tenant in (await self._current()).tenants.items():
            if hmac.compare_digest(known, given):
                found = tenant.name
        return found

    async def _current(self) -> _Known:
        known = self._known
        if known is not None and time.monotonic() - known.read_at < self._fresh_s:
            return known
        async with self._reading:
            started = time.monotonic()
            if self._known is not None and started - self._known.read_at < self._fresh_s:
                return self._known
            changes = self._changes
            async with self._database.read() as connection:
                rows = (await connection.execute(sa.select(tenants_table))).all()
            fresh = _Known(
                {
                    row.token_sha256: Tenant(TenantId(row.name), row.created_ms, row.rotated_ms)
                    for row in rows
                },
                started,
            )
            if (
                changes == self._changes
            ):  # else a token was rotated meanwhile: do not keep what is old already
                self._known = fresh
            return fresh

    def _forget(self) -> None:
        self._known = None
        self._changes += 1


def tenant_directory(data_dir: Path, tenant: TenantId) -> Path:
    """Root of a tenant's files."""
    return data_dir / "tenants" / tenant


def prepare_tenant_directory(data_dir: Path, tenant: TenantId) -> Path:
    """Create the tenant's directories where they are missing and return the root."""
    root = tenant_directory(data_dir, tenant)
    for name in TENANT_DIRECTORIES:
        (root / name).mkdir(parents=True, exist_ok=True)
    return root


def _new_token() -> str:
    return f"rf_{secrets.token_urlsafe(32)}"


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()

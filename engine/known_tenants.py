"""Tenants and tokens as the database had them a moment ago, so that a request need not ask it.

Who they are and how they change is tenants.py's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from engine.database import Database
from engine.tables import tenants_table, tokens_table
from engine.tokens import Scope, Token
from policies import TenantId


@dataclass(frozen=True, slots=True)
class Tenant:
    """One tenant; times in ms since the epoch."""

    name: TenantId
    created_ms: int
    rotated_ms: int
    """When its newest token was made."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the database said."""

    tenants: dict[str, Tenant]
    tokens: dict[str, Token]  # by hash
    was_any: bool
    read_at: float


class KnownTenants:
    """The copy; whoever changes what it is a copy of calls ``note_change``."""

    def __init__(self, database: Database, *, fresh_s: float) -> None:
        self._database = database
        self._fresh_s = fresh_s
        self.last: Known | None = None
        """The newest copy, however old; None where the next ``current`` has to ask."""
        self._changes = 0
        self._reading = asyncio.Lock()
        self._changed = asyncio.Event()

    def forget(self) -> None:
        """Let the next ``current`` ask the database, whatever is known."""
        self.last = None

    async def current(self) -> Known:
        """The tenants and tokens, asked for anew when that is due."""
        known = self.last
        if known is not None and time.monotonic() - known.read_at < self._fresh_s:
            return known
        async with self._reading:
            started = time.monotonic()
            if self.last is not None and started - self.last.read_at < self._fresh_s:
                return self.last
            changes = self._changes
            async with self._database.read() as connection:
                tenants = (await connection.execute(sa.select(tenants_table))).all()
                tokens = (await connection.execute(sa.select(tokens_table))).all()
            fresh = _known(tenants, tokens, started)
            # Else a token was rotated meanwhile: do not keep what is old already.
            if changes == self._changes:
                self.last = fresh
            return fresh

    async def wait_for_change(self, timeout_s: float) -> None:
        """Return when a token or session may have ended, or after a while."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            pass

    def note_change(self) -> None:
        """A token or session was made or ended: ask the database again, and wake whoever waits."""
        self.last = None
        self._changes += 1
        self._changed.set()
        self._changed = asyncio.Event()


def _known(
    tenants: Sequence[sa.Row[tuple[object, ...]]], tokens: Sequence[sa.Row[tuple[object, ...]]], at: float
) -> Known:
    alive = {row.name: row.created_ms for row in tenants if row.removed_ms is None}
    by_hash: dict[str, Token] = {}
    newest = dict(alive)
    for row in tokens:
        if row.tenant in alive:
            scopes = frozenset(Scope(name) for name in row.scopes.split())
            by_hash[row.token_sha256] = Token(
                TenantId(row.tenant),
                row.name,
                row.token_sha256,
                scopes,
                row.issued_ms,
                row.expires_ms,
                row.used_ms,
            )
            newest[row.tenant] = max(newest[row.tenant], row.issued_ms)
    found = {name: Tenant(TenantId(name), created_ms, newest[name]) for name, created_ms in alive.items()}
    return Known(found, by_hash, bool(tenants), at)

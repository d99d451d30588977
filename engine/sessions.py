"""Browsers that are logged in. A session begins with a token and is worth nothing once that token is refused.

Its secret is 256 random bits in the browser's cookie; the database keeps the hash. It ends when it was idle too long,
when it is too old, when its token is rotated, revoked or expires, when its tenant is removed, and by hand.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from engine.database import Database, DatabaseError
from engine.tables import sessions_table
from engine.tenants import TenantRegistry
from engine.tokens import Token, hash_secret, new_secret
from policies import LOCAL_TENANT, RingfenceError, TenantId, safe_text

log = logging.getLogger(__name__)

_s = sessions_table.c
_FRESH_S = 5.0
_MOST_KNOWN = 4096
_MOST_PER_TOKEN = 100
_AGENT = 200


class SessionUnknownError(RingfenceError):
    """There is no such session of the tenant's."""

    code = "not-found"


@dataclass(frozen=True, slots=True)
class Session:
    """One log-in; times in ms since the epoch."""

    id: str
    secret_sha256: str
    tenant: TenantId
    token: Token | None
    """The token that it began with; None for the operator's."""
    created_ms: int
    used_ms: int
    agent: str
    """What the browser calls itself."""

    @property
    def is_operator(self) -> bool:
        """Whether the operator's token began it."""
        return self.token is None


class SessionStore:
    """Sessions of this installation."""

    def __init__(
        self,
        database: Database,
        tenants: TenantRegistry,
        *,
        operator_sha256: str,
        idle_s: float,
        max_s: float,
        fresh_s: float = _FRESH_S,
    ) -> None:
        self._database = database
        self._tenants = tenants
        self._operator_sha256 = operator_sha256
        self._idle_ms = int(idle_s * 1000)
        self._max_ms = int(max_s * 1000)
        self._fresh_s = fresh_s
        self._known: OrderedDict[str, tuple[Any, float]] = OrderedDict()

    async def start(self, token: Token | None, agent: str) -> str:
        """Begin a session with a token that was just proved (None: the operator's); returns its secret."""
        secret = new_secret("rfs_")
        now = _now_ms()
        proof = self._operator_sha256 if token is None else token.token_sha256
        async with self._database.write() as connection:
            await connection.execute(sa.delete(sessions_table).where(self._is_over(now)))
            of_token = (
                sa.select(_s.secret_sha256)
                .where(_s.token_sha256 == proof)
                .order_by(_s.created_ms.desc(), _s.secret_sha256)
                .offset(_MOST_PER_TOKEN - 1)
                .limit(1000)
            )
            surplus = [row.secret_sha256 for row in await connection.execute(of_token)]
            if surplus:
                await connection.execute(sa.delete(sessions_table).where(_s.secret_sha256.in_(surplus)))
            await connection.execute(
                sa.insert(sessions_table).values(
                    secret_sha256=hash_secret(secret),
                    id=secrets.token_hex(8),
                    tenant=LOCAL_TENANT if token is None else token.tenant,
                    token_sha256=proof,
                    created_ms=now,
                    used_ms=now,
                    agent=safe_text(agent, _AGENT)[:_AGENT],
                )
            )
        return secret

    async def resolve(self, secret: str, *, is_use: bool = True) -> Session | None:
        """The session of this secret, or None when it is over or never was."""
        return await self.find(hash_secret(secret), is_use=is_use)

    async def find(self, secret_sha256: str, *, is_use: bool = False) -> Session | None:
        """The session of this hash, or None when it is over; ``is_use``: it is not idle now."""
        row = await self._row(secret_sha256)
        now = _now_ms()
        if row is None or not self._is_alive(row, now):
            return None
        session = await self._session(row)
        if session is not None and is_use and now - row.used_ms > self._idle_ms // 20:
            await self._note_use(secret_sha256, now)
        return session

    async def list(self, tenant: TenantId, *, of_operator: bool = False) -> list[Session]:
        """Sessions that are alive, newest first: a tenant's, or the operator's own."""
        is_operators = _s.token_sha256 == self._operator_sha256
        wanted = is_operators if of_operator else sa.and_(_s.tenant == tenant, ~is_operators)
        async with self._database.read() as connection:
            rows = (
                await connection.execute(
                    sa.select(sessions_table).where(wanted).order_by(_s.created_ms.desc())
                )
            ).all()
        now = _now_ms()
        found = [await self._session(row) for row in rows if self._is_alive(row, now)]
        return [session for session in found if session is not None]

    async def end(self, secret: str) -> None:
        """Log out: the cookie is worth nothing from now on. Unknown secrets are ignored."""
        await self._delete(_s.secret_sha256 == hash_secret(secret))

    async def end_by_id(self, tenant: TenantId, session_id: str, *, of_operator: bool = False) -> None:
        """End one of a tenant's sessions, or one of the operator's.

        Raises:
            SessionUnknownError
        """
        is_operators = _s.token_sha256 == self._operator_sha256
        owned = is_operators if of_operator else sa.and_(_s.tenant == tenant, ~is_operators)
        if not await self._delete(sa.and_(_s.id == session_id, owned)):
            raise SessionUnknownError(
                "there is no session of that id", hint="see them all: GET /ringfence/v1/sessions"
            )

    async def _note_use(self, secret_sha256: str, now: int) -> None:
        try:
            async with self._database.write() as connection:
                await connection.execute(
                    sa.update(sessions_table).where(_s.secret_sha256 == secret_sha256).values(used_ms=now)
                )
        except DatabaseError as error:  # the request itself needs no write
            log.warning("when a session was used last could not be written down: %s", error)
        self._known.pop(secret_sha256, None)

    async def _session(self, row: Any) -> Session | None:
        token: Token | None = None
        if row.token_sha256 != self._operator_sha256:
            token = await self._tenants.find(row.token_sha256)
            if token is None or token.tenant != row.tenant:
                return None
        return Session(
            row.id,
            row.secret_sha256,
            TenantId(row.tenant),
            token,
            row.created_ms,
            row.used_ms,
            row.agent,
        )

    async def _row(self, secret_sha256: str) -> Any:
        known = self._known.get(secret_sha256)
        if known is not None and time.monotonic() - known[1] < self._fresh_s:
            return known[0]
        started = time.monotonic()
        async with self._database.read() as connection:
            row = (
                await connection.execute(sa.select(sessions_table).where(_s.secret_sha256 == secret_sha256))
            ).one_or_none()
        if row is not None:  # guesses are not remembered: they would push out what is real
            self._known[secret_sha256] = (row, started)
            while len(self._known) > _MOST_KNOWN:
                self._known.popitem(last=False)
        return row

    async def _delete(self, which: sa.ColumnElement[bool]) -> int:
        async with self._database.write() as connection:
            gone = await connection.execute(sa.delete(sessions_table).where(which))
        self._known.clear()
        self._tenants.note_change()
        return int(gone.rowcount)

    def _is_alive(self, row: Any, now: int) -> bool:
        return bool(now - row.used_ms < self._idle_ms and now - row.created_ms < self._max_ms)

    def _is_over(self, now: int) -> sa.ColumnElement[bool]:
        return sa.or_(_s.used_ms <= now - self._idle_ms, _s.created_ms <= now - self._max_ms)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000

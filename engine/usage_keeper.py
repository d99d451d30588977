"""What tenants used within their windows, kept over restarts: one row per tenant, written now and then.

A quota over an hour or a day that began anew with each start of the server would be none for whoever can make it start
again. What a server that is killed had not written yet is at most ``EVERY_S`` of use.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol

import anyio
import sqlalchemy as sa

from engine.database import Database, DatabaseError, decode, encode
from engine.quotas import QuotaBook
from engine.tables import quota_usage_table
from policies import TenantId
from sandbox import EgressUsed

log = logging.getLogger(__name__)

EVERY_S: Final = 10.0
_KEPT_MS: Final = 32 * 24 * 3600 * 1000
_MOST_SLOTS: Final = 256
_u = quota_usage_table.c


class _Egress(Protocol):
    def used(self) -> dict[str, EgressUsed]: ...
    def restore(self, tenant: str, used: EgressUsed) -> None: ...


class UsageKeeper:
    """Brings back what was used before, and writes down what is used; ``open`` it."""

    def __init__(
        self,
        database: Database,
        quotas: QuotaBook,
        egress: _Egress,
        *,
        wall: Callable[[], float] = time.time,
        every_s: float = EVERY_S,
    ) -> None:
        self._database = database
        self._quotas = quotas
        self._egress = egress
        self._wall = wall
        self._every_s = every_s
        self._written: dict[str, dict[str, Any]] = {}

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """From here on it is written down, the last time at the end.

        Raises:
            DatabaseError: what was used cannot be read.
        """
        await self._load()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._write_on)
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    await self.write()

    async def _write_on(self) -> None:
        while True:
            await anyio.sleep(self._every_s)
            await self.write()

    async def write(self) -> None:
        """Write down what has changed. A database that does not take it is the log's matter: use goes on."""
        now = self._wall()
        changed = {
            tenant: document
            for tenant, document in self._documents(now).items()
            if _figures(document) != _figures(self._written.get(tenant, {}))
        }
        if not changed:
            return
        try:
            async with self._database.write() as connection:
                await connection.execute(sa.delete(quota_usage_table).where(_u.tenant.in_(list(changed))))
                rows = [
                    {"tenant": tenant, "changed_ms": int(now * 1000), "document": encode(document)}
                    for tenant, document in changed.items()
                ]
                await connection.execute(sa.insert(quota_usage_table), rows)
        except DatabaseError as error:
            log.warning("what %d tenants used is not written down: %s", len(changed), error.message)
            return
        self._written |= changed

    def _documents(self, now: float) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for tenant, kind, slots in self._quotas.used_time():
            found.setdefault(tenant, {})[kind] = [[now - age, amount] for age, amount in slots]
        for name, used in self._egress.used().items():
            found.setdefault(name, {})["egress"] = [now - used.age_s, used.up, used.down]
        return found

    async def _load(self) -> None:
        now = self._wall()
        async with self._database.write() as connection:
            await connection.execute(
                sa.delete(quota_usage_table).where(_u.changed_ms < int(now * 1000) - _KEPT_MS)
            )
            rows = (await connection.execute(sa.select(_u.tenant, _u.document))).all()
        for tenant, raw in rows:
            document = decode(raw)
            await self._quotas.of(TenantId(tenant))  # its window decides what is still remembered
            self._written[tenant] = document
            for kind in ("cpu", "gpu"):
                slots = [
                    (max(0.0, now - began), amount) for began, amount in document.get(kind, ())[-_MOST_SLOTS:]
                ]
                if slots:
                    self._quotas.restore_time(TenantId(tenant), kind, slots)
            if "egress" in document:
                began, up, down = document["egress"]
                self._egress.restore(tenant, EgressUsed(max(0.0, now - began), up, down))


def _figures(document: dict[str, Any]) -> list[Any]:
    """What counts as a change: amounts, and not the hundredth of a second by which two clocks differ."""
    slots = [[amount for _, amount in document.get(kind, ())] for kind in ("cpu", "gpu")]
    return [*slots, document.get("egress", [0, 0, 0])[1:]]

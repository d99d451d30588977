"""What was used before a restart counts after it."""

from __future__ import annotations

from pathlib import Path

import anyio
import anyio.to_thread
import pytest
import sqlalchemy as sa

from engine import Database, QuotaBook, RateQuotaError, UsageKeeper
from engine.database import sqlite_url
from engine.tables import quota_usage_table
from policies import PolicyStore, TenantId
from sandbox import EgressLimits, EgressOffice, Places
from sandbox.egress.decision import FailedError
from tests.unit.engine.test_quotas import Clock, write

pytestmark = pytest.mark.anyio

A, B = TenantId("a"), TenantId("b")


class Server:
    """What of a server counts, between two starts of it. Monotonic clocks begin anew with each machine."""

    def __init__(self, folder: Path, wall: Clock, *, monotonic: float = 5.0) -> None:
        self.clock = Clock()
        self.clock.now = monotonic
        self.quotas = QuotaBook(PolicyStore(folder / "policies"), folder, clock=self.clock)
        self.egress = EgressOffice(Places("t", folder), limits=EgressLimits(tenant_up=1000, tenant_down=1000))
        self.database = Database(sqlite_url(folder / "r.db"))
        self.keeper = UsageKeeper(self.database, self.quotas, self.egress, wall=wall)


async def started(folder: Path, wall: Clock, *, monotonic: float = 5.0) -> Server:
    return await anyio.to_thread.run_sync(lambda: Server(folder, wall, monotonic=monotonic))


@pytest.fixture
async def wall(tmp_path: Path) -> Clock:
    text = "quotas: {cpu_seconds: 100, gpu_seconds: 50, window: 1h}\n"
    await write(tmp_path / "policies" / "default.yaml", text)
    clock = Clock()
    clock.now = 1_800_000_000.0
    return clock


async def test_cpu_and_gpu_time_are_remembered_and_forgotten_when_their_window_is_over(
    tmp_path: Path, wall: Clock
) -> None:
    first = await started(tmp_path, wall, monotonic=90_000.0)
    async with first.database, first.keeper.open():
        await first.quotas.check_prompt(A)
        first.quotas.charge_time(A, 90.0, 20.0)
    wall.now += 600  # the server was away for ten minutes
    second = await started(tmp_path, wall)
    async with second.database, second.keeper.open():
        assert (await second.quotas.measured(A))["cpu_seconds"] == 90.0
        assert (await second.quotas.measured(A))["gpu_seconds"] == 20.0
        await second.quotas.check_prompt(A)
        second.quotas.charge_time(A, 20.0, 0.0)
        with pytest.raises(RateQuotaError, match="110 CPU seconds within 3600 s, at most 100"):
            await second.quotas.check_prompt(A)
        await second.quotas.check_prompt(B)
        second.clock.now += 3001  # an hour after the first 90
        assert (await second.quotas.measured(A))["cpu_seconds"] == 20.0
    wall.now += 3001 + 3600
    third = await started(tmp_path, wall)
    async with third.database, third.keeper.open():
        assert (await third.quotas.measured(A))["cpu_seconds"] == 0


async def test_bytes_sent_and_fetched_are_remembered_for_their_day(tmp_path: Path, wall: Clock) -> None:
    first = await started(tmp_path, wall)
    async with first.database, first.keeper.open():
        first.egress.meter(A).add(up=900, down=10)
    wall.now += 3600
    second = await started(tmp_path, wall)
    async with second.database, second.keeper.open():
        with pytest.raises(FailedError, match="tenant 'a' has sent 1000 in a day, the most it may"):
            second.egress.meter(A).add(up=200)
        second.egress.meter(B).add(up=200)
    wall.now += 24 * 3600
    third = await started(tmp_path, wall)
    async with third.database, third.keeper.open():
        third.egress.meter(A).add(up=900)


async def test_a_server_that_is_killed_loses_what_it_had_not_written_and_no_more(
    tmp_path: Path, wall: Clock
) -> None:
    first = await started(tmp_path, wall)
    async with first.database:
        opened = first.keeper.open()
        await opened.__aenter__()
        first.quotas.charge_time(A, 7.0, 0.0)
        await first.keeper.write()
        first.quotas.charge_time(A, 5.0, 0.0)
        first.keeper._quotas = QuotaBook(None)  # nothing of it is told any more
        await opened.__aexit__(None, None, None)
    second = await started(tmp_path, wall)
    async with second.database, second.keeper.open():
        assert (await second.quotas.measured(A))["cpu_seconds"] == 7.0


async def test_only_what_changed_is_written(tmp_path: Path, wall: Clock) -> None:
    server = await started(tmp_path, wall)

    async def rows() -> dict[str, int]:
        async with server.database.read() as connection:
            found = await connection.execute(
                sa.select(quota_usage_table.c.tenant, quota_usage_table.c.changed_ms)
            )
            return {str(row[0]): int(row[1]) for row in found}

    async with server.database, server.keeper.open():
        server.quotas.charge_time(A, 1.0, 0.0)
        server.quotas.charge_time(B, 1.0, 0.0)
        await server.keeper.write()
        before = await rows()
        wall.now += 10
        server.quotas.charge_time(B, 1.0, 0.0)
        await server.keeper.write()
        after = await rows()
    assert before[A] == after[A]
    assert after[B] == before[B] + 10_000


async def test_a_database_that_does_not_take_it_stops_nothing(
    tmp_path: Path, wall: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    server = await started(tmp_path, wall)
    async with server.database, server.keeper.open():
        async with server.database.write() as connection:
            await connection.execute(sa.text("ALTER TABLE quota_usage RENAME TO elsewhere"))
        server.quotas.charge_time(A, 1.0, 0.0)
        await server.keeper.write()
        assert "what 1 tenants used is not written down" in caplog.text
        async with server.database.write() as connection:
            await connection.execute(sa.text("ALTER TABLE elsewhere RENAME TO quota_usage"))

"""The book of quotas: what is counted, what is refused, and what the refusal says."""

from __future__ import annotations

from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from engine import EngineLimits, Maxima, QueueFullError, QuotaBook, RateQuotaError, SpaceQuotaError
from engine.disk_usage import measure
from engine.testing import until_ended
from engine.windows import RollingSum
from policies import PolicyStore, TenantId
from tests.unit.engine.test_engine import gated, named

pytestmark = pytest.mark.anyio

A, B = TenantId("a"), TenantId("b")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def book(
    folder: Path, text: str, maxima: Maxima | None = None, clock: Clock | None = None
) -> QuotaBook:
    await write(folder / "policies" / "default.yaml", text)
    return QuotaBook(PolicyStore(folder / "policies"), folder, maxima, clock=clock or Clock())


async def write(path: Path, text: str) -> None:
    def work() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    await anyio.to_thread.run_sync(work)


async def test_requests_beyond_the_burst_are_refused_with_the_quota_and_the_line(tmp_path: Path) -> None:
    quotas = await book(tmp_path, "quotas: {requests: 1, burst: 3}\n")
    for _ in range(3):
        await quotas.take_request(A)
    with pytest.raises(RateQuotaError) as refused:
        await quotas.take_request(A)
    assert refused.value.retry_after_s == 1.0
    for word in ("tenant 'a'", "'requests'", "3 at once", "default.yaml:1"):
        assert word in refused.value.message
    await quotas.take_request(B)  # nobody else is any poorer
    assert list(quotas.refusals()) == [(A, "requests", 1)]


async def test_cpu_seconds_are_refused_until_the_window_has_moved_on(tmp_path: Path) -> None:
    clock = Clock()
    quotas = await book(tmp_path, "quotas: {cpu_seconds: 10, window: 1m}\n", clock=clock)
    await quotas.of(A)
    assert quotas.is_timed(A)
    assert quotas.charge_time(A, 9.0, 0) is None
    said = quotas.charge_time(A, 2.0, 0)
    assert said is not None
    assert "'cpu_seconds': 11 CPU seconds within 60 s, at most 10" in said
    with pytest.raises(RateQuotaError) as refused:
        await quotas.check_prompt(A)
    assert refused.value.retry_after_s is not None
    clock.now += refused.value.retry_after_s
    await quotas.check_prompt(A)
    assert quotas.charge_time(B, 100.0, 0) is None  # never asked for: only settings hold, until it is


async def test_gpu_seconds_count_apart(tmp_path: Path) -> None:
    quotas = await book(tmp_path, "quotas: {gpu_seconds: 10}\n")
    await quotas.of(A)
    assert quotas.charge_time(A, 1000.0, 9.0) is None
    assert "'gpu_seconds'" in (quotas.charge_time(A, 0, 1.0) or "")


def test_disk_is_counted_by_blocks_links_once_and_sparse_files_for_what_they_take(
    tmp_path: Path,
) -> None:
    root = tmp_path / "x"
    root.mkdir()
    (root / "full").write_bytes(b"x" * 100_000)
    (root / "again").hardlink_to(root / "full")
    with (root / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    (root / "link").symlink_to("/")
    found = measure([root, tmp_path / "none"], most_files=100)
    assert 100_000 <= found.bytes < 200_000
    assert (found.files, found.is_whole) == (4, True)
    assert not measure([root], most_files=2).is_whole


async def test_what_does_not_fit_on_a_tenants_disk_is_refused_until_something_went(tmp_path: Path) -> None:
    clock = Clock()
    quotas = await book(tmp_path, "quotas: {disk: 1MiB}\n", clock=clock)
    big = tmp_path / "tenants" / "a" / "input" / "big"
    await write(big, "x" * 900_000)
    assert (await quotas.measured(A))["disk"] >= 900_000
    await quotas.check_disk(A, 1000)
    with pytest.raises(SpaceQuotaError, match="more do not fit"):
        await quotas.check_disk(A, 500_000)
    await anyio.to_thread.run_sync(big.unlink)
    clock.now += 2  # looked at again when it matters, but not at every request
    await quotas.check_disk(A, 500_000)


async def test_too_many_small_files_are_a_quota_too(tmp_path: Path) -> None:
    quotas = await book(tmp_path, "quotas: {files: 10}\n")
    folder = tmp_path / "tenants" / "a" / "temp"
    for number in range(20):
        await write(folder / str(number), "")
    await quotas.measured(A)
    with pytest.raises(SpaceQuotaError, match="'files': there are"):
        await quotas.check_prompt(A)


async def test_what_is_written_between_two_walks_counts_at_once(tmp_path: Path) -> None:
    quotas = await book(tmp_path, "quotas: {disk: 1MiB}\n")
    await quotas.of(A)
    assert quotas.charge_disk(A, 2**19) is None
    assert "'disk'" in (quotas.charge_disk(A, 2**20) or "")


async def test_settings_are_the_most_that_any_tenant_gets(tmp_path: Path) -> None:
    most = Maxima(queued=10, prompts=4, sources={"queued": "RINGFENCE_QUEUE_LIMIT"})
    quotas = await book(tmp_path, "quotas: {queued: 50, prompts: 2}\n", most)
    ours = await quotas.of(A)
    assert (ours.queued, ours.prompts) == (10, 2)
    assert ours.source("queued") == "RINGFENCE_QUEUE_LIMIT"


async def test_a_broken_file_neither_lifts_the_quotas_nor_stops_the_service(tmp_path: Path) -> None:
    clock = Clock()
    quotas = await book(tmp_path, "quotas: {queued: 3}\n", clock=clock)
    assert (await quotas.of(A)).queued == 3
    await write(tmp_path / "policies" / "default.yaml", "quotas: {queued: lots}\n")
    clock.now += 60
    assert (await quotas.of(A)).queued == 3
    assert (await quotas.of(B)).requests == 100


def test_a_rolling_sum_forgets_and_stays_small() -> None:
    clock = Clock()
    total = RollingSum(clock)
    for _ in range(100_000):
        total.add(1.0, 100.0)
        clock.now += 0.01
    assert total.total(100.0) == pytest.approx(10_000, rel=0.02)
    assert len(total._slots) <= 122
    clock.now += 200
    assert total.total(100.0) == 0


# -- through the engine --------------------------------------------------------------------------------------


async def test_a_full_queue_of_one_tenant_names_its_quota_and_is_nobody_elses(tmp_path: Path) -> None:
    quotas = await book(tmp_path, "tenants: {a: {quotas: {queued: 1}}}\n")
    async with gated(limits=EngineLimits(concurrency=1), quotas=quotas) as (gate, stage):
        await stage.submit(named("runs"), A)
        await gate.until(1)
        await stage.submit(named("waits"), A)
        with pytest.raises(QueueFullError, match=r"quota queued: policies/default.yaml:1"):
            await stage.submit(named("no"), A)
        await stage.submit(named("b0"), B)
        await stage.submit(named("b1"), B)


async def test_a_tenant_runs_as_many_prompts_at_once_as_its_quota(tmp_path: Path) -> None:
    quotas = await book(tmp_path, "tenants: {a: {quotas: {prompts: 1}}}\n")
    async with gated(limits=EngineLimits(concurrency=4), quotas=quotas) as (gate, stage):
        for number in range(3):
            await stage.submit(named(f"a{number}"), A, client_id=None)
        for number in range(2):
            await stage.submit(named(f"b{number}"), B, client_id=None)
        await gate.until(3)
        assert sorted(gate.entered) == ["a0", "b0", "b1"]


async def test_prompts_wait_while_their_tenants_cpu_seconds_are_used_up(tmp_path: Path) -> None:
    clock = Clock()
    quotas = await book(tmp_path, "quotas: {cpu_seconds: 5, window: 1m}\n", clock=clock)
    async with gated(limits=EngineLimits(concurrency=1), quotas=quotas) as (gate, stage):
        await stage.submit(named("first"), A)
        await gate.until(1)
        second = await stage.submit(named("second"), A)
        quotas.charge_time(A, 6.0, 0)
        with pytest.raises(RateQuotaError, match="cpu_seconds"):
            await stage.submit(named("third"), A)
        other = await stage.submit(named("other"), B)
        gate.open.set()
        await until_ended(stage.engine, B, other.prompt_id)
        assert gate.entered == ["first", "other"]
        clock.now += 61
        stage.engine._dispatcher.wake()
        await until_ended(stage.engine, A, second.prompt_id)


async def test_a_flood_of_long_prompts_keeps_no_other_tenant_from_running_one() -> None:
    async with gated(limits=EngineLimits(concurrency=2, reserve=2)) as (gate, stage):
        for number in range(6):
            await stage.submit(named(f"a{number}"), A, client_id=None)
        await gate.until(2)
        for number in range(2):
            await stage.submit(named(f"b{number}"), B, client_id=None)
        await gate.until(3)
        assert gate.entered == ["a0", "a1", "b0"]
        await stage.submit(named("c0"), TenantId("c"), client_id=None)
        await gate.until(4)
        await stage.submit(named("d0"), TenantId("d"), client_id=None)
        assert gate.entered == ["a0", "a1", "b0", "c0"]

"""What a pack writes to disk and how much CPU time its tenant has used, in real containers: it ends, typed, in time."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from policies import ExtensionName, TenantId
from sandbox import EndedError, ManagerLimits
from tests.contract.kit import ANSWER, call, ignore, in_docker, world
from tests.security.test_hostile_packs import attack, beside_a_neighbour, pack

pytestmark = [pytest.mark.docker, pytest.mark.anyio]

HOLD = "\nfound = 'over'\ntime.sleep(60)\n"


async def ended(tmp_path: Path, isolation: str, body: str, policy: str) -> EndedError:
    """How an attack ended."""
    async with beside_a_neighbour(tmp_path, isolation, "evil", pack(body), policy) as at:
        await at.session("evil")
        with pytest.raises(EndedError) as caught:
            await attack(at)
        return caught.value


async def test_a_pack_that_fills_the_disk_is_ended_and_the_cap_and_figure_are_named(
    tmp_path: Path, isolation: str
) -> None:
    body = (
        """
for number in range(40):
    with open(f"/app/output/{number}", "wb") as file:
        file.write(b"x" * (1 << 20))
"""
        + HOLD
    )
    error = await ended(tmp_path, isolation, body, "disk: 16MiB\n")
    assert (error.limit, error.figure) == ("disk", "40 MiB in one call") or "MiB in one call" in error.figure
    for word in ("extension 'evil'", "disk cap 16 MiB", "evil.yaml:1"):
        assert word in error.message


async def test_a_file_that_grows_after_it_was_handed_over_counts_as_well(
    tmp_path: Path, isolation: str
) -> None:
    body = """
def grow():
    with open("/app/temp/kept", "ab") as file:
        for _ in range(64):
            file.write(b"x" * (1 << 20)); file.flush(); time.sleep(0.02)
open("/app/temp/kept", "wb").close()
threading.Thread(target=grow).start()
found = "later"
"""
    async with beside_a_neighbour(tmp_path, isolation, "evil", pack(body), "disk: 16MiB\n") as at:
        session = await at.session("evil")
        assert await attack(at) == "later"
        with anyio.fail_after(60):
            await at.manager._all[session.sandbox].sandbox.gone()


async def test_many_empty_files_meet_a_cap_of_their_own(tmp_path: Path, isolation: str) -> None:
    body = "for number in range(3000):\n    open(f'/app/output/{number}', 'w').close()" + HOLD
    error = await ended(tmp_path, isolation, body, "disk_files: 500\n")
    assert error.limit == "disk"
    assert "disk_files cap 500" in error.message


async def test_a_sparse_giant_is_refused_by_the_kernel_and_the_pack_lives_on(
    tmp_path: Path, isolation: str
) -> None:
    body = """
def giant():
    with open("/app/output/giant", "wb") as file:
        file.truncate(1 << 44)
found = attempt(giant)
"""
    async with beside_a_neighbour(tmp_path, isolation, "evil", pack(body), "disk: 16MiB\n") as at:
        assert "File too large" in str(await attack(at))


async def test_a_directory_that_nobody_may_read_hides_nothing_from_the_watch(
    tmp_path: Path, isolation: str
) -> None:
    body = (
        """
os.mkdir("/app/output/dark")
with open("/app/output/dark/x", "wb") as file:
    os.chmod("/app/output/dark", 0)
    file.write(b"x" * (40 << 20))
"""
        + HOLD
    )
    error = await ended(tmp_path, isolation, body, "disk: 16MiB\n")
    assert error.limit == "disk"


async def test_deep_directories_hide_nothing_either(tmp_path: Path, isolation: str) -> None:
    body = (
        """
os.chdir("/app/output")
for _ in range(80):
    os.mkdir("d"); os.chdir("d")
"""
        + HOLD
    )
    error = await ended(tmp_path, isolation, body, "disk: 16MiB\n")
    assert error.limit == "disk"
    assert "cannot be counted" in error.message


class Counter:
    """Counts as the engine's book does, with a limit of seconds of CPU for each tenant."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.cpu: dict[TenantId, float] = {}
        self.over: list[TenantId] = []
        """Whoever was told that it may use no more, each time."""
        self.disk: dict[TenantId, int] = {}
        self.grew = anyio.Event()

    def is_timed(self, tenant: TenantId) -> bool:
        return True

    def charge_time(self, tenant: TenantId, cpu_s: float, gpu_s: float) -> str | None:
        self.cpu[tenant] = self.cpu.get(tenant, 0.0) + cpu_s
        over = self.cpu[tenant] >= self.limit
        self.over += [tenant] * over
        return (
            f"tenant '{tenant}' has used up its quota 'cpu_seconds': {self.cpu[tenant]:.0f} s"
            if over
            else None
        )

    def charge_disk(self, tenant: TenantId, nbytes: int) -> str | None:
        self.disk[tenant] = self.disk.get(tenant, 0) + nbytes
        self.grew.set()
        self.grew = anyio.Event()
        return None


async def test_a_tenant_over_its_cpu_seconds_loses_its_busy_sandboxes_and_nobody_else_does(
    tmp_path: Path,
) -> None:
    counter = Counter(4.0)
    limits = ManagerLimits(metering=counter)
    other = TenantId("other")
    async with world(tmp_path, in_docker, limits=limits) as at:
        at.shelf.write("burner", pack("while True:\n    pass"))
        at.shelf.write("neighbour", ANSWER, tenant=other)
        neighbour = await at.manager.acquire(other, ExtensionName("neighbour"))
        with anyio.fail_after(60), pytest.raises(EndedError) as caught:
            await attack(at, "burner")
        assert caught.value.limit == "cpu_seconds"
        assert "quota 'cpu_seconds'" in caught.value.message
        assert counter.over == [TenantId("local")]  # the first look that found it over its quota ended it
        await neighbour.execute(call("Answer"), ignore)


async def test_what_a_sandbox_writes_is_told_to_whoever_counts_its_tenants_disk(tmp_path: Path) -> None:
    counter = Counter(1e9)
    body = "open('/app/output/x', 'wb').write(b'x' * (8 << 20)); found = 'done'"
    async with world(tmp_path, in_docker, limits=ManagerLimits(metering=counter)) as at:
        at.shelf.write("evil", pack(body))
        assert await attack(at) == "done"
        with anyio.fail_after(60):  # it is looked at a moment later
            while counter.disk.get(TenantId("local"), 0) < 8 << 20:
                await counter.grew.wait()
        assert counter.disk[TenantId("local")] < 9 << 20

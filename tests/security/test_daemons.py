"""Processes that outlive the call that made them: they stay in their sandbox's limits and its bill, and end with it."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from policies import SandboxId, TenantId
from sandbox import EndedError, ManagerLimits
from tests.contract.kit import TENANT, World, in_docker, world
from tests.security.test_hostile_packs import attack, beside_a_neighbour, pack

pytestmark = [pytest.mark.docker, pytest.mark.anyio]

#: Leaves its session and its parent, ignores every signal that can be ignored, keeps all that was open, the host's
#: connection too, and stays.
LEAVE = """
import signal
def leave(work):
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        os.read(reader, 1)
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    for number in range(1, 65):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            pass
    with open("/tmp/daemon", "w") as file:
        file.write(str(os.getpid()))
    os.write(writer, b"x")
    work()
    os._exit(0)
"""
STAYS = (
    LEAVE
    + """
if os.path.exists("/tmp/daemon"):
    found = attempt(os.kill, int(open("/tmp/daemon").read()), 0)
else:
    leave(lambda: time.sleep(3600))
    found = "it left one behind"
"""
)


def processes_in(container: str) -> int:
    """How many processes of the machine are in the cgroup of a container; the dead that nobody has buried are none."""
    found = 0
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and container in Path(f"/proc/{name}/cgroup").read_text():
                found += Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except OSError:
            continue
    return found


async def none_is_left_in(container: str) -> None:
    """Wait for it: gVisor's own processes die after the one that the engine watches, with their container's removal."""
    with anyio.fail_after(60):
        while await anyio.to_thread.run_sync(processes_in, container):  # noqa: ASYNC110 - nobody tells of it
            await anyio.sleep(0.05)


async def only_sandbox(at: World, tenant: TenantId, extension: str) -> tuple[SandboxId, str]:
    """Its id, and its container's."""
    found = [item for item in await at.launcher.list() if item.tenant == tenant]
    (one,) = [item for item in found if extension in item.extensions]
    return one.sandbox, one.container


async def gone(at: World, sandbox: SandboxId) -> None:
    """Wait for the end of a sandbox, its container's included."""
    tenancy = at.manager._all.get(sandbox)
    if tenancy is not None:
        await tenancy.sandbox.gone()


async def test_a_process_that_outlives_its_call_ends_with_its_sandbox(tmp_path: Path, isolation: str) -> None:
    async with beside_a_neighbour(tmp_path, isolation, "evil", pack(STAYS)) as at:
        assert await attack(at) == "it left one behind"
        sandbox, container = await only_sandbox(at, TENANT, "evil")
        # It lives, in the limits of its sandbox, and the next call of the same sandbox works beside it.
        assert await attack(at) == "None"
        assert (await only_sandbox(at, TENANT, "evil"))[0] == sandbox
        if isolation == "runc":
            assert await anyio.to_thread.run_sync(processes_in, container) >= 2
            assert (await at.launcher.stats(sandbox)).pids >= 2
        assert await at.manager.stop(TENANT, sandbox)
        await none_is_left_in(container)
        assert await attack(at) == "it left one behind"  # nothing of the one before is in the next one


async def test_a_process_that_keeps_the_connection_does_not_hide_that_its_worker_died(
    tmp_path: Path, isolation: str
) -> None:
    code = pack(LEAVE + "leave(lambda: time.sleep(3600))\nos._exit(3)")
    async with beside_a_neighbour(tmp_path, isolation, "evil", code) as at:
        session = await at.session("evil")
        sandbox, container = await only_sandbox(at, TENANT, "evil")
        with pytest.raises(EndedError) as caught:
            await attack(at)
        assert caught.value.limit == "exit"
        assert not session.is_alive
        with anyio.fail_after(60):
            await gone(at, sandbox)
        await none_is_left_in(container)


LIMIT_S = 2.0


class _Bill:
    """Counts as the engine's book does: this tenant may use so many seconds of CPU."""

    def __init__(self) -> None:
        self.cpu = 0.0

    def is_timed(self, tenant: TenantId) -> bool:
        return False

    def charge_time(self, tenant: TenantId, cpu_s: float, gpu_s: float) -> str | None:
        self.cpu += cpu_s
        return f"tenant '{tenant}' has used up its quota 'cpu_seconds'" if self.cpu >= LIMIT_S else None

    def charge_disk(self, tenant: TenantId, nbytes: int) -> str | None:
        return None


async def test_who_works_on_after_its_call_is_on_the_bill_and_ends_when_the_quota_is_used_up(
    tmp_path: Path,
) -> None:
    bill = _Bill()
    code = pack(LEAVE + "def burn():\n    while True:\n        pass\nleave(burn)\nfound = 'it works on'")
    async with world(tmp_path, in_docker, limits=ManagerLimits(metering=bill)) as at:
        at.shelf.write("evil", code)
        assert await attack(at) == "it works on"
        sandbox, container = await only_sandbox(at, TENANT, "evil")
        with anyio.fail_after(120):
            await gone(at, sandbox)  # nobody calls it any more
        assert bill.cpu >= LIMIT_S
        await none_is_left_in(container)


async def test_empty_files_without_end_in_shared_memory_meet_the_memory_cap(tmp_path: Path) -> None:
    """Nothing but memory bounds their number there: the kernel counts each of them as the sandbox's."""
    code = pack("""
made = 0
try:
    while made < 3_000_000:
        os.close(os.open(f"/dev/shm/{made}", os.O_CREAT | os.O_WRONLY))
        made += 1
except OSError as error:
    found = errno.errorcode[error.errno]
else:
    found = "no end"
""")
    async with beside_a_neighbour(tmp_path, "runc", "evil", code, policy="memory: 192MiB\n") as at:
        try:
            end = await attack(at)
        except EndedError as error:
            end = error.limit
        assert end in ("ENOSPC", "memory")

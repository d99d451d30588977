"""The launcher against a real engine: what it starts, what it refuses, what it cleans up, what it notices."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from policies import SandboxId
from sandbox import StartError
from sandbox.launcher import self_test
from sandbox.launcher.cgroups import ROOT
from sandbox.launcher.settings import LaunchSettings
from sandbox.launcher.spec import RUNTIMES
from sandbox.launcher.verbs import SandboxRequest
from tests.contract.fixtures import IMAGE
from tests.contract.kit import ANSWER, RUNTIME, TENANT, Policies, Shelf, World, in_docker, places, world
from tests.contract.zones import LauncherZone

pytestmark = [pytest.mark.docker, pytest.mark.anyio]


async def inspect(container: str | None) -> dict[str, Any]:
    done = await anyio.run_process(["docker", "inspect", str(container)])
    return json.loads(done.stdout)[0]  # type: ignore[no-any-return]


async def listed(instance: str) -> list[str]:
    command = ["docker", "ps", "-aq", "--filter", f"label=ringfence.instance={instance}"]
    return (await anyio.run_process(command)).stdout.decode().split()


async def test_the_engine_confirms_every_cap_of_the_policy(tmp_path: Path) -> None:
    policy = "memory: 300MiB\ncpus: 0.5\npids: 40\nnofile: 333\ntmp: 8MiB\nscratch: 16MiB\n"
    async with world(tmp_path, in_docker, policies={"pack": policy}) as at:
        at.shelf.write("pack", ANSWER)
        await at.session("pack")
        (info,) = at.manager.list()
        found = await inspect(info.container)
    host = found["HostConfig"]
    assert host["Memory"] == host["MemorySwap"] == 300 << 20
    assert host["NanoCpus"] == 500_000_000
    assert host["PidsLimit"] == 40
    assert {(item["Name"], item["Hard"]) for item in host["Ulimits"]} >= {("nofile", 333), ("core", 0)}
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert host["CapAdd"] is None
    assert host["NetworkMode"] == "none"
    assert host["CgroupnsMode"] == host["IpcMode"] == "private"
    assert "size=8388608" in host["Tmpfs"]["/tmp"]
    assert any(item.startswith("seccomp={") for item in host["SecurityOpt"])
    assert found["Config"]["User"].split(":")[0] not in ("", "0", "root")


async def test_each_live_sandbox_has_a_uid_of_its_own_and_keeps_it_over_a_restart(tmp_path: Path) -> None:
    async with world(tmp_path, in_docker) as at:
        at.shelf.write("one", ANSWER)
        at.shelf.write("two", ANSWER)
        one, two = await at.session("one"), await at.session("two")
        uids = {item.sandbox: item.uid for item in await at.launcher.list()}
        assert len(set(uids.values())) == 2
        await at.manager.stop(TENANT, one.sandbox)
        again = await at.session("one")
        found = {item.sandbox: item.uid for item in await at.launcher.list()}
        assert found[again.sandbox] == uids[one.sandbox]
        assert found[two.sandbox] == uids[two.sandbox]


async def test_all_sandboxes_of_a_tenant_run_below_one_cgroup_that_goes_with_the_last_of_them(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, in_docker) as at:
        at.shelf.write("one", ANSWER)
        at.shelf.write("two", ANSWER)
        await at.session("one")
        await at.session("two")
        found = [await inspect(info.container) for info in at.manager.list()]
        (parent,) = {each["HostConfig"]["CgroupParent"] for each in found}
        assert parent == at.launcher.docker._parent(TENANT) != ""
        for each in found:
            groups = await anyio.Path(f"/proc/{each['State']['Pid']}/cgroup").read_text()
            assert all(
                f"{parent}/" in line for line in groups.splitlines() if ":memory:" in line or "0::" in line
            )
    left = await anyio.to_thread.run_sync(lambda: list(ROOT.glob(f"*/docker/ringfence-{at.places.instance}")))
    assert left == []


async def test_usage_is_read_from_the_kernel(tmp_path: Path) -> None:
    async with world(tmp_path, in_docker) as at:
        at.shelf.write("pack", ANSWER)
        await at.session("pack")
        await at.manager.refresh()
        (info,) = at.manager.list()
        assert info.memory_used is not None
        assert 1 << 20 < info.memory_used < info.memory_limit
        assert info.pids_used is not None
        assert 1 <= info.pids_used <= info.pids_limit


async def test_a_killed_container_is_noticed_and_named(tmp_path: Path) -> None:
    async with world(tmp_path, in_docker) as at:
        at.shelf.write("pack", ANSWER)
        session = await at.session("pack")
        (info,) = at.manager.list()
        ended = at.manager._all[session.sandbox].sandbox
        await anyio.run_process(["docker", "kill", str(info.container)])
        with anyio.fail_after(60):
            await ended.gone()
        assert "killed from outside" in str(ended.ended_by)
        assert (await at.run("pack", "Answer")).slots is not None


async def test_a_death_is_noticed_even_when_the_event_stream_broke(tmp_path: Path) -> None:
    async with world(tmp_path, in_docker) as at:
        at.shelf.write("pack", ANSWER)
        session = await at.session("pack")
        ended = at.manager._all[session.sandbox].sandbox
        stream = at.launcher.docker._events._stream
        await anyio.to_thread.run_sync(stream.close)
        (info,) = at.manager.list()
        async with at.launcher.events() as events:
            await anyio.run_process(["docker", "kill", str(info.container)])
            with anyio.fail_after(60):
                event = await events.receive()
        assert (event.sandbox, event.kind) == (session.sandbox, "died")
        with anyio.fail_after(60):
            await ended.gone()


async def test_what_an_earlier_run_left_is_removed_at_start_and_nothing_else(tmp_path: Path) -> None:
    ours, other = places(tmp_path / "a"), places(tmp_path / "b")
    for instance in (ours.instance, other.instance):
        labels = ["--label", f"ringfence.instance={instance}", "--label", "ringfence.purpose=sandbox"]
        await anyio.run_process(["docker", "create", *labels, IMAGE, "true"])
    try:
        async with LauncherZone(ours, Policies(tmp_path / "policies").store):
            assert await listed(ours.instance) == []
            assert len(await listed(other.instance)) == 1
    finally:
        for container in await listed(other.instance):
            await anyio.run_process(["docker", "rm", "-f", container])


# -- refusals ------------------------------------------------------------------------------------------------------


async def refused(tmp_path: Path, policy: str = "", settings: LaunchSettings | None = None) -> StartError:
    def make(ours: Any, written: Policies) -> LauncherZone:
        return LauncherZone(ours, written.store, settings, override=RUNTIME)

    async with world(tmp_path, make, policies={"pack": policy}) as at:
        at.shelf.write("pack", ANSWER)
        with pytest.raises(StartError) as caught:
            await at.session("pack")
        assert await listed(at.places.instance) == []
        assert at.launcher.docker._uids_taken == {}
        return caught.value


async def test_a_missing_image_says_what_to_do(tmp_path: Path) -> None:
    error = await refused(tmp_path, settings=LaunchSettings(image="ringfence-node:none"))
    assert "image 'ringfence-node:none' not found" in str(error)
    assert "make up" in str(error)


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="this machine has a GPU")
async def test_gpus_on_a_machine_without_any_are_refused_by_name_and_nothing_is_left(tmp_path: Path) -> None:
    error = await refused(tmp_path, "gpus: ['GPU-00000000-0000-0000-0000-000000000001']\n")
    assert "asks for GPUs, and this container engine refuses" in str(error)


async def test_nothing_starts_in_a_runtime_that_fails_its_self_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_test, "_memory", {})
    found = (self_test.Proof("memory", holds=False, seen="600 MiB filled"),)
    monkeypatch.setattr(self_test, "prove", lambda *_: found)
    error = await refused(tmp_path)
    assert error.code == "runtime_refused"
    assert "isolation 'runc' is refused, its self-test failed here: memory: 600 MiB filled" in str(error)


async def test_a_missing_runtime_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RUNTIMES, "gvisor", "runsc-that-nobody-installed")
    error = await refused(tmp_path, "isolation: gvisor\npids: 512\n")
    assert "isolation" in str(error)
    assert "runsc-that-nobody-installed" in str(error)


async def test_an_engine_that_does_not_answer_is_named(tmp_path: Path) -> None:
    url = f"unix://{tmp_path}/no.sock"
    launcher = LauncherZone(places(tmp_path), Policies(tmp_path / "p").store, engine_url=url)
    with pytest.raises(StartError, match=r"does not answer.*No such file.*ringfence doctor"):
        async with launcher:
            pass


async def test_a_policy_that_changed_meanwhile_is_refused(tmp_path: Path) -> None:
    ours, written = places(tmp_path / "data"), Policies(tmp_path / "policies")
    shelf = Shelf(ours)
    name = shelf.write("pack", ANSWER)
    files = shelf.found[TENANT, name]
    async with LauncherZone(ours, written.store) as launcher:
        request = SandboxRequest(SandboxId("x-1"), TENANT, (files,), policy_digest="another")
        with pytest.raises(StartError, match="has just changed"):
            await launcher.ensure(request)


# -- shared memory ---------------------------------------------------------------------------------------------------

FILL = """
import torch
class Fill:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"megabytes": ("INT", {})}})
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"
    CATEGORY = "t"
    def run(self, megabytes):
        return (torch.zeros(1, dtype=torch.uint8).expand(megabytes << 20),)
NODE_CLASS_MAPPINGS = {"Fill": Fill}
"""


async def held(at: World, megabytes: int) -> Any:
    result = await at.run("pack", "Fill", megabytes=megabytes)
    assert result.slots is not None
    return result.slots[0][0]


async def test_outputs_that_the_cache_holds_do_not_count_against_the_producers_memory(tmp_path: Path) -> None:
    """Eight live outputs of 64 MiB from a sandbox that may use 400 MiB."""
    async with world(tmp_path, in_docker, policies={"pack": "memory: 400MiB\nshared_memory: 1GiB\n"}) as at:
        at.shelf.write("pack", FILL)
        values = [await held(at, 64) for _ in range(8)]
        assert at.store.usage().bytes == 512 << 20
        await at.manager.refresh()
        (info,) = at.manager.list()
        assert info.memory_used is not None
        assert info.memory_used < 400 << 20
        for value in values:
            at.store.release(value)
        assert at.store.usage().bytes == 0


def test_nothing_of_ours_is_left_in_the_engine() -> None:
    """Last: every test above has cleaned up behind itself."""
    listing = ["docker", "ps", "-a", "--filter", "label=ringfence.purpose=sandbox", "--format", "{{.Names}}"]
    names = subprocess.run(listing, capture_output=True, text=True, check=True, timeout=30).stdout.split()
    assert [name for name in names if name.startswith(f"ringfence-test-{os.getpid()}-")] == []
    shm = Path("/dev/shm/ringfence")
    assert not list(shm.glob(f"test-{os.getpid()}-*")) if shm.exists() else True

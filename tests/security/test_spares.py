"""A spare is the container that a start on demand would have made, and serves what it was made for and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from policies import SandboxId
from runtime import wire
from sandbox import ManagerLimits, SandboxState, StartError
from sandbox.peer import RemoteCallError
from tests.contract.kit import ANSWER, GVISOR, TENANT, World, in_docker, world
from tests.security.standards import CIS, OURS, POD_SECURITY, SANDBOX_EXCUSED, violations

pytestmark = [pytest.mark.docker, pytest.mark.anyio]
POOL = ManagerLimits(spares=1, spare_settle_s=0.0)
#: What must differ between a sandbox and its spare: whose id it is.
ITS_OWN = ("/ringfence/in", "/ringfence/out", "/ringfence/socket")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def inspect(container: str | None) -> dict[str, Any]:
    done = await anyio.run_process(["docker", "inspect", str(container)])
    return json.loads(done.stdout)[0]  # type: ignore[no-any-return]


async def with_spare(at: World) -> tuple[SandboxId, SandboxId]:
    """The sandbox of a pack, and its spare."""
    session = await at.session("pack")
    with anyio.fail_after(60):
        await at.manager.pool_filled(1)
    (spare,) = [info.id for info in at.manager.list() if info.state is SandboxState.SPARE]
    return session.sandbox, spare


def comparable(found: dict[str, Any]) -> Any:
    """Everything that the engine was told, but for the sandbox's id."""
    host = {key: item for key, item in found["HostConfig"].items() if key != "Mounts"}
    config = dict(found["Config"])
    config["Labels"] = {name: text for name, text in config["Labels"].items() if name != "ringfence.sandbox"}
    mounts = {
        item["Destination"]: {**item, "Source": "" if item["Destination"] in ITS_OWN else item["Source"]}
        for item in found["Mounts"]
    }
    return host, config, mounts, found["AppArmorProfile"], found["Path"], found["Args"]


@pytest.mark.parametrize(
    "policy", ["", pytest.param(GVISOR, marks=pytest.mark.gvisor)], ids=["runc", "gvisor"]
)
async def test_a_spare_has_every_wall_of_the_sandbox_that_it_stands_in_for(
    tmp_path: Path, policy: str
) -> None:
    async with world(tmp_path, in_docker, limits=POOL, policies={"pack": policy}) as at:
        at.shelf.write("pack", ANSWER)
        first, spare = await with_spare(at)
        containers = {info.id: info.container for info in at.manager.list()}
        ours, its = await inspect(containers[first]), await inspect(containers[spare])
        assert its["State"]["Running"]
        assert violations(its, (*POD_SECURITY, *CIS, *OURS), excused=SANDBOX_EXCUSED) == {}
        assert comparable(its) == comparable(ours)
        # And nothing about it changes when it is put to use.
        await at.manager.stop(TENANT, first)
        assert (await at.session("pack")).sandbox == spare
        assert comparable(await inspect(containers[spare])) == comparable(its)


async def test_a_spare_takes_no_extension_but_its_own_whatever_the_host_asks_of_it(tmp_path: Path) -> None:
    async with world(tmp_path, in_docker, limits=POOL) as at:
        at.shelf.write("pack", ANSWER)
        at.shelf.write("other", ANSWER)
        _, spare = await with_spare(at)
        worker = at.manager._all[spare].sandbox.peer
        wanted = {"name": "other", "path": f"{wire.CODE_DIRECTORY}/other", "module_name": "x", "core": False}
        with pytest.raises(RemoteCallError) as caught:
            await worker.call(wire.LOAD, wanted)
        assert caught.value.error.code == wire.LOAD_FAILED


async def test_a_running_sandbox_is_not_handed_out_for_another_request(tmp_path: Path) -> None:
    async with world(tmp_path, in_docker, limits=POOL) as at:
        at.shelf.write("pack", ANSWER)
        at.shelf.write("other", ANSWER)
        _, spare = await with_spare(at)
        asked = at.manager._all[spare].sandbox.request
        assert (await at.launcher.ensure(asked)).sandbox == spare
        other = await at.shelf.files(TENANT, at.shelf.add(tmp_path / "data" / "packs" / "other", "other"))
        for changed in (
            replace(asked, extensions=(other,)),
            replace(asked, extensions=(*asked.extensions, other)),
            replace(asked, policy_digest="0" * 64),
        ):
            with pytest.raises(StartError):
                await at.launcher.ensure(changed)
        assert (await at.launcher.ensure(asked)).sandbox == spare


async def test_a_spare_shares_its_uid_with_the_sandbox_that_it_stands_in_for_and_with_no_other(
    tmp_path: Path,
) -> None:
    policies = {"pack": "", "other": ""}
    async with world(tmp_path, in_docker, limits=POOL, policies=policies) as at:
        at.shelf.write("pack", ANSWER)
        at.shelf.write("other", ANSWER)
        first, spare = await with_spare(at)
        other = (await at.session("other")).sandbox
        uids = {item.sandbox: item.uid for item in await at.launcher.list()}
        assert uids[first] == uids[spare] != uids[other]
        # Another policy is another request: while both live, they have nothing in common.
        at.policies.write("pack", "memory: 300MiB\n")
        at.manager._planner._read.clear()
        with at.manager._all[first].sandbox.busy():
            again = (await at.session("pack")).sandbox
            uids = {item.sandbox: item.uid for item in await at.launcher.list()}
            assert uids[again] not in (uids[first], uids[other])

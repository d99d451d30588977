"""Where a sandbox's cgroup hangs: by tenant, beside the services, under either driver; and where its counters are."""

from __future__ import annotations

from pathlib import Path

import pytest

from policies import TenantId
from sandbox.launcher.cgroups import find
from sandbox.launcher.parents import parent_for, places_of, remove_empty, slice_path

ACME, OTHER = TenantId("acme"), TenantId("other")
CGROUPFS, SYSTEMD = {"CgroupDriver": "cgroupfs"}, {"CgroupDriver": "systemd"}


@pytest.mark.parametrize("info", [CGROUPFS, SYSTEMD])
def test_each_tenant_of_each_instance_has_a_cgroup_of_its_own(info: dict[str, str]) -> None:
    pairs = [(instance, tenant) for instance in ("local", "two") for tenant in (ACME, OTHER)]
    assert len({parent_for(info, *pair) for pair in pairs}) == 4
    assert parent_for(info, "local", ACME) == parent_for(info, "local", ACME)


def test_with_cgroupfs_all_tenants_of_an_instance_weigh_together_as_much_as_one_container() -> None:
    assert parent_for(CGROUPFS, "local", ACME) == "/docker/ringfence-local/acme"


def test_with_systemd_they_are_slices_below_one_slice_beside_the_services() -> None:
    parent = parent_for(SYSTEMD, "my-instance", TenantId("a-b_c"))
    assert parent.endswith(".slice")
    assert slice_path(parent) == f"system.slice/system-ringfence.slice/{parent}"


@pytest.mark.parametrize(
    "info",
    [
        {"CgroupDriver": "none"},
        {},
        {"CgroupDriver": "systemd", "SecurityOptions": ["name=seccomp", "name=rootless"]},
    ],
)
def test_an_engine_that_may_not_choose_is_not_asked_to(info: dict[str, object]) -> None:
    assert parent_for(info, "local", ACME) == ""


@pytest.mark.parametrize("info", [CGROUPFS, SYSTEMD, {}])
@pytest.mark.parametrize("unified", [True, False])
def test_the_counters_of_a_sandbox_are_found_without_seeing_its_processes(
    tmp_path: Path, info: dict[str, str], unified: bool
) -> None:
    parent = parent_for(info, "local", ACME)
    root = tmp_path / "cgroup"
    for controller in ("",) if unified else ("memory", "pids", "cpuacct"):
        made = root / controller / places_of("c0ffee", parent)[0].lstrip("/")
        made.mkdir(parents=True)
        (made / ("pids.current")).write_text("7\n")
    if unified:
        (root / "cgroup.controllers").write_text("cpu memory pids\n")
    found = find("c0ffee", 0, root=root, proc=tmp_path / "proc", parent=parent)
    assert found.unified is unified
    assert found.usage().pids == 7


def test_only_this_instances_empty_cgroups_are_removed(tmp_path: Path) -> None:
    docker = tmp_path / "cpu" / "docker"
    for path in ("ringfence-local/acme", "ringfence-local/busy/c0ffee", "ringfence-local-2/acme", "c0ffee"):
        (docker / path).mkdir(parents=True)
    remove_empty("local", tmp_path)
    left = {str(path.relative_to(docker)) for path in docker.rglob("*")}
    assert left == {
        "ringfence-local",
        "ringfence-local/busy",
        "ringfence-local/busy/c0ffee",
        "ringfence-local-2",
        "ringfence-local-2/acme",
        "c0ffee",
    }

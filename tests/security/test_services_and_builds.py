"""compose.yaml's services, a running sandbox and a build, held to the same standards as the spec of a sandbox.

The services are read from the file here, line by line; as they run, by ``e2e/test_standards.py``.
"""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import anyio
import docker
import pytest

from policies import LOCAL_TENANT
from sandbox.launcher.build import DockerBuilder
from sandbox.launcher.build_verb import BuildJob, BuildSettings, IndexSettings
from tests.contract.fixtures import IMAGE
from tests.contract.kit import ANSWER, in_docker, world
from tests.security.compose_view import described, services
from tests.security.standards import (
    BUILD_EXCUSED,
    CIS,
    OF_SERVICE,
    OURS,
    POD_SECURITY,
    SANDBOX_EXCUSED,
    SERVICE,
    SERVICES_EXCUSED,
    Control,
    violations,
)


def controls(service: str) -> tuple[Control, ...]:
    return (*POD_SECURITY, *CIS, *SERVICE, *OF_SERVICE[service])


#: Each line that is a wall, and its worst value; None where it is left out.
LINES: dict[str, dict[str, Any]] = {
    "launcher": {
        "network_mode": None, "init": None, "read_only": None, "tmpfs": ["/tmp"], "cap_drop": None, "mem_limit": None,
        "pids_limit": None, "cpu_shares": None, "security_opt:no-new-privileges": None, "security_opt:seccomp": None,
        "logging": None, "healthcheck": {"test": ["NONE"]}, "volumes:policies:ro": None, "pid": "host", "ipc": "host",
        "uts": "host", "privileged": True, "userns_mode": "host", "devices": ["/dev/kmsg"],
        "cap_add": ["CHOWN", "DAC_OVERRIDE", "SYS_ADMIN"],
    },
    "host": {
        "init": None, "read_only": None, "tmpfs": ["/tmp"], "cap_drop": None, "pids_limit": None, "cpu_shares": None,
        "security_opt:no-new-privileges": None, "security_opt:seccomp": None, "logging": None,
        "volumes:policies:ro": None, "volumes:core:ro": None, "pid": "host", "ipc": "host", "uts": "host",
        "privileged": True, "network_mode": "host", "ports": ["0.0.0.0:8188:8188"],
        "volumes": ["/var/run/docker.sock:/var/run/docker.sock"],
        "cap_add": ["DAC_OVERRIDE", "SYS_PTRACE"],
    },
}  # fmt: skip
#: Lines that are no wall, or that the e2e suite holds; the host's mem_limit is the operator's, and none by default.
NO_WALL = {
    "image",
    "build",
    "command",
    "depends_on",
    "restart",
    "environment",
    "env_file",
    "stop_grace_period",
    "mem_limit",
}


def changed(service: dict[str, Any], line: str, worst: Any) -> dict[str, Any]:
    made = copy.deepcopy(service)
    match line.split(":"):
        case ["security_opt", which]:
            made["security_opt"] = [item for item in made["security_opt"] if not item.startswith(which)]
        case ["volumes", which, "ro"]:
            before = made["volumes"]
            made["volumes"] = [
                item.removesuffix(":ro") if item.endswith(f"/{which}:ro") or f"/{which}}}" in item else item
                for item in before
            ]
            assert made["volumes"] != before
        case [key] if worst is None:
            del made[key]
        case [key]:
            made[key] = worst
    return made


def wrong(service: str, lines: dict[str, Any]) -> set[str]:
    return set(violations(described(lines), controls(service)))


@pytest.mark.parametrize("service", ["launcher", "host"])
def test_a_service_of_the_stack_is_what_the_standards_ask_for_or_says_why_not(service: str) -> None:
    found = described(services()[service])
    assert violations(found, controls(service), excused=SERVICES_EXCUSED[service]) == {}


@pytest.mark.parametrize(
    ("service", "line"), [(name, line) for name, lines in LINES.items() for line in lines]
)
def test_a_wall_of_a_service_that_is_taken_away_is_missed(service: str, line: str) -> None:
    lines = services()[service]
    assert wrong(service, changed(lines, line, LINES[service][line])) - wrong(service, lines), (
        f"nobody misses {line}"
    )


@pytest.mark.parametrize("service", ["launcher", "host"])
def test_every_line_of_a_service_is_a_wall_that_is_tried_or_none(service: str) -> None:
    tried = {line.split(":")[0] for line in LINES[service]}
    assert services()[service].keys() <= tried | NO_WALL


@pytest.mark.docker
@pytest.mark.anyio
@pytest.mark.parametrize("isolation", ["runc", pytest.param("gvisor", marks=pytest.mark.gvisor)])
async def test_a_sandbox_that_the_launcher_started_satisfies_every_control(
    tmp_path: Path, isolation: str
) -> None:
    async with world(tmp_path, in_docker, policies={"pack": f"isolation: {isolation}\n"}) as at:
        at.shelf.write("pack", ANSWER)
        await at.session("pack")
        (info,) = at.manager.list()
        done = await anyio.run_process(["docker", "inspect", str(info.container)])
        (found,) = json.loads(done.stdout)
    assert found["State"]["Running"]
    assert violations(found, (*POD_SECURITY, *CIS, *OURS), excused=SANDBOX_EXCUSED) == {}


@pytest.mark.docker
def test_a_build_without_a_network_satisfies_both_standards(tmp_path: Path) -> None:
    found = build(tmp_path, network=False)
    assert violations(found, (*POD_SECURITY, *CIS), excused=BUILD_EXCUSED) == {}


@pytest.mark.docker
def test_a_build_with_a_network_is_excused_from_no_more_than_its_network(tmp_path: Path) -> None:
    found = build(tmp_path, network=True)
    network = {
        "CIS-5.30": "the operator's choice of network (RINGFENCE_BUILD_NETWORK): it has to reach the index"
    }
    assert violations(found, (*POD_SECURITY, *CIS), excused={**BUILD_EXCUSED, **network}) == {}


def build(tmp_path: Path, *, network: bool) -> dict[str, Any]:
    """The engine's description of a build's container that never ran."""
    for name in ("in", "out", "cache"):
        (tmp_path / name).mkdir()
    job = BuildJob(
        id="standards", tenant=LOCAL_TENANT, directory=tmp_path, cache=tmp_path / "cache", network=network,
        source_builds=False, has_constraints=False, timeout_s=1.0,
    )  # fmt: skip
    settings = BuildSettings(image=IMAGE, instance=f"hostile-standards-{os.getpid()}", network_mode="bridge")
    client = docker.from_env()
    container = DockerBuilder(settings, IndexSettings(), connect=lambda: client)._create(job, "install")
    try:
        return dict(client.api.inspect_container(container.id))
    finally:
        container.remove(force=True, v=True)
        client.close()

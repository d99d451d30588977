"""The container of a sandbox, held to Pod Security "restricted", to CIS section 5 and to our own list, flag by flag.

The engine describes what it made; ``controls.py`` judges that. Then every flag of the spec is taken away in turn, and
each time the same judges have to notice: a wall that nobody would miss is no wall.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from sandbox.launcher.spec import Mount
from tests.security.flags import GONE, INSTANCE, Flag, flags, sandbox_config, without
from tests.security.standards import CIS, NOT_OF_A_CONTAINER, OURS, POD_SECURITY, SANDBOX_EXCUSED, violations

pytestmark = [pytest.mark.docker]
BOTH = ["runc", pytest.param("gvisor", marks=pytest.mark.gvisor)]
ALL = (*POD_SECURITY, *CIS, *OURS)

#: What each flag would be without the wall. GONE alone where leaving it out is the worst there is.
WORST: dict[str, Any] = {
    "Entrypoint": ["/bin/sh"],
    "Cmd": ["-m", "ringfence_runtime", "--transport", "socket"],
    "User": "0:0",
    "WorkingDir": "/proc/self/fd/8",
    "Hostname": GONE,
    "Env.PATH": "/app/bin:/bin",
    "Env.HOME": "/root",
    "Env.TMPDIR": "/ringfence/out",
    "Env.OMP_NUM_THREADS": GONE,
    "Env.OPENBLAS_NUM_THREADS": GONE,
    "Env.MKL_NUM_THREADS": GONE,
    "Env.NVIDIA_VISIBLE_DEVICES": "all",
    "Labels.ringfence.instance": GONE,
    "Labels.ringfence.purpose": GONE,
    "Labels.ringfence.sandbox": GONE,
    "Labels.ringfence.tenant": GONE,
    "Labels.ringfence.extensions": GONE,
    "Labels.ringfence.policy": GONE,
    "Labels.ringfence.uid": "0",
    "OpenStdin": True,
    "StdinOnce": True,
    "AttachStdin": True,
    "Tty": True,
    "StopSignal": "SIGTERM",
    "Healthcheck.Test": ["CMD", "true"],
    "HostConfig.ReadonlyRootfs": False,
    "HostConfig.CapDrop": GONE,
    "HostConfig.Privileged": True,
    "HostConfig.SecurityOpt.no-new-privileges": GONE,
    "HostConfig.SecurityOpt.seccomp": "seccomp=unconfined",
    "HostConfig.NetworkMode": "bridge",
    "HostConfig.IpcMode": "host",
    "HostConfig.PidMode": "host",
    "HostConfig.UTSMode": "host",
    "HostConfig.CgroupnsMode": "host",
    "HostConfig.CgroupParent": "/",
    "HostConfig.PublishAllPorts": True,
    "HostConfig.Memory": GONE,
    "HostConfig.MemorySwap": -1,
    "HostConfig.MemorySwappiness": 100,
    "HostConfig.OomKillDisable": True,
    "HostConfig.OomScoreAdj": -900,
    "HostConfig.NanoCpus": GONE,
    "HostConfig.CpuShares": 4096,
    "HostConfig.PidsLimit": -1,
    "HostConfig.Ulimits.nofile": GONE,
    "HostConfig.Ulimits.fsize": GONE,
    "HostConfig.Ulimits.core": GONE,
    "HostConfig.Ulimits.memlock": GONE,
    "HostConfig.Ulimits.msgqueue": GONE,
    "HostConfig.ShmSize": 1 << 40,
    **{f"HostConfig.Tmpfs.{place}.{option}": worst for place in ("/tmp", "/app") for option, worst in (
        ("rw", "ro"), ("nosuid", "suid"), ("nodev", "dev"), ("size", GONE), ("nr_inodes", GONE),
        ("mode", "mode=0777"))},
    "HostConfig.Tmpfs./tmp.noexec": "exec",
    "HostConfig.Tmpfs./app.exec": GONE,
    "HostConfig.Tmpfs./app.uid": GONE,
    "HostConfig.Tmpfs./app.gid": GONE,
    **{f"HostConfig.Mounts.{target}.{option}": worst
       for target in ("/ringfence/code/evil", "/ringfence/in", "/ringfence/socket")
       for option, worst in (("ReadOnly", False), ("Propagation", "rshared"), ("NonRecursive", False))},
    "HostConfig.Mounts./ringfence/out.Propagation": "rshared",
    "HostConfig.Mounts./ringfence/out.NonRecursive": False,
    "HostConfig.DeviceRequests": [{"Driver": "", "Count": -1, "Capabilities": [["gpu"]]}],
    "HostConfig.LogConfig.Type": "json-file",
    "HostConfig.AutoRemove": True,
    "HostConfig.RestartPolicy.Name": "always",
    "HostConfig.Init": True,
}  # fmt: skip

#: What the engine itself will not make of the rest of the spec.
REFUSED = {
    "HostConfig.Memory": "always set the Memory limit",
    "HostConfig.UTSMode": "hostname and the UTS mode",
}

#: Values that are no wall, and why nobody would miss them.
NO_WALL = {
    "Image": "which image runs is the operator's setting; a request cannot name one",
    "AttachStdout": "what it prints last is read for its error's text; attaching or not is ours",
    "AttachStderr": "the same",
    "HostConfig.LogConfig.Config": "options of a log driver that writes nothing",
    "HostConfig.Runtime": "the policy's choice between two runtimes that each proved its walls (the self-test)",
    "HostConfig.Mounts./ringfence/out.ReadOnly": "the one mount that is writable: the files in it are for filling",
    "Env.LANG": "an encoding",
    "Env.GLIBC_TUNABLES": "speed: from which size on the C library copies past the caches; nothing of it is a wall",
    "Env.MALLOC_MMAP_THRESHOLD_": "speed: how much memory the C library asks for at a time, within the cap",
    "Env.MALLOC_TRIM_THRESHOLD_": "speed: how much freed memory the C library keeps, within the cap",
    "Env.THP_MEM_ALLOC_ENABLE": "speed: huge pages for what torch makes, counted against the same cap",
    "Env.HF_HUB_OFFLINE": "a courtesy: without it a library would wait for a network that is not there",
    "NetworkDisabled": "says once more what NetworkMode says; alone it changes nothing",
}


@pytest.fixture(scope="module")
def api(engine: None) -> Iterator[Any]:
    with contextlib.closing(docker.from_env()) as client:
        yield client.api


@pytest.fixture(scope="module")
def mounts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Mount, ...]:
    root = tmp_path_factory.mktemp("mounted")
    made = []
    for name, target in (("code", "code/evil"), ("in", "in"), ("out", "out"), ("socket", "socket")):
        (root / name).mkdir()
        made.append(Mount(root / name, f"/ringfence/{target}", writable=name == "out"))
    return tuple(made)


def described(api: Any, config: dict[str, Any]) -> dict[str, Any]:
    """The engine's own description of a container that it made, and that never ran."""
    made = api.create_container_from_config(config, name=f"ringfence-{INSTANCE}-{os.urandom(4).hex()}")["Id"]
    try:
        return dict(api.inspect_container(made))
    finally:
        api.remove_container(made, force=True, v=True)


def named(name: str) -> Flag:
    for flag in flags(sandbox_config("runc", MOUNTED)):
        if flag.name == name:
            return flag
    raise LookupError(name)


MOUNTED = tuple(
    Mount(Path("/x"), f"/ringfence/{name}", writable=name == "out")
    for name in ("code/evil", "in", "out", "socket")
)


@pytest.mark.parametrize("isolation", BOTH)
def test_the_container_of_a_sandbox_satisfies_every_control(
    api: Any, isolation: str, mounts: tuple[Mount, ...]
) -> None:
    found = described(api, sandbox_config(isolation, mounts))
    assert violations(found, ALL, excused=SANDBOX_EXCUSED) == {}


def test_every_flag_of_the_spec_is_a_wall_that_is_tried_or_says_why_it_is_none() -> None:
    for isolation in ("runc", "gvisor"):
        names = {flag.name for flag in flags(sandbox_config(isolation, MOUNTED))}
        assert names == WORST.keys() | NO_WALL.keys()


@pytest.mark.parametrize("name", WORST)
def test_a_flag_that_is_taken_away_is_missed(api: Any, mounts: tuple[Mount, ...], name: str) -> None:
    good = sandbox_config("runc", mounts)
    if name in REFUSED:
        with pytest.raises(docker.errors.APIError, match=REFUSED[name]):
            described(api, without(good, named(name), WORST[name]))
        return
    found = described(api, without(good, named(name), WORST[name]))
    assert missed(found), f"nobody misses {name}"
    if WORST[name] is GONE:
        return
    # And left out altogether: the engine fills in the same, or that is missed as well.
    try:
        found = described(api, without(good, named(name), GONE))
    except docker.errors.APIError:
        return  # it cannot be left out
    if not missed(found):
        ours = described(api, good)
        assert comparable(found) == comparable(ours), f"nobody misses {name} when it is left out"


def missed(found: dict[str, Any]) -> set[str]:
    return violations(found, ALL).keys() - SANDBOX_EXCUSED.keys()


def comparable(found: dict[str, Any]) -> list[dict[str, Any]]:
    """What the engine goes by: how a mount was asked for is not, and nothing is as good as no."""
    host = {key: item for key, item in found["HostConfig"].items() if key not in ("Mounts", "RestartPolicy")}
    config = dict(found["Config"])
    mounts = {item["Destination"]: item for item in found["Mounts"]}
    return [{key: item for key, item in part.items() if item} for part in (host, config, mounts)]


def test_every_control_of_section_5_is_checked_or_says_why_it_is_not_of_a_container() -> None:
    numbers = {control.id for control in CIS} | NOT_OF_A_CONTAINER.keys()
    assert numbers == {f"CIS-5.{number}" for number in range(1, 33)}

"""Walls taken away, by name: each is a change to a copy of a container spec that only these tests can make.

A weakened container runs nothing but ``assault/``, whose every attack is bounded and touches only what the test made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Spec = dict[str, Any]
UNFILTERED = "seccomp=unconfined"
#: Not "ALL": an engine that lacks one of them itself (as engines inside containers do) could not give it.
CAPABILITIES = ["DAC_READ_SEARCH", "IPC_LOCK", "MKNOD", "NET_ADMIN", "NET_RAW", "SYSLOG", "SYS_ADMIN", "SYS_BOOT",
                "SYS_CHROOT", "SYS_MODULE", "SYS_NICE", "SYS_PACCT", "SYS_PTRACE", "SYS_RAWIO", "SYS_TIME"]  # fmt: skip


def no_filter(spec: Spec) -> None:
    """No list of system calls."""
    spec["HostConfig"]["SecurityOpt"] = ["no-new-privileges:true", UNFILTERED]


def new_privileges(spec: Spec) -> None:
    """A program may have more rights than who starts it. The engine cannot filter without either: that goes too."""
    spec["HostConfig"]["SecurityOpt"] = [UNFILTERED]
    del spec["HostConfig"]["CapDrop"]


def root(spec: Spec) -> None:
    """Root, with the engine's usual capabilities, on a writable root; the filter stays."""
    spec["User"] = "0:0"
    spec["HostConfig"].update(ReadonlyRootfs=False)
    del spec["HostConfig"]["CapDrop"]
    for mount in spec["HostConfig"]["Mounts"]:
        mount["ReadOnly"] = False


def all_capabilities(spec: Spec) -> None:
    """Root with every capability and no filter, in namespaces of its own."""
    root(spec)
    spec["HostConfig"].update(SecurityOpt=[UNFILTERED], CapAdd=CAPABILITIES)


def kernel_files(spec: Spec) -> None:
    """All of that, and none of the engine's masks over the kernel's own files."""
    all_capabilities(spec)
    spec["HostConfig"].update(MaskedPaths=[], ReadonlyPaths=[])


def unmasked(spec: Spec) -> None:
    """The kernel's own files are all there, to read."""
    spec["HostConfig"].update(MaskedPaths=[], ReadonlyPaths=[])


def host_namespaces(spec: Spec) -> None:
    """The machine's processes, shared memory and name."""
    del spec["Hostname"]
    spec["HostConfig"].update(PidMode="host", IpcMode="host", UTSMode="host")
    all_capabilities(spec)


def host_cgroups(spec: Spec) -> None:
    """The machine's cgroup namespace."""
    spec["HostConfig"]["CgroupnsMode"] = "host"


def a_network(spec: Spec) -> None:
    """The engine's bridge; nothing is asked of it."""
    spec["NetworkDisabled"] = False
    spec["HostConfig"]["NetworkMode"] = "bridge"


def host_network(spec: Spec) -> None:
    """The machine's own network namespace."""
    spec["NetworkDisabled"] = False
    spec["HostConfig"]["NetworkMode"] = "host"


def more_mounted(spec: Spec) -> None:
    """A directory and a socket that stand for the machine's."""
    machine = spec["HostConfig"]["Mounts"][0]["Source"].rsplit("/", 1)[0]
    for source, target in (
        (f"{machine}/machine", "/machine"),
        (f"{machine}/docker.sock", "/var/run/docker.sock"),
    ):
        spec["HostConfig"]["Mounts"].append(
            {"Type": "bind", "Source": source, "Target": target, "ReadOnly": True}
        )
    spec["HostConfig"]["Devices"] = [
        {"PathOnHost": "/dev/null", "PathInContainer": "/dev/sentinel", "CgroupPermissions": "rwm"}
    ]
    spec["WorkingDir"] = "/machine"


def leaking(spec: Spec) -> None:
    """A directory is left open for whoever is started."""
    script = (
        "import os, sys; os.set_inheritable(os.open('/', 0), True); os.execv(sys.executable, sys.argv[1:])"
    )
    spec["Cmd"] = ["-I", "-c", script, "python", *spec["Cmd"]]


def loose(spec: Spec) -> None:
    """A /tmp that programs run from, more than enough of everything, an image's own variables, and a terminal."""
    host = spec["HostConfig"]
    own = [item for item in host["Tmpfs"]["/app"].split(",") if not item.startswith(("size=", "nr_inodes="))]
    host["Tmpfs"] = {"/tmp": "rw,exec,suid,dev,mode=1777", "/app": ",".join(own)}
    host["Ulimits"] = []
    host.update(PidsLimit=4096, ShmSize=1 << 30, OomScoreAdj=0, GroupAdd=["4"])
    spec["Env"] = [item for item in spec["Env"] if not item.startswith("NVIDIA_")]
    spec["Cmd"] = spec["Cmd"][1:]
    spec["Tty"] = True


def no_cpu_limit(spec: Spec) -> None:
    """As much of the machine as anybody."""
    del spec["HostConfig"]["NanoCpus"], spec["HostConfig"]["CpuShares"]
    spec["HostConfig"].update(Memory=1 << 34, MemorySwap=1 << 35)


def unlimited_queues(spec: Spec) -> None:
    """Neither a filter nor a limit of locked memory, queues and file sizes."""
    no_filter(spec)
    spec["HostConfig"]["Ulimits"] = []
    spec["HostConfig"]["CapAdd"] = ["IPC_LOCK"]


WEAKENINGS: dict[str, Callable[[Spec], None]] = {
    made.__name__: made
    for made in (
        no_filter, new_privileges, root, all_capabilities, kernel_files, unmasked, host_namespaces, host_cgroups,
        a_network, host_network, more_mounted, leaking, loose, no_cpu_limit, unlimited_queues,
    )
}  # fmt: skip

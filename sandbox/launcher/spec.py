"""Effective policy and ids to the container the engine is asked for. Pure: every wall is one line, and one snapshot.

The result is the engine's own JSON (``POST /containers/create``), so what a test sees is what the kernel gets, and
no client library stands between a flag and its meaning. Whether the paths named here may be mounted is checked in
``mounts.py``; this module trusts its arguments.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from policies import EffectivePolicy, ExtensionName, SandboxId, TenantId, seccomp_profile
from runtime import wire
from sandbox.launcher.network import network_arguments, network_variables

LABEL: Final = "ringfence"
MIB: Final = 1024 * 1024
RUNTIME_IN_IMAGE: Final = "/opt/ringfence/ringfence_runtime"
RUNTIMES: Final = {"runc": "runc", "gvisor": "runsc"}
"""How the engine calls what a policy calls ``isolation``."""
_INODES: Final = 131_072
_CPU_SHARES: Final = 256  # what everything else on a machine has is 1024
_SHM: Final = 64 * MIB


@dataclass(frozen=True, slots=True)
class Mount:
    """One directory or file of the machine that the sandbox sees."""

    source: Path
    target: str
    writable: bool = False

    def engine(self) -> dict[str, Any]:
        """As the engine wants it."""
        return {
            "Type": "bind",
            "Source": str(self.source),
            "Target": self.target,
            "ReadOnly": not self.writable,
            # NonRecursive: a read-only bind leaves the mounts below it writable, so they do not come along.
            "BindOptions": {"Propagation": "rprivate", "NonRecursive": True},
        }


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """A container, by its name and what it is made from."""

    name: str
    config: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose sandbox this is."""

    instance: str
    sandbox: SandboxId
    tenant: TenantId
    extensions: tuple[ExtensionName, ...]
    policy_digest: str
    uid: int


def container_spec(
    identity: Identity,
    policy: EffectivePolicy,
    mounts: Sequence[Mount],
    *,
    image: str,
    cgroup_parent: str = "",
) -> ContainerSpec:
    """The container of one sandbox; ``cgroup_parent`` as ``parents.py`` says ("" leaves it to the engine)."""
    return ContainerSpec(
        name=f"ringfence-{identity.instance}-{identity.sandbox}",
        config={
            "Image": image,
            "Entrypoint": ["/opt/venv/bin/python"],
            # -I: no PYTHON* variables, no user site, no current directory on the path.
            "Cmd": [
                "-I",
                "-X",
                "utf8",
                "-m",
                "ringfence_runtime",
                "--transport",
                policy.transport,
                *network_arguments(policy),
            ],
            "User": f"{identity.uid}:{identity.uid}",
            "WorkingDir": wire.APP_DIRECTORY,
            "Hostname": "sandbox",
            "Env": _environment(policy),
            "Labels": _labels(identity),
            "NetworkDisabled": True,
            "OpenStdin": policy.transport == "stdio",
            "StdinOnce": policy.transport == "stdio",
            "AttachStdin": policy.transport == "stdio",
            "AttachStdout": True,
            "AttachStderr": True,
            "Tty": False,
            "StopSignal": "SIGKILL",
            "Healthcheck": {"Test": ["NONE"]},
            "HostConfig": _host_config(identity, policy, mounts, cgroup_parent),
        },
    )


def _host_config(
    identity: Identity, policy: EffectivePolicy, mounts: Sequence[Mount], cgroup_parent: str
) -> dict[str, Any]:
    return {
        # -- what it may not do
        "ReadonlyRootfs": True,
        "CapDrop": ["ALL"],
        "Privileged": False,
        "SecurityOpt": ["no-new-privileges:true", f"seccomp={_profile(policy)}"],
        "Runtime": RUNTIMES[policy.isolation],
        # -- what it does not see
        "NetworkMode": "none",
        "IpcMode": "private",
        "PidMode": "",
        "UTSMode": "",
        "CgroupnsMode": "private",
        "PublishAllPorts": False,
        # -- what it may use
        "Memory": policy.memory,
        "MemorySwap": policy.memory,  # memory and swap together: no swap on top
        "MemorySwappiness": 0,
        "OomKillDisable": False,
        "OomScoreAdj": 500,  # when the machine itself runs out, a sandbox goes before anything of the operator's
        "NanoCpus": round(policy.cpus * 1_000_000_000),
        "CgroupParent": cgroup_parent,  # its tenant's, which weighs as much as every other tenant's
        "CpuShares": _CPU_SHARES,  # when all cores are wanted, the host, which serves everybody, gets its time first
        "PidsLimit": policy.pids,
        "Ulimits": [
            {"Name": "nofile", "Soft": policy.nofile, "Hard": policy.nofile},
            # One file: the disk watch sees what was written, this refuses a single giant before it is.
            {"Name": "fsize", "Soft": _largest_file(policy), "Hard": _largest_file(policy)},
            {"Name": "core", "Soft": 0, "Hard": 0},
            {"Name": "memlock", "Soft": 0, "Hard": 0},  # locked pages could not be taken back
            {"Name": "msgqueue", "Soft": 0, "Hard": 0},  # kernel memory outside the memory cap
        ],
        "ShmSize": min(_SHM, policy.memory // 4),
        "Tmpfs": {
            # A dropped binary cannot be run from /tmp; /app holds the throwaway copy of the pack, native code included.
            "/tmp": f"rw,noexec,nosuid,nodev,size={policy.tmp},nr_inodes={_INODES},mode=1777",  # noqa: S108
            wire.APP_DIRECTORY: (
                f"rw,exec,nosuid,nodev,size={policy.scratch},nr_inodes={_INODES},"
                f"mode=0755,uid={identity.uid},gid={identity.uid}"
            ),
        },
        "Mounts": [mount.engine() for mount in mounts],
        "DeviceRequests": _device_requests(policy),
        # -- how the engine treats it
        "LogConfig": {
            "Type": "none",
            "Config": {},
        },  # what a pack prints is ours to bound, not the engine's disk
        "AutoRemove": False,  # its exit state must be readable after the end
        "RestartPolicy": {"Name": "no"},
        "Init": False,
    }


def _largest_file(policy: EffectivePolicy) -> int:
    return max(policy.disk, policy.shared_memory, policy.tmp, policy.scratch)


def _profile(policy: EffectivePolicy) -> str:
    return seccomp_profile(
        gpus=bool(policy.gpus), network=bool(policy.network), gvisor=policy.isolation == "gvisor"
    )


def _device_requests(policy: EffectivePolicy) -> list[dict[str, Any]]:
    if not policy.gpus:
        return []
    return [{"Driver": "", "DeviceIDs": list(policy.gpus), "Capabilities": [["gpu"]]}]


MEMORY: Final = {
    # torch asks for huge pages for large tensors: a new one is filled four times as fast (docs/performance.md).
    "THP_MEM_ALLOC_ENABLE": "1",
    # What glibc comes to by itself, but not with the page-aligned buffers above: up to 32 MiB are used again.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
    # A large copy goes past the caches: what it overwrites is not read first, and what they hold stays. glibc by
    # itself does so from three quarters of the last cache on, and a server's processor has tens of MiB of that.
    # Below a piece of what the worker copies at once (``runtime.files``). Other processors take no notice.
    "GLIBC_TUNABLES": f"glibc.cpu.x86_non_temporal_threshold={2 << 20}",
}
"""What a sandbox's environment says of memory and copies."""


def _environment(policy: EffectivePolicy) -> list[str]:
    threads = str(max(1, math.ceil(policy.cpus)))
    variables = {
        "PATH": "/opt/venv/bin:/usr/bin:/bin",
        "HOME": f"{wire.APP_DIRECTORY}/home",
        "TMPDIR": "/tmp",  # noqa: S108  (the sandbox's own tmpfs)
        "LANG": "C.UTF-8",
        # Libraries that count the machine's cores would start a thread for each, against the pids cap and the quota.
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        **MEMORY,
        **network_variables(policy),
        # An image that names GPUs here gets them from NVIDIA's hook without any request of ours.
        "NVIDIA_VISIBLE_DEVICES": ",".join(policy.gpus) if policy.gpus else "void",
        **({"NVIDIA_DRIVER_CAPABILITIES": "compute,utility"} if policy.gpus else {}),
        **policy.environment,
    }
    return [f"{name}={value}" for name, value in variables.items()]


def _labels(identity: Identity) -> dict[str, str]:
    return {
        f"{LABEL}.instance": identity.instance,
        f"{LABEL}.purpose": "sandbox",
        f"{LABEL}.sandbox": identity.sandbox,
        f"{LABEL}.tenant": identity.tenant,
        f"{LABEL}.extensions": ",".join(identity.extensions),
        f"{LABEL}.policy": identity.policy_digest,
        f"{LABEL}.uid": str(identity.uid),
    }

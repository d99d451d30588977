"""Every flag of a sandbox's container, and what it would be without that wall.

``flags()`` walks the whole container spec, so that a flag that is added or moved without an entry in the
table of worst values turns a test red.
The worst value of each is laid over a copy of the spec by these tests only; nothing of the product can make one.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import docker

from policies import EffectivePolicy, ExtensionName, PolicyStore, SandboxId, TenantId
from sandbox.launcher.parents import parent_for
from sandbox.launcher.spec import Identity, Mount, container_spec
from tests.contract.fixtures import IMAGE

MIB = 1024 * 1024
INSTANCE = "hostile-range"
UID = 212_345
GONE = object()
#: What the spec is made with: small caps, so that a bomb is a small one.
LIMITS: Mapping[str, Mapping[str, int]] = {
    "runc": {"memory": 96 * MIB, "pids": 24, "nofile": 128, "tmp": 4 * MIB, "scratch": 4 * MIB, "disk": 16 * MIB,
             "shared_memory": 16 * MIB},
    "gvisor": {"memory": 256 * MIB, "pids": 128, "nofile": 128, "tmp": 4 * MIB, "scratch": 4 * MIB, "disk": 16 * MIB,
               "shared_memory": 16 * MIB},
}  # fmt: skip


def policy_of(isolation: str) -> EffectivePolicy:
    shipped = PolicyStore(Path("/nonexistent")).effective(ExtensionName("evil"))
    return shipped.model_copy(update={"isolation": isolation, "cpus": 1.0, **LIMITS[isolation]})


def sandbox_config(isolation: str, mounts: tuple[Mount, ...] = (), *, uid: int = UID) -> dict[str, Any]:
    """What the launcher would ask the engine for."""
    identity = Identity(
        INSTANCE, SandboxId("local-evil-1"), TenantId("local"), (ExtensionName("evil"),), "digest", uid
    )
    parent = parent_for(_engine(), INSTANCE, identity.tenant)
    spec = container_spec(identity, policy_of(isolation), mounts, image=IMAGE, cgroup_parent=parent)
    return copy.deepcopy(dict(spec.config))


@cache
def _engine() -> Mapping[str, Any]:
    """What decides how a cgroup is called; without an engine nothing is started either."""
    try:
        with contextlib.closing(docker.from_env()) as client:
            return dict(client.api.info())
    except docker.errors.DockerException:
        return {"CgroupDriver": "cgroupfs"}


@dataclass(frozen=True, slots=True)
class Flag:
    """One value of the spec, by its path; an option of a tmpfs or an entry of a list is a flag of its own."""

    path: tuple[str, ...]

    @property
    def name(self) -> str:
        """As the table below calls it."""
        return ".".join(self.path)


def flags(config: Mapping[str, Any], before: tuple[str, ...] = ()) -> Iterator[Flag]:
    """Every one of a spec."""
    for key, item in config.items():
        path = (*before, key)
        if path == ("HostConfig", "Tmpfs"):
            for place, text in item.items():
                yield from (Flag((*path, place, option.partition("=")[0])) for option in text.split(","))
        elif path == ("Env",):
            yield from (Flag((*path, entry.partition("=")[0])) for entry in item)
        elif path == ("HostConfig", "Ulimits"):
            yield from (Flag((*path, entry["Name"])) for entry in item)
        elif path == ("HostConfig", "SecurityOpt"):
            yield from (Flag((*path, re.split("[:=]", entry)[0])) for entry in item)
        elif path == ("HostConfig", "Mounts"):
            for entry in item:
                yield Flag((*path, entry["Target"], "ReadOnly"))
                yield Flag((*path, entry["Target"], "Propagation"))
                yield Flag((*path, entry["Target"], "NonRecursive"))
        elif isinstance(item, Mapping) and item:
            yield from flags(item, path)
        else:
            yield Flag(path)


def without(config: Mapping[str, Any], flag: Flag, worst: Any) -> dict[str, Any]:
    """A copy of the spec in which one flag is gone, or has its worst value."""
    made = copy.deepcopy(dict(config))
    host = made["HostConfig"]
    match flag.path:
        case ("HostConfig", "Tmpfs", place, option):
            kept = [item for item in host["Tmpfs"][place].split(",") if item.partition("=")[0] != option]
            host["Tmpfs"][place] = ",".join(kept if worst is GONE else [*kept, worst])
        case ("Env", name):
            made["Env"] = [item for item in made["Env"] if item.partition("=")[0] != name]
            made["Env"] += [] if worst is GONE else [f"{name}={worst}"]
        case ("HostConfig", "Ulimits", name):
            host["Ulimits"] = [item for item in host["Ulimits"] if item["Name"] != name]
        case ("HostConfig", "SecurityOpt", name):
            host["SecurityOpt"] = [item for item in host["SecurityOpt"] if re.split("[:=]", item)[0] != name]
            host["SecurityOpt"] += [] if worst is GONE else [worst]
        case ("HostConfig", "Mounts", target, what):
            (mount,) = [item for item in host["Mounts"] if item["Target"] == target]
            owner = mount if what == "ReadOnly" else mount["BindOptions"]
            owner.pop(what) if worst is GONE else owner.update({what: worst})
        case (*above, last):
            owner = made
            for key in above:
                owner = owner[key]
            owner.pop(last) if worst is GONE else owner.update({last: worst})
    return made

"""Below which cgroup a sandbox runs: one for each tenant, beside those of the services.

The kernel divides the processor between siblings by weight, so tenants get equal parts of what the services leave,
however many sandboxes each has, and all sandboxes of an instance weigh as much as one service would without
``cpu_shares`` (compose.yaml gives the host and the launcher many times that). The engine makes these cgroups; a limit
of a tenant's own is none of their business, each sandbox has its caps.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from policies import TenantId

ENGINES_OWN: Final = ""


def parent_for(info: Mapping[str, Any], instance: str, tenant: TenantId) -> str:
    """What the engine is to be asked for; its own choice where it may not choose freely (rootless, no driver)."""
    if any("rootless" in option for option in info.get("SecurityOptions") or ()):
        return ENGINES_OWN
    match info.get("CgroupDriver"):
        case "cgroupfs":
            return f"/docker/ringfence-{instance}/{tenant}"
        case "systemd":
            # A hyphen in a slice's name is a step down, and system.slice is where the engine puts the services.
            whose = hashlib.sha256(f"{instance}/{tenant}".encode()).hexdigest()[:16]
            return f"system-ringfence-{whose}.slice"
        case _:
            return ENGINES_OWN


def places_of(container: str, parent: str) -> list[str]:
    """Where below the root of the hierarchy a container with this parent is, by the two drivers' customs."""
    if parent.endswith(".slice"):
        return [f"/{slice_path(parent)}/docker-{container}.scope"]
    if parent:
        return [f"{parent}/{container}"]
    return [f"/docker/{container}", f"/system.slice/docker-{container}.scope"]


def remove_empty(instance: str, root: Path) -> None:
    """Remove an instance's cgroups that nothing runs in, where this process may: the engine makes and leaves them.

    (systemd removes slices by itself.) The kernel refuses for every one that is not empty. Blocking.
    """
    for controller in {root, *root.iterdir()} if root.is_dir() else ():
        whole = controller / "docker" / f"ringfence-{instance}"
        for directory in [*whole.glob("*/"), whole]:
            with contextlib.suppress(OSError):
                directory.rmdir()


def slice_path(name: str) -> str:
    """``a-b.slice`` as the path ``a.slice/a-b.slice``."""
    steps = name.removesuffix(".slice").split("-")
    return "/".join("-".join(steps[:count]) + ".slice" for count in range(1, len(steps) + 1))

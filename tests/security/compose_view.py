"""A service of ``compose.yaml`` in the engine's words, for the judges of a running container."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
MASKED = ["/proc/kcore", "/proc/keys", "/proc/sched_debug", "/proc/timer_list", "/sys/firmware"]
READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


def services() -> dict[str, dict[str, Any]]:
    """Each service's own lines."""
    found = YAML(typ="safe").load((ROOT / "compose.yaml").read_text("utf-8"))
    return {name: dict(service) for name, service in found["services"].items()}


def filled_in(text: str) -> str:
    """With every ``${NAME:-default}`` at its default, from the inside out."""
    inner = re.compile(r"\$\{(\w+)(?::-([^${}]*))?\}")
    while inner.search(text):
        text = inner.sub(lambda found: found[2] or "", text)
    return text


def described(service: dict[str, Any]) -> dict[str, Any]:
    """What the engine will say of a container that is made of it."""
    security = [
        f"seccomp={(ROOT / item.removeprefix('seccomp:')).read_text('utf-8')}"
        if item.startswith("seccomp:") and item != "seccomp:unconfined"
        else item.replace("seccomp:", "seccomp=")
        for item in service.get("security_opt", ())
    ]
    ports = [filled_in(item).rsplit(":", 2) for item in service.get("ports", ())]
    volumes = [
        re.match(r"(.*?):(/.*?)(?::(ro|rw))?$", filled_in(item)) for item in service.get("volumes", ())
    ]
    tmpfs = dict(filled_in(item).partition(":")[::2] for item in service.get("tmpfs", ()))
    mode = service.get("network_mode", "project_default")
    memory = filled_in(str(service.get("mem_limit", 0)))
    return {
        "Config": {
            "User": service.get("user", ""),
            "Tty": service.get("tty", False),
            "Healthcheck": {"Test": service.get("healthcheck", {}).get("test", ["CMD", "the image's"])},
        },
        "Mounts": [
            {
                "Type": "bind",
                "Source": item[1],
                "Destination": item[2],
                "RW": item[3] != "ro",
                "Propagation": "rprivate",
            }
            for item in volumes
            if item
        ],
        "HostConfig": {
            "Privileged": service.get("privileged", False),
            "ReadonlyRootfs": service.get("read_only", False),
            "CapDrop": service.get("cap_drop"),
            "CapAdd": service.get("cap_add"),
            "SecurityOpt": security,
            "NetworkMode": mode,
            "PidMode": service.get("pid", ""),
            "IpcMode": service.get("ipc", "private"),
            "UTSMode": service.get("uts", ""),
            "UsernsMode": service.get("userns_mode", ""),
            "Devices": service.get("devices"),
            "Sysctls": service.get("sysctls"),
            "CgroupParent": service.get("cgroup_parent", ""),
            "CpuShares": service.get("cpu_shares", 0),
            "PidsLimit": service.get("pids_limit"),
            "Memory": 0 if memory == "0" else 1,
            "Tmpfs": tmpfs,
            "Init": service.get("init", False),
            "PortBindings": {item[2]: [{"HostIp": item[0], "HostPort": item[1]}] for item in ports},
            "RestartPolicy": {"Name": service.get("restart", "no")},
            "LogConfig": {
                "Type": service.get("logging", {}).get("driver", "json-file"),
                **service.get("logging", {}),
            },
            "MaskedPaths": MASKED,
            "ReadonlyPaths": READ_ONLY,
        },
    }

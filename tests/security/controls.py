"""What a running container has to be, as the engine itself describes it: one function for each control.

Three lists: Kubernetes' Pod Security Standards at their level "restricted", section 5 of the CIS Docker
Benchmark (numbered as in its version 1.6), and what Ringfence asks for beyond both. Each control reads the answer of
``GET /containers/{id}/json`` and returns what is wrong with it, or nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Found = Mapping[str, Any]

SYSTEM = ("/", "/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/root", "/sbin", "/sys", "/usr")
#: A file that everybody may read, and that the services trust: the machine's certificates.
CERTIFICATES = "/etc/ringfence/ca.pem"
MASKED = {"/proc/kcore", "/proc/keys", "/proc/sched_debug", "/proc/timer_list", "/sys/firmware"}
READ_ONLY = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
#: System calls that no list of a sandbox may allow, whatever else it holds.
NEVER = {
    "add_key", "bpf", "delete_module", "finit_module", "init_module", "io_uring_enter", "io_uring_setup",
    "kexec_load", "keyctl", "mount", "move_mount", "open_by_handle_at", "open_tree", "perf_event_open", "pivot_root",
    "process_vm_readv", "process_vm_writev", "ptrace", "reboot", "request_key", "setns", "swapon",
    "umount2", "unshare", "userfaultfd",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Control:
    """One line of a standard: ``check`` says what is wrong, or nothing."""

    id: str
    title: str
    check: Callable[[Found], str]


def host(found: Found, key: str) -> Any:
    return found["HostConfig"].get(key)


def uid(found: Found) -> str:
    return str(found["Config"].get("User") or "0").split(":")[0]


def binds(found: Found) -> list[tuple[str, str, bool, str]]:
    """``(source, target, writable, propagation)`` of every bind, however it was asked for."""
    return [
        (item["Source"], item["Destination"], bool(item["RW"]), str(item.get("Propagation") or ""))
        for item in found["Mounts"]
        if item["Type"] == "bind"
    ]


def seccomp(found: Found) -> Mapping[str, Any] | None:
    """The list that was sent with the container; None when it gets the engine's own."""
    sent = [item for item in host(found, "SecurityOpt") or () if item.startswith("seccomp=")]
    if not sent or sent[0] == "seccomp=unconfined":
        return None
    return dict(json.loads(sent[0].removeprefix("seccomp=")))


def ulimits(found: Found) -> dict[str, tuple[int, int]]:
    return {item["Name"]: (item["Soft"], item["Hard"]) for item in host(found, "Ulimits") or ()}


def options(found: Found, place: str) -> list[str]:
    return str((host(found, "Tmpfs") or {}).get(place, "")).split(",")


def unless(holds: bool, wrong: object) -> str:
    return "" if holds else str(wrong) or "nothing given"


def capabilities(found: Found) -> str:
    dropped = [item.upper() for item in host(found, "CapDrop") or ()]
    added = [item.upper().removeprefix("CAP_") for item in host(found, "CapAdd") or ()]
    if "ALL" not in dropped:
        return "not all capabilities are dropped"
    return unless(set(added) <= {"NET_BIND_SERVICE"}, f"it has {', '.join(added)}")


def no_new_privileges(found: Found) -> str:
    sent = host(found, "SecurityOpt") or ()
    return unless(
        {"no-new-privileges", "no-new-privileges:true"} & set(sent) != set(), "it can gain privileges"
    )


def filtered(found: Found) -> str:
    return unless("seccomp=unconfined" not in (host(found, "SecurityOpt") or ()), "no seccomp list")


def labels_unconfined(kind: str) -> Callable[[Found], str]:
    def check(found: Found) -> str:
        sent = host(found, "SecurityOpt") or ()
        off = (f"{kind}=unconfined", f"{kind}:unconfined", f"{kind}=disable", f"{kind}:disable")
        return unless(not set(off) & set(sent), f"{kind} is switched off")

    return check


def namespaces(*keys: str) -> Callable[[Found], str]:
    def check(found: Found) -> str:
        shared = [
            f"{key}={host(found, key)}"
            for key in keys
            if str(host(found, key)).startswith(("host", "container:"))
        ]
        return unless(not shared, f"shared: {', '.join(shared)}")

    return check


def system_directories(found: Found) -> str:
    bad = [
        source
        for source, target, writable, _ in binds(found)
        if (source in SYSTEM or source.startswith(("/etc/", "/boot/")))
        and (writable or target != CERTIFICATES)
    ]
    return unless(not bad, f"mounted: {', '.join(bad)}")


def engine_socket(found: Found) -> str:
    bad = [
        place
        for source, target, _, _ in binds(found)
        for place in (source, target)
        if place.endswith(("docker.sock", "containerd.sock", "crio.sock", "podman.sock"))
        or place.rstrip("/") in ("/run", "/var/run")
    ]
    return unless(not bad, f"mounted: {', '.join(bad)}")


def volumes(found: Found) -> str:
    kinds = {item["Type"] for item in found["Mounts"]} - {"bind", "tmpfs"}
    other = [key for key in ("VolumesFrom", "VolumeDriver") if host(found, key)]
    if kinds or other:
        return f"volumes of kind {', '.join(sorted(kinds) + other)}"
    return system_directories(found)


def proc(found: Found) -> str:
    masked, fixed = set(host(found, "MaskedPaths") or ()), set(host(found, "ReadonlyPaths") or ())
    open_ = (MASKED - masked) | (READ_ONLY - fixed)
    return unless(not open_, f"open: {', '.join(sorted(open_))}")


def published(found: Found) -> list[tuple[str, str]]:
    given = host(found, "PortBindings") or {}
    return [(port, entry.get("HostIp") or "") for port, entries in given.items() for entry in entries or ()]


def no_ports(found: Found) -> str:
    if host(found, "PublishAllPorts"):
        return "all ports are published"
    return unless(not published(found), f"published: {published(found)}")


def privileged_ports(found: Found) -> str:
    given = host(found, "PortBindings") or {}
    low = [
        entry["HostPort"]
        for entries in given.values()
        for entry in entries or ()
        if 0 < int(entry.get("HostPort") or 0) < 1024
    ]
    return unless(not low, f"published below 1024: {', '.join(low)}")


def bound(found: Found) -> str:
    wide = [port for port, address in published(found) if address in ("", "0.0.0.0", "::")]
    return unless(not wide and not host(found, "PublishAllPorts"), f"on all interfaces: {', '.join(wide)}")


def memory(found: Found) -> str:
    return unless(int(host(found, "Memory") or 0) > 0, "no memory cap")


def restart(found: Found) -> str:
    policy = host(found, "RestartPolicy") or {}
    name, count = policy.get("Name") or "no", policy.get("MaximumRetryCount") or 0
    return unless(name == "no" or (name == "on-failure" and count <= 5), f"restart: {name}")


def propagation(found: Found) -> str:
    shared = [target for _, target, _, how in binds(found) if how not in ("", "private", "rprivate")]
    return unless(not shared, f"mounts reach out of it: {', '.join(shared)}")


def devices(found: Found) -> str:
    given = [*(host(found, "Devices") or ()), *(host(found, "DeviceCgroupRules") or ())]
    return unless(not given, f"devices: {given}")


def healthcheck(found: Found) -> str:
    test = (found["Config"].get("Healthcheck") or {}).get("Test") or ["NONE"]
    return unless(test[0] != "NONE", "no health check")


# -- of a sandbox only ---


def profile_is_ours(found: Found) -> str:
    profile = seccomp(found)
    if profile is None:
        return "no list of our own"
    if profile["defaultAction"] not in ("SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS"):
        return "what the list does not name is allowed"
    allowed = {
        name for rule in profile["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]
    }
    return unless(not allowed & NEVER, f"the list allows {', '.join(sorted(allowed & NEVER))}")


def ulimit(name: str, most: int) -> Callable[[Found], str]:
    def check(found: Found) -> str:
        soft, hard = ulimits(found).get(name, (-1, -1))
        return unless(0 <= soft <= hard <= most, f"{name}: {hard if hard >= 0 else 'no limit'}")

    return check


def tmpfs(place: str, *wanted: str) -> Callable[[Found], str]:
    def check(found: Found) -> str:
        given = options(found, place)
        keys = {item.partition("=")[0]: item.partition("=")[2] for item in given}
        missing = [
            item
            for item in wanted
            if (item not in given if not item.endswith("=") else not keys.get(item[:-1]))
        ]
        return unless(not missing, f"{place} lacks {', '.join(missing)}")

    return check


def size(place: str) -> Callable[[Found], str]:
    def check(found: Found) -> str:
        for item in options(found, place):
            name, _, value = item.partition("=")
            if name == "size":
                # Files in memory count against the memory cap, so that no size beyond it means anything.
                return unless(value.isdigit() and 0 < int(value) <= 64 << 30, item)
        return f"{place} has no size"

    return check


def writable(found: Found) -> str:
    """What a sandbox may write: the files that it was handed, and what its policy names below /app."""
    wrong = [
        target
        for _, target, writable, _ in binds(found)
        if writable and target != "/ringfence/out" and not target.startswith("/app/")
    ]
    return unless(not wrong, f"writable: {', '.join(wrong)}")


def not_recursive(found: Found) -> str:
    given = host(found, "Mounts") or ()
    deep = [item["Target"] for item in given if not (item.get("BindOptions") or {}).get("NonRecursive")]
    return unless(not deep and not host(found, "Binds"), f"brings mounts below it along: {', '.join(deep)}")


def environment(found: Found) -> str:
    given = dict(item.split("=", 1) for item in found["Config"]["Env"])
    if given.get("NVIDIA_VISIBLE_DEVICES") != "void" and not host(found, "DeviceRequests"):
        return "the image could ask for GPUs"
    if given.get("PATH") != "/opt/venv/bin:/usr/bin:/bin":
        return f"PATH={given.get('PATH')}"
    if given.get("HOME") != "/app/home" or given.get("TMPDIR") != "/tmp":
        return "HOME or TMPDIR is not the throwaway tree"
    threads = [
        name for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS") if name not in given
    ]
    return unless(not threads, f"as many threads as the machine has cores: {', '.join(threads)}")


def command(found: Found) -> str:
    command = [*(found["Config"]["Entrypoint"] or ()), *(found["Config"]["Cmd"] or ())]
    return unless(command[:2] == ["/opt/venv/bin/python", "-I"], f"starts {command[:2]}")


def streams(found: Found) -> str:
    config = found["Config"]
    if config["Tty"]:
        return "a terminal"
    stdio = "stdio" in (config["Cmd"] or ())
    if stdio:
        return unless(config["OpenStdin"] and config["StdinOnce"], "its stdin stays open for others")
    return unless(not (config["OpenStdin"] or config["StdinOnce"] or config["AttachStdin"]), "an open stdin")


def labels(found: Found) -> str:
    wanted = ("instance", "purpose", "sandbox", "tenant", "extensions", "policy", "uid")
    given = found["Config"]["Labels"]
    missing = [name for name in wanted if not given.get(f"ringfence.{name}")]
    if given.get("ringfence.uid") != uid(found):
        missing.append("uid (another)")
    return unless(not missing, f"nobody would find it: {', '.join(missing)}")


def valued(key: str, *wanted: Any) -> Callable[[Found], str]:
    return lambda found: unless(host(found, key) in wanted, f"{key}={host(found, key)!r}")


def tenants_cgroup(found: Found) -> str:
    parent = str(host(found, "CgroupParent"))
    whole = re.fullmatch(
        r"/docker/ringfence-[a-z0-9][a-z0-9-]*/[a-z0-9][a-z0-9_-]*|system-ringfence-[0-9a-f]{16}\.slice",
        parent,
    )
    return unless(whole is not None, f"CgroupParent={parent!r}")


def own_user(found: Found) -> str:
    own, _, group = str(found["Config"]["User"]).partition(":")
    if host(found, "GroupAdd"):
        return f"groups {host(found, 'GroupAdd')}"
    return unless(own.isdigit() and int(own) >= 100_000 and group == own, f"user {own}, group {group or 0}")


# -- of the stack's services ---


def service_profile(found: Found) -> str:
    profile = seccomp(found)
    if profile is None:
        return "no list of our own"
    denied = profile["defaultAction"] in ("SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS")
    return unless(denied, "what the list does not name is allowed")


def bounded_logs(found: Found) -> bool:
    given = host(found, "LogConfig")
    options_ = given.get("Config") or given.get("options") or {}
    return given["Type"] == "none" or bool(options_.get("max-size") and options_.get("max-file"))


def guarded(found: Found) -> str:
    """What the launcher goes by, as far as it is mounted by itself."""
    loose = [
        target
        for _, target, rw, _ in binds(found)
        if rw and target.rsplit("/", 1)[-1] in ("policies", "core")
    ]
    return unless(not loose, f"writable: {', '.join(loose)}")


def held(*names: str) -> Callable[[Found], str]:
    def check(found: Found) -> str:
        added = {item.upper().removeprefix("CAP_") for item in host(found, "CapAdd") or ()}
        dropped = [item.upper() for item in host(found, "CapDrop") or ()]
        return unless(dropped == ["ALL"] and added == set(names), f"drops {dropped}, holds {sorted(added)}")

    return check

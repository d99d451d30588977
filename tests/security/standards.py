"""What a running container has to be, as the engine itself describes it: the tables, by standard.

The checks stand in ``controls.py``; docs/standards.md shows the same tables with their tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.security.controls import (
    Control,
    Found,
    bound,
    bounded_logs,
    capabilities,
    command,
    devices,
    engine_socket,
    environment,
    filtered,
    guarded,
    healthcheck,
    held,
    host,
    labels,
    labels_unconfined,
    memory,
    namespaces,
    no_new_privileges,
    no_ports,
    not_recursive,
    own_user,
    privileged_ports,
    proc,
    profile_is_ours,
    propagation,
    restart,
    service_profile,
    size,
    streams,
    system_directories,
    tenants_cgroup,
    tmpfs,
    uid,
    ulimit,
    ulimits,
    unless,
    valued,
    volumes,
    writable,
)

POD_SECURITY = (
    Control("PSS-B-HostProcess", "HostProcess (Windows)", lambda found: ""),
    Control("PSS-B-HostNamespaces", "Host Namespaces", namespaces("NetworkMode", "PidMode", "IpcMode")),
    Control(
        "PSS-B-Privileged",
        "Privileged Containers",
        lambda found: unless(not host(found, "Privileged"), "privileged"),
    ),
    Control("PSS-B-Capabilities", "Capabilities (baseline; restricted says more)", capabilities),
    Control("PSS-B-HostPath", "HostPath Volumes", system_directories),
    Control("PSS-B-HostPorts", "Host Ports", no_ports),
    Control("PSS-B-AppArmor", "AppArmor", labels_unconfined("apparmor")),
    Control("PSS-B-SELinux", "SELinux", labels_unconfined("label")),
    Control("PSS-B-Proc", "/proc Mount Type", proc),
    Control("PSS-B-Seccomp", "Seccomp (baseline)", filtered),
    Control(
        "PSS-B-Sysctls", "Sysctls", lambda found: unless(not host(found, "Sysctls"), host(found, "Sysctls"))
    ),
    Control("PSS-R-Volumes", "Volume Types", volumes),
    Control("PSS-R-Escalation", "Privilege Escalation", no_new_privileges),
    Control(
        "PSS-R-NonRoot", "Running as Non-root", lambda found: unless(uid(found) not in ("0", "root"), "root")
    ),
    Control(
        "PSS-R-NonRootUser",
        "Running as Non-root user",
        lambda found: unless(uid(found).isdigit() and uid(found) != "0", f"user {uid(found)}"),
    ),
    Control("PSS-R-Seccomp", "Seccomp (restricted)", filtered),
    Control("PSS-R-Capabilities", "Capabilities (restricted)", capabilities),
)

CIS = (
    Control("CIS-5.2", "If applicable, an AppArmor profile is enabled", labels_unconfined("apparmor")),
    Control("CIS-5.3", "If applicable, SELinux security options are set", labels_unconfined("label")),
    Control("CIS-5.4", "Linux kernel capabilities are restricted within containers", capabilities),
    Control(
        "CIS-5.5",
        "Privileged containers are not used",
        lambda found: unless(not host(found, "Privileged"), "privileged"),
    ),
    Control("CIS-5.6", "Sensitive host system directories are not mounted on containers", system_directories),
    Control("CIS-5.8", "Privileged ports are not mapped within containers", privileged_ports),
    Control("CIS-5.9", "Only needed ports are open on the container", no_ports),
    Control("CIS-5.10", "The host's network namespace is not shared", namespaces("NetworkMode")),
    Control("CIS-5.11", "The memory usage for containers is limited", memory),
    Control(
        "CIS-5.12",
        "CPU priority is set appropriately on containers",
        lambda found: unless(0 < int(host(found, "CpuShares") or 0) < 1024, "no lower CPU shares"),
    ),
    Control(
        "CIS-5.13",
        "The container's root filesystem is mounted as read only",
        lambda found: unless(bool(host(found, "ReadonlyRootfs")), "writable root"),
    ),
    Control("CIS-5.14", "Incoming container traffic is bound to a specific host interface", bound),
    Control("CIS-5.15", "The 'on-failure' container restart policy is set to '5'", restart),
    Control("CIS-5.16", "The host's process namespace is not shared", namespaces("PidMode")),
    Control("CIS-5.17", "The host's IPC namespace is not shared", namespaces("IpcMode")),
    Control("CIS-5.18", "Host devices are not directly exposed to containers", devices),
    Control(
        "CIS-5.19",
        "The default ulimit is overwritten at runtime if needed",
        lambda found: unless("nofile" in ulimits(found), "no limit of open files"),
    ),
    Control("CIS-5.20", "Mount propagation mode is not set to shared", propagation),
    Control("CIS-5.21", "The host's UTS namespace is not shared", namespaces("UTSMode")),
    Control("CIS-5.22", "The default seccomp profile is not disabled", filtered),
    Control(
        "CIS-5.25",
        "Cgroup usage is confirmed",
        lambda found: unless(
            not host(found, "CgroupParent") or not tenants_cgroup(found), tenants_cgroup(found)
        ),
    ),
    Control(
        "CIS-5.26", "The container is restricted from acquiring additional privileges", no_new_privileges
    ),
    Control("CIS-5.27", "Container health is checked at runtime", healthcheck),
    Control(
        "CIS-5.29",
        "The PIDs cgroup limit is used",
        lambda found: unless(int(host(found, "PidsLimit") or 0) > 0, "no cap on processes"),
    ),
    Control(
        "CIS-5.30",
        "Docker's default bridge 'docker0' is not used",
        lambda found: unless(host(found, "NetworkMode") not in ("default", "bridge"), "on docker0"),
    ),
    Control("CIS-5.31", "The host's user namespaces are not shared", namespaces("UsernsMode")),
    Control("CIS-5.32", "The Docker socket is not mounted inside any containers", engine_socket),
)

#: Controls of section 5 that no container can show by itself.
NOT_OF_A_CONTAINER = {
    "CIS-5.1": "swarm mode is the engine's; Ringfence neither needs nor switches it on",
    "CIS-5.7": "no image holds an sshd: tests/unit/sandbox/test_spec.py pins the one program that a sandbox starts",
    "CIS-5.23": "nothing of Ringfence runs 'docker exec', privileged or not",
    "CIS-5.24": "nothing of Ringfence runs 'docker exec', as root or not",
    "CIS-5.28": "which image runs is the operator's setting; images are built together with the stack",
}


#: What a sandbox has to be beyond both standards.
OURS = (
    Control(
        "RF-user", "a uid and group of its own, of no account of the machine, and no other group", own_user
    ),
    Control("RF-seccomp", "a seccomp list of ours that denies by default", profile_is_ours),
    Control(
        "RF-network",
        "no network but loopback",
        lambda found: unless(
            host(found, "NetworkMode") == "none" and found["Config"].get("NetworkDisabled", True) is True,
            "a network",
        ),
    ),
    Control("RF-ipc", "an IPC namespace that no other container can join", valued("IpcMode", "private")),
    Control("RF-cgroupns", "a cgroup namespace of its own", valued("CgroupnsMode", "private")),
    Control(
        "RF-tenant-cgroup",
        "it runs below its tenant's cgroup, so that tenants share the processor and not sandboxes",
        tenants_cgroup,
    ),
    Control(
        "RF-swap",
        "no swap beyond the memory cap",
        lambda found: unless(
            host(found, "MemorySwap") == host(found, "Memory") and host(found, "MemorySwappiness") == 0,
            "swap",
        ),
    ),
    Control(
        "RF-oom-kill",
        "the kernel may end it at the cap",
        lambda found: unless(not host(found, "OomKillDisable"), "OomKillDisable"),
    ),
    Control(
        "RF-oom-first",
        "it goes before anything of the operator's when the machine runs out",
        lambda found: unless(int(host(found, "OomScoreAdj") or 0) >= 100, "OomScoreAdj"),
    ),
    Control(
        "RF-cpus", "a CPU quota", lambda found: unless(int(host(found, "NanoCpus") or 0) > 0, "no quota")
    ),
    Control("RF-fsize", "the largest file", ulimit("fsize", 1 << 50)),
    Control("RF-nofile", "open files", ulimit("nofile", 1 << 20)),
    Control("RF-core", "no core files", ulimit("core", 0)),
    Control("RF-memlock", "no locked memory", ulimit("memlock", 0)),
    Control("RF-msgqueue", "no message queues", ulimit("msgqueue", 0)),
    Control(
        "RF-shm",
        "/dev/shm is no more than a part of the memory cap",
        lambda found: unless(
            0 < int(host(found, "ShmSize") or 0) <= max(int(host(found, "Memory") or 0) // 4, 1), "ShmSize"
        ),
    ),
    Control(
        "RF-tmp",
        "/tmp: nothing to execute, no device, no setuid, an end to files",
        tmpfs("/tmp", "rw", "noexec", "nosuid", "nodev", "nr_inodes=", "mode=1777"),
    ),
    Control(
        "RF-app",
        "/app: its own, no device, no setuid, an end to files",
        tmpfs("/app", "rw", "exec", "nosuid", "nodev", "nr_inodes=", "mode=0755", "uid=", "gid="),
    ),
    Control("RF-tmp-size", "/tmp has a size", size("/tmp")),
    Control("RF-app-size", "/app has a size", size("/app")),
    Control("RF-writable", "nothing is mounted writable but what it was handed", writable),
    Control("RF-mounts", "no mount brings along what is mounted below it", not_recursive),
    Control(
        "RF-devices",
        "no GPU that its policy does not name",
        lambda found: unless(not host(found, "DeviceRequests"), host(found, "DeviceRequests")),
    ),
    Control("RF-environment", "variables of ours, and no GPU by the image's", environment),
    Control("RF-command", "Python without variables, user site and current directory", command),
    Control(
        "RF-cwd",
        "it starts in its throwaway tree",
        lambda found: unless(found["Config"]["WorkingDir"] == "/app", found["Config"]["WorkingDir"]),
    ),
    Control(
        "RF-hostname",
        "it does not learn the machine's name",
        lambda found: unless(found["Config"]["Hostname"] == "sandbox", found["Config"]["Hostname"]),
    ),
    Control("RF-streams", "no terminal, no stdin that others could use", streams),
    Control(
        "RF-logs",
        "the engine writes down nothing of what it prints",
        lambda found: unless(host(found, "LogConfig")["Type"] == "none", "the engine keeps its output"),
    ),
    Control(
        "RF-kill",
        "it is ended by the signal that it cannot catch",
        lambda found: unless(found["Config"].get("StopSignal") == "SIGKILL", "StopSignal"),
    ),
    Control(
        "RF-healthcheck",
        "nothing of its image runs beside the worker; its health is known from its answers",
        lambda found: unless(
            (found["Config"].get("Healthcheck") or {}).get("Test") == ["NONE"], "the image's health check"
        ),
    ),
    Control(
        "RF-restart",
        "it does not come back by itself",
        lambda found: unless((host(found, "RestartPolicy") or {}).get("Name") in ("", "no"), "RestartPolicy"),
    ),
    Control(
        "RF-remains",
        "how it ended can be read afterwards",
        lambda found: unless(not host(found, "AutoRemove"), "AutoRemove"),
    ),
    Control(
        "RF-init",
        "its worker is the first process: when it ends, all end",
        lambda found: unless(not host(found, "Init"), "Init"),
    ),
    Control("RF-labels", "it can be found, and whose it is", labels),
)


def violations(
    found: Found, controls: Sequence[Control], *, excused: Mapping[str, str] | None = None
) -> dict[str, str]:
    """What is wrong, by control. A control that is excused must be wrong: excuses do not outlive their reason."""
    wrong = {control.id: said for control in controls if (said := control.check(found))}
    stale = sorted(set(excused or ()) - wrong.keys())
    assert not stale, f"excused for nothing: {stale}"
    return {name: said for name, said in wrong.items() if name not in (excused or {})}


#: What each container is excused from, and why. An excuse for nothing is an error (``violations``).
SANDBOX_EXCUSED = {
    "CIS-5.27": "its health is known from its answers: a worker that does not answer in time is ended (RF-healthcheck)"
}
_ROOT = "root without capabilities but those few: it owns the files of uids that it gives out, and the engine's socket"
_CHOSEN = "an operator's choice: sandboxes have less (CpuShares 256), so that services come first"
SERVICES_EXCUSED = {
    "launcher": {
        "PSS-B-Capabilities": "CHOWN and DAC_OVERRIDE: a build's directories change hands",
        "PSS-R-Capabilities": "the same",
        "CIS-5.4": "the same",
        "PSS-R-NonRoot": _ROOT,
        "PSS-R-NonRootUser": _ROOT,
        "CIS-5.12": _CHOSEN,
        "CIS-5.15": "unless-stopped: sandboxes end with it, so it has to come back, however often",
        "CIS-5.19": "the engine's own limit of open files; sandboxes have one of theirs",
        "CIS-5.32": "it is the one that may talk to the engine; the host has no such mount, and no sandbox",
    },
    "host": {
        "PSS-B-Capabilities": "DAC_OVERRIDE: it serves and removes what sandboxes wrote, whatever its mode",
        "PSS-R-Capabilities": "the same",
        "CIS-5.4": "the same",
        "PSS-R-NonRoot": _ROOT,
        "PSS-R-NonRootUser": _ROOT,
        "PSS-B-HostPorts": "its one port, on loopback unless the operator says more",
        "CIS-5.9": "the same",
        "CIS-5.11": "tensors in /dev/shm are its own memory and have quotas; RINGFENCE_HOST_MEMORY caps the rest",
        "CIS-5.12": _CHOSEN,
        "CIS-5.15": "unless-stopped: it has the prompts that were accepted",
        "CIS-5.19": "the engine's own limit of open files; connections are bounded by the host itself",
    },
}
BUILD_EXCUSED = {
    "CIS-5.12": "a build may take the CPUs that its quota gives (2)",
    "CIS-5.27": "it is one command with a time limit",
}

#: What a service of the stack has to be beyond both standards.
SERVICE = (
    Control("RF-service-seccomp", "a seccomp list of ours that denies by default", service_profile),
    Control(
        "RF-service-tmp",
        "/tmp has a size, nothing to execute, no device, no setuid",
        tmpfs("/tmp", "size=", "noexec", "nosuid", "nodev"),
    ),
    Control(
        "RF-service-init",
        "processes that it leaves behind are waited for",
        lambda found: unless(bool(host(found, "Init")), "Init"),
    ),
    Control(
        "RF-service-priority",
        "when all cores are wanted it gets its time before what strangers run",
        lambda found: unless(int(host(found, "CpuShares") or 0) >= 32 * 1024, "no higher CPU shares"),
    ),
    Control(
        "RF-service-logs",
        "what it logs has an end",
        lambda found: unless(bounded_logs(found), "logs without end"),
    ),
    Control("RF-service-mounts", "policies and code of the built-in nodes are mounted to be read", guarded),
)
#: And each of them.
OF_SERVICE = {
    "launcher": (
        Control(
            "RF-launcher-capabilities",
            "no capability but CHOWN and DAC_OVERRIDE",
            held("CHOWN", "DAC_OVERRIDE"),
        ),
        Control("RF-launcher-network", "no network", valued("NetworkMode", "none")),
        Control("RF-launcher-memory", "a memory cap", memory),
    ),
    "host": (Control("RF-host-capabilities", "no capability but DAC_OVERRIDE", held("DAC_OVERRIDE")),),
}

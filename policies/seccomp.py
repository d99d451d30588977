"""The seccomp profile of a runc sandbox, as the text the engine wants.

`seccomp.json` denies by default; each entry carries its reason in `comment`. `seccomp-gpu.json` holds the few
entries that only a sandbox with GPUs gets, `seccomp-network.json` those of a sandbox whose policy allows a network:
TCP over its own loopback interface, where the bridge to the host's proxy listens, and `seccomp-build.json` those of a
build that has a network of the engine (`outside`); one that reaches the index by the host's proxy gets what a sandbox
with a network gets. gVisor's own kernel applies the same list to the sandbox (its flag `--oci-seccomp`), on top of the
filter that gVisor puts on itself.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

PROFILE = Path(__file__).parent / "seccomp.json"
GPU_ENTRIES = Path(__file__).parent / "seccomp-gpu.json"
NETWORK_ENTRIES = Path(__file__).parent / "seccomp-network.json"
BUILD_ENTRIES = Path(__file__).parent / "seccomp-build.json"


@cache
def seccomp_profile(
    *, gpus: bool = False, network: bool = False, gvisor: bool = False, outside: bool = False
) -> str:
    """The profile as compact JSON, for `security_opt=["seccomp=" + ...]`."""
    profile = json.loads(PROFILE.read_text("utf-8"))
    if gpus:
        profile["syscalls"] += json.loads(GPU_ENTRIES.read_text("utf-8"))["syscalls"]
    if network or outside:
        more = json.loads(NETWORK_ENTRIES.read_text("utf-8"))
        for entry in profile["syscalls"]:
            entry["names"] = [name for name in entry["names"] if name not in more["narrowed"]]
        profile["syscalls"] = [entry for entry in profile["syscalls"] if entry["names"]] + more["syscalls"]
    if outside:
        profile["syscalls"] += json.loads(BUILD_ENTRIES.read_text("utf-8"))["syscalls"]
    if gvisor:
        # gVisor answers every refusal with EPERM, and only ENOSYS makes glibc fall back from clone3: no thread would
        # start. The namespaces that clone3 could make there are gVisor's own, and none of this machine's kernel.
        for entry in profile["syscalls"]:
            if entry["names"] == ["clone3"]:
                entry.update(action="SCMP_ACT_ALLOW")
                del entry["errnoRet"]
    return json.dumps(profile, separators=(",", ":"))

"""The seccomp profile of a runc sandbox, as the text the engine wants.

`seccomp.json` denies by default; each entry carries its reason in `comment`. `seccomp-gpu.json` holds the few
entries that only a sandbox with GPUs gets. gVisor has a filter of its own for its sentry and ignores both.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

PROFILE = Path(__file__).parent / "seccomp.json"
GPU_ENTRIES = Path(__file__).parent / "seccomp-gpu.json"


@cache
def seccomp_profile(*, gpus: bool = False) -> str:
    """The profile as compact JSON, for `security_opt=["seccomp=" + ...]`."""
    profile = json.loads(PROFILE.read_text("utf-8"))
    if gpus:
        profile["syscalls"] += json.loads(GPU_ENTRIES.read_text("utf-8"))["syscalls"]
    return json.dumps(profile, separators=(",", ":"))

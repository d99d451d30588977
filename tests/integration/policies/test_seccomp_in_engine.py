"""The profile under the real engine: what torch and Python need works, what a sandbox must not reach is refused.

Needs Docker and the node image, so it is skipped, by name, where they are missing.
"""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest

from policies import seccomp_profile

IMAGE = os.environ.get("RINGFENCE_NODE_IMAGE", "ringfence-node:cpu")
PROBE = Path(__file__).parent / "seccomp_probe.py"

pytestmark = pytest.mark.docker


def probe(profile: str) -> dict[str, Any]:
    name = f"ringfence-test-seccomp-{uuid.uuid4().hex[:12]}"
    command = [
        *(
            "docker",
            "run",
            "--rm",
            "--name",
            name,
            "--init",
            "--read-only",
            "--network",
            "none",
            "--user",
            "65534",
        ),
        *("--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--security-opt", f"seccomp={profile}"),
        *("--memory", "2g", "--pids-limit", "256", "--tmpfs", "/tmp:rw,nosuid,nodev,size=256m,mode=1777"),
        *("-e", "HOME=/tmp", "-v", f"{PROBE}:/probe.py:ro", IMAGE, "python", "/probe.py"),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    finally:
        subprocess.run(["docker", "rm", "--force", name], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


TCP = {"socket 2 stream", "socket 2 tcp", "socket 10 stream", "socket 10 tcp"}
UDP = {"socket family 2", "socket family 10"}
PROFILES: dict[str, tuple[dict[str, bool], set[str]]] = {
    "cpu": ({}, set()),
    "gpu-entries": ({"gpus": True}, {"ioctl FIBMAP"}),  # nvidia-uvm's plain numbers include it
    "network": ({"network": True}, TCP),
    "build": ({"outside": True}, TCP | UDP | {"setsockopt IP_RECVERR"}),
}


@pytest.fixture(params=PROFILES)
def profile(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, set[str]]:
    """A profile's file, and what of all that is tried it lets through."""
    wanted, reached = PROFILES[request.param]
    file = tmp_path / "seccomp.json"
    file.write_text(seccomp_profile(**wanted))
    return str(file), reached


def test_python_torch_and_their_helpers_work_and_nothing_else_is_reachable(
    profile: tuple[str, set[str]],
) -> None:
    file, reached = profile
    answer = probe(file)
    assert answer["failed"] == {}
    assert set(answer["reached"]) == reached


def test_the_probe_does_reach_what_it_claims_to_try_when_nothing_filters() -> None:
    answer = probe("unconfined")
    assert answer["failed"] == {}
    assert {"open O_DIRECT", "openat O_DIRECT", "F_SETFL O_DIRECT", "F_SETFL O_DIRECT, long"} <= set(
        answer["reached"]
    )
    assert {
        "io_uring_setup",
        "clone3",
        "memfd_secret",
        "socket family 2",
        "ioctl TIOCSTI",
        "setsockopt TCP_ULP",
    } - set(answer["reached"]) <= {"io_uring_setup", "memfd_secret"}  # a kernel may lack these two

"""Fixtures that every test of sandboxes uses."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest
from blockbuster import blockbuster_ctx

IMAGE = os.environ.get("RINGFENCE_NODE_IMAGE", "ringfence-node:cpu")
# One system call each on a file system in memory: faster than handing it to a thread.
_TMPFS = {
    "adoption.py": {"_as_it_is"},
    "dead_outputs.py": {"_free", "_moved"},
    "grants.py": {"grant", "revoke"},
    "objects.py": {"forget"},
    "outboxes.py": {"allocate", "remove"},
    "room.py": {"sized"},
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def no_blocking_calls() -> Iterator[None]:
    with blockbuster_ctx("sandbox") as blockbuster:
        for function in blockbuster.functions.values():
            for file, functions in _TMPFS.items():
                function.can_block_in(f"sandbox/tensors/{file}", functions)
        yield


@pytest.fixture(scope="session")
def engine() -> None:
    """A container engine with the node image: skipped by name where there is none, failed where there must be one."""
    try:
        found = subprocess.run(
            ["docker", "image", "inspect", IMAGE], capture_output=True, text=True, timeout=30, check=False
        )
        missing = "" if found.returncode == 0 else found.stderr.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        missing = str(error)
    if not missing:
        return
    text = f"no container engine with the image {IMAGE}: {missing}; run 'make up'"
    if os.environ.get("RINGFENCE_REQUIRE_DOCKER"):
        pytest.fail(text)
    pytest.skip(text)


@pytest.fixture(scope="session")
def gvisor_runtime(engine: None) -> None:
    """An engine that knows runsc: skipped by name where it does not, failed where runsc is installed."""
    if has_gvisor():
        return
    text = "this engine has no runtime 'runsc'; run 'make engine'"
    if os.environ.get("RINGFENCE_REQUIRE_GVISOR"):
        pytest.fail(text)
    pytest.skip(text)


def has_gvisor() -> bool:
    """Whether the engine here knows the runtime runsc. Blocking."""
    return "runsc" in _docker("info", "--format", "{{json .Runtimes}}").stdout


def containers(instance: str) -> str:
    """State of every container of an instance, for a failed test's report."""
    label = f"label=ringfence.instance={instance}"
    try:
        return _docker("ps", "-a", "--filter", label, "--format", "{{.ID}} {{.Names}} {{.Status}}").stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)


def _docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=30, check=False)

"""Real client packages, each in an environment of its own: made once from its lock file, kept under build/clients.

The name of an environment's folder ends in the digest of its lock file, so a changed lock makes a new one. Nothing
here is installed into the environment that the tests run in.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stack import ROOT

LOCKS = Path(__file__).parent / "locks"
PLACE = ROOT / "build" / "clients"
_INSTALL_S = 300
_MADE = ".made"


def python_client(name: str) -> Path:
    """The folder with the commands of a Python client's environment."""
    lock = LOCKS / f"{name}.txt"
    place = _place(name, lock)
    if not (place / _MADE).is_file():
        uv = str(Path(sys.executable).parent / "uv")
        shutil.rmtree(place, ignore_errors=True)
        _install("uv", uv, "venv", "--quiet", "--python", sys.executable, str(place))
        python = str(place / "bin" / "python")
        _install(
            "uv", uv, "pip", "install", "--quiet", "--python", python, "--require-hashes", "-r", str(lock)
        )
        (place / _MADE).touch()
    return place / "bin"


def node_client(name: str) -> Path:
    """The folder of a Node client: its node_modules, and room for the programs that use it."""
    lock = LOCKS / name / "package-lock.json"
    place = _place(name, lock)
    if not (place / _MADE).is_file():
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        for file in (lock, lock.with_name("package.json")):
            shutil.copy(file, place)
        # Peers are TypeScript and the like: nothing that runs.
        options = (
            "--ignore-scripts",
            "--legacy-peer-deps",
            "--no-audit",
            "--no-fund",
            "--no-update-notifier",
        )
        _install("npm", "env", f"PATH={node_path()}", "npm", "ci", *options, cwd=place)
        (place / _MADE).touch()
    return place


@functools.cache
def node_path() -> str:
    """The search path with a Node that is new enough first; fails the test where none can be had."""
    done = subprocess.run(
        [str(ROOT / ".ci" / "node.sh")], capture_output=True, text=True, timeout=_INSTALL_S, check=False
    )
    if done.returncode:
        pytest.fail(done.stderr.strip() or done.stdout.strip())
    return f"{done.stdout.strip()}{os.pathsep}{os.environ['PATH']}"


def _place(name: str, lock: Path) -> Path:
    return PLACE / f"{name}-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"


def _install(what: str, *command: str, cwd: Path = ROOT) -> None:
    """Run an installer with this machine's own index settings, found as 'make up' finds them."""
    script = '. "$0"; index_settings; cd "$1"; shift; exec "$@"'
    done = subprocess.run(
        ["bash", "-c", script, str(ROOT / ".ci" / "lib.sh"), str(cwd), *command],
        capture_output=True, text=True, timeout=_INSTALL_S, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.fail(f"{what} could not make the client's environment:\n{done.stdout}\n{done.stderr}")

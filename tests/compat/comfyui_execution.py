"""Run ComfyUI's own ``tests/execution`` against Ringfence: real hosts, real sandboxes, the suite as it is.

    python tests/compat/comfyui_execution.py CHECKOUT [--cache classic|lru:N|none] [--port N] [-- PYTEST ARGUMENTS]

The suite starts ``python main.py`` and talks to the port it asked for. So it is run in a workspace of links to
CHECKOUT in which ``main.py`` alone is ours (``comfyui_main.py``). Its testing packs are added, unmodified, with
``ringfence extension add`` to a data directory of which each server gets a copy. Nothing is written into CHECKOUT, and
the workspace goes away again. The suite's WebSocket client (websocket-client) is installed there when this environment
has none. RINGFENCE_NODE_IMAGE names the image of the sandboxes, as for ``ringfence serve``.

Some of its tests measure (async nodes overlap within 0.3 s, a cached prompt takes less than 0.1 s): give them an idle
machine, or pass ``--skip-timing-checks`` after ``--``. Exit status: that of pytest.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-c", "from api.cli import main; main()"]
READY_S = 120.0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path, help="a checkout of ComfyUI")
    parser.add_argument("--cache", help="use this cache mode whatever the suite asks for")
    parser.add_argument("--port", type=int, help="port for the suite's servers (default: a free one)")
    parser.add_argument("arguments", nargs="*", help="passed to pytest (default: tests/execution)")
    options = parser.parse_args()
    packs = options.checkout.resolve() / "tests/execution/testing_nodes"
    if not packs.is_dir():
        print(f"{options.checkout} is no checkout of ComfyUI: it has no {packs.name}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="ringfence-suite-") as name:
        workspace = Path(name)
        environment = settings(workspace, options.cache)
        try:
            prepare(workspace, environment, sorted(p for p in packs.iterdir() if p.is_dir()))
            suite = link(workspace, options.checkout.resolve())
            command = [
                sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(suite),
                f"--output_dir={workspace / 'output'}", f"--port={options.port or free_port()}",
                *(options.arguments or ["tests/execution"]),
            ]  # fmt: skip
            return subprocess.run(command, cwd=suite, env=environment, check=False).returncode
        finally:
            clean(environment)


def settings(workspace: Path, cache: str | None) -> dict[str, str]:
    """The environment of the suite and of the hosts that it starts."""
    name = f"suite{os.getpid()}"
    environment = {
        **os.environ,
        "RINGFENCE_INSTANCE": name,
        "RINGFENCE_SHM_DIR": f"/dev/shm/ringfence-{name}",
        "RINGFENCE_RUN_DIR": f"/run/ringfence-{name}",
        "RINGFENCE_LOG_LEVEL": os.environ.get("RINGFENCE_LOG_LEVEL", "warning"),
        "RINGFENCE_SUITE_WORKSPACE": str(workspace),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # the suite starts 'python'
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    if cache:
        environment["RINGFENCE_SUITE_CACHE"] = cache
    if importlib.util.find_spec("websocket") is None:
        site = workspace / "site"
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site)]
        subprocess.run([*install, "websocket-client"], check=True)
        environment["PYTHONPATH"] = str(site)
    return environment


def prepare(workspace: Path, environment: dict[str, str], packs: list[Path]) -> None:
    """Make the data directory that every server starts from: a host with the packs added."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {
        **environment,
        "PYTHONPATH": str(ROOT),
        "RINGFENCE_DATA_DIR": str(workspace / "prepared"),
        "RINGFENCE_PORT": str(port),
        "RINGFENCE_URL": url,
    }
    with host(environment, url):
        for pack in packs:
            subprocess.run([*COMMAND, "extension", "add", str(pack)], env=environment, check=True)


@contextmanager
def host(environment: dict[str, str], url: str) -> Iterator[None]:
    """A host that is ready, for as long as it is needed."""
    with subprocess.Popen([*COMMAND, "serve"], env=environment) as process:
        try:
            deadline = time.monotonic() + READY_S
            while not is_ready(url):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"the host at {url} did not become ready")
                time.sleep(0.2)  # a child without a channel to us: its port is all there is to ask
            yield
        finally:
            process.terminate()


def is_ready(url: str) -> bool:
    """Whether the host takes prompts."""
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def link(workspace: Path, checkout: Path) -> Path:
    """A directory that looks like the checkout but for ``main.py``."""
    suite = workspace / "suite"
    suite.mkdir()
    for entry in checkout.iterdir():
        if entry.name not in ("main.py", ".git", "output", "temp", "user"):
            (suite / entry.name).symlink_to(entry)
    (suite / "main.py").symlink_to(Path(__file__).with_name("comfyui_main.py").resolve())
    return suite


def clean(environment: dict[str, str]) -> None:
    """The suite kills its servers, so nobody has taken down their sandboxes."""
    label = f"label=ringfence.instance={environment['RINGFENCE_INSTANCE']}"
    found = subprocess.run(
        ["docker", "ps", "-aq", "--filter", label], capture_output=True, text=True, timeout=60, check=False
    ).stdout.split()
    if found:
        subprocess.run(["docker", "rm", "-f", *found], capture_output=True, timeout=120, check=False)
    for name in ("RINGFENCE_SHM_DIR", "RINGFENCE_RUN_DIR"):
        shutil.rmtree(environment[name], ignore_errors=True)


def free_port() -> int:
    """A port that nobody uses just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())

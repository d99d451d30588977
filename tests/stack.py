"""The compose stack of this checkout, under names, a port and directories of its own; needs the images.

A pytest plugin of the whole suite, so that every level that asks for ``stack`` gets the same one.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pytest_docker.plugin import DockerComposeExecutor, Services

from tests.e2e.comfy import Comfy, once_allowed, used_up

ROOT = Path(__file__).resolve().parents[1]
NAME = f"stack{os.getpid()}"
_READY_S = 120


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and "stack" in item.fixturenames:
            item.add_marker(pytest.mark.stack)
            item.add_marker(pytest.mark.timeout(600))


def _lacks() -> str:
    for command, what in (
        (["docker", "info"], "a container engine ('make engine')"),
        (["docker", "compose", "version"], "docker compose ('make engine')"),
        (
            ["docker", "image", "inspect", _image("HOST", "ringfence-host:latest")],
            "the host's image ('make images')",
        ),
        (
            ["docker", "image", "inspect", _image("NODE", "ringfence-node:cpu")],
            "the node image ('make images')",
        ),
    ):
        try:
            subprocess.run(command, capture_output=True, timeout=60, check=True)
        except (OSError, subprocess.SubprocessError):
            return what
    return ""


def _image(which: str, default: str) -> str:
    return os.environ.get(f"RINGFENCE_{which}_IMAGE", default)


def _index_settings() -> dict[str, str]:
    """How this machine reaches its package index, found as 'make up' finds it."""
    script = (
        ". .ci/lib.sh; index_settings; RINGFENCE_CA_BUNDLE=$(ca_bundle); export RINGFENCE_CA_BUNDLE; env -0"
    )
    done = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    found = dict(line.split("=", 1) for line in done.stdout.split("\0") if "=" in line)
    names = ("RINGFENCE_CA_BUNDLE", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX")
    return {name: found[name] for name in names if found.get(name)}


def free_port(host: str = "127.0.0.1") -> int:
    """A port that whoever is started later can listen at: the kernel gives none of these to outgoing connections."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split()[0])
    while True:
        port = random.randrange(min(10_000, first // 2), first)
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind((host, port))
            return port


def gateway() -> str:
    """This machine as its containers see it: the first address of the engine's network.

    An engine that runs for the first time on its machine does not say which that is.
    """
    form = "{{(index .IPAM.Config 0).Subnet}}"
    done = subprocess.run(
        ["docker", "network", "inspect", "bridge", "--format", form],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return str(next(ipaddress.ip_network(done.stdout.strip(), strict=False).hosts()))


@pytest.fixture(scope="session")
def stack_settings() -> Iterator[dict[str, str]]:
    """What compose fills in; directories stand at the same path inside and outside."""
    if lacking := _lacks():
        if os.environ.get("RINGFENCE_REQUIRE_DOCKER"):
            pytest.fail(f"this machine lacks {lacking}")
        pytest.skip(f"this machine lacks {lacking}")
    port = free_port()
    proxy = f"http://{gateway()}:{free_port(gateway())}"
    places = {
        "RINGFENCE_DATA_DIR": f"/var/lib/ringfence-{NAME}",
        "RINGFENCE_SHM_DIR": f"/dev/shm/ringfence-{NAME}",
        "RINGFENCE_RUN_DIR": f"/run/ringfence-{NAME}",
    }
    settings = {
        **_index_settings(),
        **places,
        # Nobody is there but for the tests that are (e2e/far.py).
        "RINGFENCE_EGRESS_PROXY": proxy,
        "RINGFENCE_PROJECT": f"ringfence-{NAME}",
        "RINGFENCE_INSTANCE": NAME,
        "RINGFENCE_PORT": str(port),
        "RINGFENCE_HOST_IMAGE": _image("HOST", "ringfence-host:latest"),
        "RINGFENCE_NODE_IMAGE": _image("NODE", "ringfence-node:cpu"),
    }
    before = dict(os.environ)
    os.environ.update(settings)
    try:
        yield settings
    finally:
        os.environ.clear()
        os.environ.update(before)
        left = subprocess.run(
            ["docker", "ps", "-aq", "--filter", f"label=ringfence.instance={NAME}"],
            capture_output=True, text=True, timeout=60, check=False,
        ).stdout.split()  # fmt: skip
        if left:
            subprocess.run(["docker", "rm", "-f", *left], capture_output=True, timeout=120, check=False)
        for place in places.values():
            shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="session")
def docker_compose_file(stack_settings: dict[str, str]) -> str:
    return str(ROOT / "compose.yaml")


@pytest.fixture(scope="session")
def docker_compose_project_name(stack_settings: dict[str, str]) -> str:
    return stack_settings["RINGFENCE_PROJECT"]


@pytest.fixture(scope="session")
def docker_setup() -> list[str]:
    return ["up --detach --no-build --remove-orphans"]


@pytest.fixture(scope="session")
def docker_cleanup() -> list[str]:
    return ["down --volumes --remove-orphans --timeout 30"]


@dataclass
class Stack:
    """The running stack and its command."""

    url: str
    compose: DockerComposeExecutor
    settings: dict[str, str]

    @property
    def data_dir(self) -> Path:
        return Path(self.settings["RINGFENCE_DATA_DIR"])

    @property
    def host_container(self) -> str:
        return self.compose.execute("ps --all --quiet host").decode().strip()

    def ringfence(self, *arguments: str, status: int = 0, timeout: float = 300) -> Any:
        """Run the command; returns its JSON when it was asked for, else its text."""
        done = subprocess.run(
            [sys.executable, "-c", "from api.cli import main; main()", *arguments],
            cwd=ROOT, env={**os.environ, "RINGFENCE_URL": self.url}, capture_output=True, text=True, timeout=timeout,
        )  # fmt: skip
        assert done.returncode == status, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout) if "--json" in arguments else done.stdout + done.stderr

    def ask(
        self, method: str, path: str, *, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> tuple[int, bytes]:
        """One request; returns status and body. Waits where the tenant's requests of a second are used up."""
        return once_allowed(
            lambda: self._ask(method, path, headers or {}, body),
            lambda answer: 1.0 if used_up(*answer) else None,
        )

    def _ask(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", int(self.settings["RINGFENCE_PORT"]), timeout=30)
        try:
            connection.request(method, path, body=body, headers=headers)
            response = connection.getresponse()
            try:
                return response.status, response.read()
            finally:
                response.close()
        finally:
            connection.close()

    def wait_until_ready(self) -> None:
        """Wait for /readyz, or fail with what the host says."""
        deadline = time.monotonic() + _READY_S
        while time.monotonic() < deadline:
            try:
                if self.ask("GET", "/readyz")[0] == 200:
                    return
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(0.25)
        pytest.fail(f"the stack was not ready within {_READY_S} s\n{self.logs()}")

    def logs(self) -> str:
        """The end of the logs of host and launcher, for failures."""
        return self.compose.execute("logs --no-color --tail 60 launcher host").decode(errors="replace")

    def states(self) -> str:
        """Every container of this stack and how it is, for failures."""
        form = "{{.Names}}\t{{.Status}}"
        whose = (f"label=ringfence.instance={NAME}", f"name=ringfence-{NAME}-")
        return "".join(
            subprocess.run(
                ["docker", "ps", "--all", "--format", form, "--filter", filter_],
                capture_output=True, text=True, timeout=60, check=False,
            ).stdout
            for filter_ in whose
        )  # fmt: skip


@pytest.fixture(scope="session")
def stack(docker_services: Services, stack_settings: dict[str, str]) -> Stack:
    """The stack, ready."""
    running = Stack(
        f"http://127.0.0.1:{stack_settings['RINGFENCE_PORT']}",
        docker_services._docker_compose,
        stack_settings,
    )
    running.wait_until_ready()
    return running


@pytest.fixture(scope="session")
def comfy(stack: Stack) -> Iterator[Comfy]:
    """The stack as ComfyUI's clients see it."""
    with Comfy(stack.url) as client:
        yield client


Have = Callable[..., None]


@pytest.fixture(scope="session")
def have(stack: Stack) -> Have:
    """``have("gates", "numpy1")``: adds packs of the tests or examples, each once for all tests."""
    added: set[str] = set()

    def add(*names: str) -> None:
        for name in names:
            if name not in added:
                pack = ROOT / "tests" / "extensions" / name
                if not pack.is_dir():
                    pack = next((ROOT / "examples").glob(f"*/{name}/__init__.py")).parent
                policy = pack.parent / f"{name}.yaml"
                granted = ["--policy", str(policy)] if policy.is_file() else []
                stack.ringfence("extension", "add", str(pack), *granted)
                added.add(name)

    return add


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test says how the containers were, and what the host logged."""
    report = yield
    running = getattr(item, "funcargs", {}).get("stack")
    if report.when == "call" and report.failed and isinstance(running, Stack):
        report.sections.append(("the stack's containers", running.states()))
        report.sections.append(("the logs of host and launcher", running.logs()))
    return report

"""'ringfence serve' without compose: the launcher is a process of its own there, too, and ends with its host."""

from __future__ import annotations

import http.client
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.contract.fixtures import IMAGE
from tests.contract.kit import CHECKOUT
from tests.huge_pages import makes_huge_pages
from tests.stack import free_port

pytestmark = [pytest.mark.docker, pytest.mark.timeout(240)]


@pytest.fixture(autouse=True)
def no_blocking_calls() -> None:
    """Nothing here runs on a loop."""


@dataclass
class Alone:
    """A server in the foreground of nobody."""

    process: subprocess.Popen[bytes]
    port: int
    instance: str
    log: Path
    environment: dict[str, str]

    def ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", "/readyz")
            response = connection.getresponse()
            response.read()
            return response.status == 200
        except OSError:
            return False
        finally:
            connection.close()

    @property
    def launcher(self) -> psutil.Process:
        (found,) = [
            child for child in psutil.Process(self.process.pid).children() if "launcher" in child.cmdline()
        ]
        return found

    def containers(self, *more: str) -> list[str]:
        label = f"label=ringfence.instance={self.instance}"
        listing = ["docker", "ps", "-aq", "--filter", label, *more]
        return subprocess.run(listing, capture_output=True, text=True, timeout=60, check=True).stdout.split()


def until(condition: Callable[[], bool], alone: Alone, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds} s\n{alone.log.read_text()[-4000:]}")
        time.sleep(0.1)


@pytest.fixture
def alone(tmp_path: Path, engine: None) -> Iterator[Alone]:
    port = free_port()
    instance = f"alone-{os.getpid()}-{secrets.token_hex(3)}"
    places = {
        "RINGFENCE_SHM_DIR": Path(f"/dev/shm/{instance}"),
        "RINGFENCE_RUN_DIR": Path(f"/run/{instance}"),
        "RINGFENCE_DATA_DIR": Path(f"/var/tmp/{instance}"),
    }
    environment = {
        **os.environ, **{name: str(place) for name, place in places.items()},
        "RINGFENCE_INSTANCE": instance, "RINGFENCE_PORT": str(port), "RINGFENCE_NODE_IMAGE": IMAGE,
        "RINGFENCE_FRONTEND_DIR": "none",
    }  # fmt: skip
    log = tmp_path / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", "from api.cli import main; main()", "serve"],
            cwd=CHECKOUT, env=environment, stdout=stream, stderr=stream,
        )  # fmt: skip
        made = Alone(process, port, instance, log, environment)
        try:
            until(lambda: process.poll() is not None or made.ready(), made)
            assert process.poll() is None, log.read_text()
            yield made
        finally:
            process.kill()
            process.wait(30)
            until(lambda: made.containers() == [], made)
            for place in places.values():
                shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def every_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this run of the tests leaves out."""
    monkeypatch.delenv("RINGFENCE_FAST_PATHS", raising=False)


@pytest.mark.usefixtures("every_way")  # before the server starts
def test_its_objects_are_moved_into_huge_pages_once_it_has_settled(alone: Alone) -> None:
    def huge_kib() -> int:
        said = Path(f"/proc/{alone.process.pid}/smaps_rollup").read_text()
        return int(said.split("AnonHugePages:")[1].split()[0])

    if makes_huge_pages():
        until(lambda: huge_kib() >= 16 * 1024, alone)
    assert alone.ready()


def test_the_launcher_of_a_host_that_is_killed_ends_its_sandboxes_and_itself(alone: Alone) -> None:
    launcher = alone.launcher
    until(lambda: len(alone.containers()) >= 1, alone)  # the built-in nodes
    environment = launcher.environ()
    assert "RINGFENCE_OPERATOR_TOKEN" not in environment
    alone.process.kill()
    alone.process.wait(30)
    launcher.wait(60)
    assert alone.containers() == []


def test_a_host_that_is_told_to_stop_takes_its_launcher_along(alone: Alone) -> None:
    launcher = alone.launcher
    until(lambda: len(alone.containers()) >= 1, alone)
    alone.process.send_signal(signal.SIGTERM)
    assert alone.process.wait(60) == 0, alone.log.read_text()
    assert not launcher.is_running()
    assert alone.containers() == []
    assert not Path(f"/run/{alone.instance}/{alone.instance}.launcher/launcher.sock").exists()


def test_a_second_host_of_the_same_data_is_refused_and_ends_nothing_of_the_first(alone: Alone) -> None:
    of_nodes = ("--filter", "label=ringfence.extensions=core")
    until(lambda: len(alone.containers(*of_nodes)) >= 1, alone)
    launcher, before = alone.launcher, set(alone.containers(*of_nodes))
    for changed in ({}, {"RINGFENCE_PORT": str(free_port())}):  # the port of the first, and one of its own
        done = subprocess.run(
            [sys.executable, "-c", "from api.cli import main; main()", "serve"],
            cwd=CHECKOUT, env={**alone.environment, **changed}, capture_output=True, text=True, timeout=120,
            check=False,
        )  # fmt: skip
        assert done.returncode == 1, done.stderr
        assert ("cannot listen" if not changed else "another") in done.stderr
    assert launcher.is_running()
    assert before <= set(alone.containers(*of_nodes))
    assert alone.ready()


def test_a_launcher_that_cannot_start_says_why_through_its_host(tmp_path: Path) -> None:
    environment = {
        **os.environ, "RINGFENCE_DATA_DIR": str(tmp_path / "data"), "RINGFENCE_RUN_DIR": str(tmp_path / "run"),
        "RINGFENCE_SHM_DIR": f"/dev/shm/none-{os.getpid()}", "RINGFENCE_INSTANCE": f"none-{os.getpid()}",
        "RINGFENCE_PORT": str(free_port()), "DOCKER_HOST": f"unix://{tmp_path}/no.sock",
        "RINGFENCE_FRONTEND_DIR": "none",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", "from api.cli import main; main()", "serve"],
        cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    shutil.rmtree(environment["RINGFENCE_SHM_DIR"], ignore_errors=True)
    assert done.returncode == 1
    assert "the container engine does not answer" in done.stderr
    assert "ringfence doctor" in done.stderr

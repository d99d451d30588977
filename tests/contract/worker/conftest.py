from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contract.worker.workerhost import WorkerHost

TRANSPORTS = ("socket", "stdio")


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[Callable[..., WorkerHost]]:
    """Start workers for one test; whatever still runs at its end is killed."""
    hosts: list[WorkerHost] = []

    def start(transport: str = "socket", *, hello: bool = True) -> WorkerHost:
        host = WorkerHost(tmp_path / f"worker{len(hosts)}", transport)
        hosts.append(host)
        if hello:
            host.hello()
        return host

    yield start
    for host in hosts:
        host.close()


@pytest.fixture(scope="session", params=TRANSPORTS)
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerHost]:
    """One worker per transport for all tests that leave it as they found it: the friendly packs are loaded."""
    host = WorkerHost(tmp_path_factory.mktemp("shared") / request.param, request.param)
    try:
        host.hello()
        for pack in ("friendly_v1", "friendly_v3", "draft_v3", "flow", "gates", "odd_v3", "hostile_print"):
            host.load(pack)
        yield host
    finally:
        host.close()

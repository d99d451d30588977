"""Host and launcher over their channel: every verb there and back, and what is left when one of them goes."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from policies import ExtensionName, SandboxId
from sandbox import ExtensionFiles, LauncherClient, StartError
from sandbox.launcher import build_verb as verb
from sandbox.launcher.client import LauncherGoneError
from sandbox.launcher.service import ServiceLimits
from sandbox.launcher.verbs import Ending, LauncherEvent, SandboxRequest, Usage
from tests.contract.kit import TENANT, Policies, places
from tests.contract.recorder import Recorder, until
from tests.contract.zones import LauncherZone

pytestmark = pytest.mark.anyio
BOX = SandboxId("box-1")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Pair:
    """A zone, and a request that it grants."""

    def __init__(self, root: Path) -> None:
        self.places = places(root / "data")
        self.policies = Policies(root / "policies")
        self.behind = Recorder()
        self.zone = LauncherZone(
            self.places,
            self.policies.store,
            limits=ServiceLimits(orphan_s=0.2, request_s=5),
            launcher=self.behind,
            builder=self.behind,
        )

    def request(self, sandbox: str = BOX) -> SandboxRequest:
        name = ExtensionName("pack")
        code = self.places.tenant(TENANT) / "extensions" / name / "hash"
        files = ExtensionFiles(name, code, None, "")
        return SandboxRequest(SandboxId(sandbox), TENANT, (files,), "digest")

    async def restart(self) -> None:
        """The service ends and another takes its place, as after a crash of the launcher."""
        self.zone.kill_service()
        await until(lambda: not self.places.launcher_socket.exists())
        await self.zone.restart_service()


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    made = Pair(tmp_path)
    async with made.zone:
        yield made


async def test_every_verb_says_the_same_on_both_sides(pair: Pair) -> None:
    client, behind = pair.zone, pair.behind
    started = await client.ensure(pair.request())
    assert (started.sandbox, started.container, started.uid) == (BOX, "c0ffee", 200_000)
    assert started.seconds == (("create", 0.5), ("start", 0.25))
    assert behind.started[0].names == ("pack",)
    assert [item.sandbox for item in await client.list()] == [BOX]
    assert await client.stats(BOX) == Usage(memory=1 << 40, pids=3, oom_kills=None, pids_refused=0)
    assert (await client.logs(BOX)).startswith("words")
    assert await client.stop(BOX, grace_s=1.0) == Ending(137, True, 2, 0, True, "bye")
    image = await client.image()
    assert image == await behind.image()
    assert await client.sweep() == 0


@pytest.mark.parametrize("step", ["resolve", "tools", "install"])
async def test_a_builds_lines_come_while_it_runs(pair: Pair, step: verb.Step) -> None:
    pair.policies.write("pack", "build: {source_builds: true}\n")
    lines: list[str] = []
    directory = pair.places.environments / verb.JOBS / "ab-cd"
    job = verb.BuildJob(
        id="ab-ef", tenant=TENANT, directory=directory, cache=directory, network=True, source_builds=False,
        timeout_s=5, extension=ExtensionName("pack"),
    )  # fmt: skip
    outcome = await pair.zone.run(job, step, lines.append)
    assert (outcome.exit_code, outcome.lines, lines) == (0, ("all good",), [f"{step} begins"])
    assert pair.behind.built[0].directory == directory


async def test_a_sandboxs_stream_is_handed_over_and_the_launcher_keeps_none(pair: Pair) -> None:
    ours, pair.behind.stdio = socket.socketpair()
    with ours:
        started = await pair.zone.ensure(pair.request())
        assert started.stdio is not None
        with started.stdio as theirs:
            await anyio.to_thread.run_sync(ours.sendall, b"hello")
            await anyio.wait_readable(theirs)
            assert theirs.recv(16) == b"hello"
        assert pair.behind.stdio.fileno() == -1
        await anyio.wait_readable(ours)
        assert ours.recv(16) == b""


async def test_a_call_that_is_cancelled_leaves_no_sandbox(pair: Pair) -> None:
    pair.behind.slow = True
    async with anyio.create_task_group() as group:
        group.start_soon(pair.zone.ensure, pair.request())
        await until(lambda: pair.behind.started)
        group.cancel_scope.cancel()
    await until(lambda: pair.behind.stopped)
    assert pair.behind.stopped == [BOX]


async def test_a_refusal_keeps_its_words_and_its_hint(pair: Pair) -> None:
    pair.policies.write("pack", "memory: lots\n")
    directory = pair.places.environments / verb.JOBS / "ab-cd"
    job = verb.BuildJob(
        id="ab-ef", tenant=TENANT, directory=directory, cache=directory, network=True, source_builds=False,
        timeout_s=5, extension=ExtensionName("pack"),
    )  # fmt: skip
    with pytest.raises(StartError, match=r"policies/pack.yaml:1"):
        await pair.zone.run(job, "resolve", lambda _: None)


async def test_many_calls_run_at_the_same_time(pair: Pair) -> None:
    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(pair.zone.ensure, pair.request(f"box-{number}"))
    assert len(pair.behind.started) == 20


# -- one of them goes ------------------------------------------------------------------------------------------------


async def test_a_launcher_that_was_just_started_anew_learns_who_asks_before_it_answers(pair: Pair) -> None:
    for _ in range(3):
        await pair.restart()
        assert (await pair.zone.image()).variant == "cpu"


async def test_who_asks_for_figures_while_the_launcher_is_gone_gets_none(pair: Pair) -> None:
    await pair.zone.ensure(pair.request())
    pair.zone.kill_service()
    await until(lambda: not pair.places.launcher_socket.exists())
    assert await pair.zone.stats(BOX) == Usage()
    await pair.zone.restart_service()


async def test_events_that_came_while_the_connection_was_broken_are_not_lost(pair: Pair) -> None:
    host = pair.zone.service._attendance.host
    assert host is not None
    async with pair.zone.events() as events:
        pair.behind.tell(BOX, "oom")
        with anyio.fail_after(60):
            assert await events.receive() == LauncherEvent(BOX, "oom")
        host.gone.set()  # the connection breaks; the host comes back by itself
        for number in range(3):
            pair.behind.tell(f"box-{number}", "died")
        with anyio.fail_after(60):
            got = [await events.receive() for _ in range(3)]
    assert [event.sandbox for event in got] == ["box-0", "box-1", "box-2"]
    assert pair.behind.stopped == []


async def test_a_launcher_that_was_started_anew_is_found_and_its_sandboxes_are_known_to_be_dead(
    pair: Pair,
) -> None:
    await pair.zone.ensure(pair.request())
    async with pair.zone.events() as events:
        await pair.restart()
        with anyio.fail_after(60):
            assert await events.receive() == LauncherEvent(BOX, "died")
    assert "started anew" in (await pair.zone.stop(BOX)).last_words
    assert (await pair.zone.ensure(pair.request("box-2"))).sandbox == "box-2"


async def test_calls_while_there_is_no_launcher_fail_by_name_and_a_start_waits_for_one(pair: Pair) -> None:
    zone = pair.zone
    zone.kill_service()
    await until(lambda: not pair.places.launcher_socket.exists())
    with pytest.raises(LauncherGoneError, match="the launcher does not answer at"):
        await zone.list()
    started: list[str] = []

    async def start() -> None:
        started.append((await zone.ensure(pair.request())).sandbox)

    async with anyio.create_task_group() as group:
        group.start_soon(start)
        await zone.restart_service()
        await until(lambda: started)


async def test_sandboxes_of_a_host_that_does_not_come_back_are_ended(pair: Pair) -> None:
    await pair.zone.ensure(pair.request())
    pair.zone._is_leaving = True  # as if it were killed: nothing is said, and nobody connects again
    host = pair.zone.service._attendance.host
    assert host is not None
    host.gone.set()
    await until(lambda: pair.behind.stopped)
    assert pair.behind.stopped == [BOX]


async def test_another_host_ends_what_the_one_before_left(pair: Pair) -> None:
    await pair.zone.ensure(pair.request())
    pair.zone._is_leaving = True
    async with LauncherClient(pair.places.launcher_socket) as other:
        assert pair.behind.stopped == [BOX]
        with pytest.raises(StartError, match="does not know this host"):
            await pair.zone.ensure(pair.request("box-2"))
        assert (await other.ensure(pair.request("box-3"))).sandbox == "box-3"


async def test_leaving_ends_what_still_runs_and_removes_the_socket(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    async with pair.zone:
        await pair.zone.ensure(pair.request())
    assert pair.behind.stopped == [BOX]
    assert not pair.places.launcher_socket.exists()


async def test_the_socket_of_a_launcher_that_was_killed_is_replaced(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    path = pair.places.launcher_socket
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with pair.zone:
        assert await pair.zone.list() == ()


async def test_a_place_that_cannot_be_listened_at_is_named(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.places.launcher_socket.parent.mkdir(parents=True)
    pair.places.launcher_socket.mkdir()
    with pytest.raises(StartError, match="the launcher cannot listen at"):
        async with pair.zone:
            pass
    pair.places.launcher_socket.rmdir()
    pair.places.launcher_socket.parent.rmdir()

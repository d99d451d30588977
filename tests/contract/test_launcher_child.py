"""The launcher that a host begins before it needs one: it does nothing until it is told to."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

import anyio
import pytest

from policies import PolicyStore
from sandbox import BuildSettings, IndexSettings, Places, StartError, launcher_child
from sandbox.launcher.child import TIE, BegunLauncher, Tie
from sandbox.launcher.process import LauncherProgram
from sandbox.launcher.service import ServiceLimits
from sandbox.launcher.settings import LaunchSettings

#: A launcher that says what it is told to say once it may begin, and ends with its host.
SCRIPT = """
import os, sys, anyio
from sandbox.launcher.child import Tie
async def main():
    tie = Tie(os.environ)
    if await tie.told():
        os.write(2, b"begun")
        tie._say(eval(sys.argv[1]))
        await tie.cut()
anyio.run(main)
"""


def begun(word: str) -> BegunLauncher:
    return BegunLauncher([sys.executable, "-c", SCRIPT, word], os.environ)


@pytest.mark.anyio
async def test_a_launcher_is_ready_when_it_was_told_to_begin_and_says_so() -> None:
    launcher = await anyio.to_thread.run_sync(begun, "{'ready': True}")
    async with launcher_child(launcher):
        assert launcher.process.poll() is None
    assert launcher.process.returncode == 0


@pytest.mark.anyio
async def test_its_own_reason_for_not_starting_is_told() -> None:
    launcher = await anyio.to_thread.run_sync(begun, "{'error': 'no engine', 'hint': 'start it'}")
    with pytest.raises(StartError, match="no engine"):
        async with launcher_child(launcher):
            pass
    assert launcher.process.returncode == 0


@pytest.mark.anyio
async def test_one_that_is_no_longer_needed_is_let_go_without_having_begun(
    capfd: pytest.CaptureFixture[str],
) -> None:
    launcher = await anyio.to_thread.run_sync(begun, "{'ready': True}")
    await anyio.to_thread.run_sync(launcher.close)
    assert launcher.process.returncode == -signal.SIGKILL
    assert capfd.readouterr().err == ""
    await anyio.to_thread.run_sync(launcher.close)  # whoever began it closes it, whether or not it was used


@pytest.mark.anyio
async def test_one_that_died_meanwhile_is_an_error_with_advice() -> None:
    command = [sys.executable, "-c", "raise SystemExit(3)"]
    launcher = await anyio.to_thread.run_sync(lambda: BegunLauncher(command, os.environ))
    await anyio.to_thread.run_sync(launcher.process.wait, 60)
    with pytest.raises(StartError, match="did not start"):
        async with launcher_child(launcher):
            pass


def test_a_launcher_whose_host_is_gone_before_its_word_touches_nothing(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    places = Places("x", tmp_path / "data", tmp_path / "shm", tmp_path / "run")
    program = LauncherProgram(
        places, PolicyStore(tmp_path), LaunchSettings(), BuildSettings("x"), IndexSettings(), ServiceLimits()
    )

    async def run() -> None:
        with anyio.fail_after(60):
            await program.run({TIE: str(theirs.detach())})

    anyio.run(run)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.anyio
async def test_the_launcher_of_a_service_waits_for_nobody() -> None:
    assert await Tie({}).told()

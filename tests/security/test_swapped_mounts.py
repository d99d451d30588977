"""A host in somebody else's hands swaps a directory for a link between the launcher's look and the engine's mount.

The swapping is done by a process with what the host's container has: uid 0, CAP_DAC_OVERRIDE and no other capability.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from policies import SandboxId
from sandbox import Places, StartError, tree_stamp
from sandbox.launcher.holding import Holder
from sandbox.patience import patiently
from tests.contract.kit import TENANT, World, in_docker, world

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives directories away")

NOBODY = 199_998

#: Rename each directory of the path, and put a link in its place; says for each whether it could.
SWAP = """
import os, sys
target = sys.argv[1]
for path in sys.argv[2:]:
    try:
        os.rename(path, path + ".old")
        os.symlink(target, path)
        print("swapped", path)
    except OSError as error:
        print(error.errno, path)
"""
#: Swap to and fro, as fast as can be, until told to stop.
RACE = """
import os, sys
target, path = sys.argv[1:]
os.symlink(target, path + ".link")
print("ready", flush=True)
libc = __import__("ctypes").CDLL(None)
os.set_blocking(0, False)
while sys.stdin.buffer.raw.read(1) is None:
    # RENAME_EXCHANGE: no moment at which nothing stands there.
    libc.renameat2(-100, path.encode(), -100, (path + ".link").encode(), 2)
"""

HOLD = """
import sys, pathlib
sys.path[:0] = [sys.argv[1]]
from sandbox import Places
from sandbox.launcher.holding import Holder
paths = [pathlib.Path(each) for each in sys.argv[2:]]
with Holder(Places("main", *paths[:3]), 199_998).held(paths[3:]):
    print("held", flush=True)
    __import__("signal").pause()
"""
#: Many starts at once, of two launchers, by a process with what the launcher's container has; prints what went wrong.
HOLD_TOGETHER = """
import pathlib, sys, threading
sys.path[:0] = [sys.argv[1]]
sys.setswitchinterval(1e-6)
from sandbox import Places, StartError
from sandbox.launcher.holding import Holder
paths = [pathlib.Path(each) for each in sys.argv[2:]]
holders = [Holder(Places("main", *paths[:3]), 199_998) for _ in range(2)]
together = threading.Barrier(8)
def start(holder):
    for _ in range(100):
        together.wait()
        try:
            with holder.held(paths[3:]):
                pass
        except StartError as error:
            print(error, flush=True)
threads = [threading.Thread(target=start, args=(holders[n % 2],)) for n in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
UNLINK = """
import os, sys
sys.path[:0] = [sys.argv[2]]
from sandbox.patience import patiently
patiently(lambda: os.unlink(sys.argv[1]))
print("gone")
"""
CHECKOUT = str(Path(__file__).parents[2])


def as_host(script: str, *arguments: object, capabilities: str = "+dac_override") -> list[str]:
    """The command that runs ``script`` as the host's process could."""
    drop = f"-all,{capabilities}"
    return [
        "setpriv", f"--inh-caps={drop}", f"--bounding-set={drop}", "--no-new-privs",
        sys.executable, "-I", "-c", script, *map(str, arguments),
    ]  # fmt: skip


def swap(target: Path, *paths: Path) -> list[str]:
    """What became of each."""
    done = subprocess.run(
        as_host(SWAP, target, *paths), capture_output=True, text=True, timeout=60, check=True
    )
    return [line.split()[0] for line in done.stdout.splitlines()]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def here(tmp_path: Path) -> Places:
    made = Places("main", tmp_path / "data", tmp_path / "shm", tmp_path / "run")
    for directory in boxes(made):
        directory.mkdir(parents=True)
    return made


def boxes(here: Places) -> list[Path]:
    box = SandboxId("b")
    tenant = here.tenant(TENANT)
    return [
        here.inbox(box), here.outbox(box), here.socket_directory(box), here.egress_directory(box),
        tenant / "extensions" / "pack" / "hash", tenant / "output", here.environments / "key" / "site",
    ]  # fmt: skip


def chain(here: Places, path: Path) -> list[Path]:
    """All that an attacker could swap on the way to ``path``."""
    roots = (here.data, here.shm_root, here.run_root)
    return [each for each in (path, *path.parents) if any(root in each.parents for root in roots)]


@pytest.mark.parametrize("which", range(7))
def test_no_directory_on_the_way_to_a_mount_can_be_swapped_while_it_is_held(
    here: Places, tmp_path: Path, which: int
) -> None:
    path = boxes(here)[which]
    every = chain(here, path)
    with Holder(here, NOBODY).held([path]):
        assert swap(tmp_path, *every) == ["1"] * len(every)
        # What the host has to do there meanwhile, it can do.
        (path.parent / "new").mkdir()
        (path.parent / "new").rmdir()
    assert all(not each.is_symlink() for each in every)
    # And it is the holding that holds: the next moment, each can be.
    assert swap(tmp_path, path) == ["swapped"]


def test_what_was_held_is_as_it_was_afterwards(here: Places) -> None:
    output = here.tenant(TENANT) / "output"
    output.chmod(0o1777)
    every = {each for path in boxes(here) for each in (*chain(here, path), here.data)}
    before = {each: (each.stat().st_uid, each.stat().st_mode) for each in every}
    stamp = tree_stamp(here.environments / "key" / "site")
    with Holder(here, NOBODY).held(boxes(here)):
        assert {each.stat().st_uid for each in every} == {NOBODY}
        assert output.stat().st_mode == before[output][1]
        assert tree_stamp(here.environments / "key" / "site") == stamp
    assert {each: (each.stat().st_uid, each.stat().st_mode) for each in every} == before
    assert tree_stamp(here.environments / "key" / "site") == stamp


def test_a_directory_is_held_until_the_last_start_that_needs_it(here: Places, tmp_path: Path) -> None:
    inbox, outbox = here.inbox(SandboxId("b")), here.outbox(SandboxId("b"))
    one, other = Holder(here, NOBODY), Holder(here, NOBODY)  # two launchers can share /dev/shm
    with one.held([outbox]):
        with other.held([inbox]), one.held([inbox]):
            pass
        assert swap(tmp_path, outbox.parent) == ["1"]
    assert outbox.parent.stat().st_uid == os.geteuid()


def test_starts_that_hold_the_same_directories_at_the_same_moment_do_not_get_in_each_others_way(
    here: Places,
) -> None:
    every = {each for path in boxes(here) for each in (*chain(here, path), path)}
    places = (CHECKOUT, here.data, here.shm_root, here.run_root, *boxes(here))
    done = subprocess.run(
        as_host(HOLD_TOGETHER, *places, capabilities="+chown,+dac_override"),
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert done.stdout == ""
    assert done.stderr == ""
    assert {each.stat().st_uid for each in every} == {os.geteuid()}


def test_a_launcher_that_was_killed_gives_back_what_it_held_when_it_starts_again(here: Places) -> None:
    every = {each for path in boxes(here) for each in (*chain(here, path), path)}
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            HOLD,
            CHECKOUT,
            *map(str, (here.data, here.shm_root, here.run_root, *boxes(here))),
        ],
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        process.kill()
    assert {each.stat().st_uid for each in every} == {NOBODY}
    assert Holder(here, NOBODY).release_all() == len(every | {here.data, here.shm_root, here.run_root})
    assert {each.stat().st_uid for each in every} == {os.geteuid()}


@pytest.mark.parametrize("kind", ["link", "file", "sandbox's"])
def test_what_is_no_directory_of_ours_is_not_held(here: Places, kind: str) -> None:
    place = here.inbox(SandboxId("b"))
    if kind == "sandbox's":
        os.chown(place, 200_001, 200_001)
    else:
        place.rmdir()
        place.symlink_to("/etc") if kind == "link" else place.touch()
    with pytest.raises(StartError, match="cannot be mounted"), Holder(here, NOBODY).held([place]):
        pytest.fail("held")
    assert here.shm.stat().st_uid == os.geteuid()


@contextmanager
def racing(path: Path, target: Path) -> Iterator[None]:
    """``path`` is swapped for a link to ``target``, over and over."""
    with subprocess.Popen(
        as_host(RACE, target, path), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"ready\n"
        yield
        process.stdin.close()
    assert process.returncode == 0


def test_whoever_races_the_look_gets_an_error_or_the_directory_held(here: Places, tmp_path: Path) -> None:
    place = here.tenant(TENANT) / "output"
    (place / "ours").touch()
    held = refused = 0
    with racing(place, tmp_path / "run"):
        deadline = time.monotonic() + 60
        while (held < 50 or refused < 50) and time.monotonic() < deadline:
            try:
                with Holder(here, NOBODY).held([place]):
                    # As the engine would: by name, following links.
                    assert all(os.path.exists(place / "ours") for _ in range(20))
                    held += 1
            except StartError:
                refused += 1
    assert min(held, refused) > 0, (held, refused)  # each side won at times, and we were never deceived


def test_who_removes_a_file_for_a_user_waits_out_a_start(here: Places) -> None:
    place = here.tenant(TENANT) / "output"
    (place / "picture").touch()
    os.chown(place / "picture", 200_001, 200_001)
    holding = Holder(here, NOBODY).held([place])
    holding.__enter__()
    with subprocess.Popen(as_host(UNLINK, place / "picture", CHECKOUT), stdout=subprocess.PIPE) as process:
        again = threading.Timer(0.3, lambda: holding.__exit__(None, None, None))
        again.start()
        assert process.stdout is not None
        assert process.stdout.readline() == b"gone\n"
        again.join()
    assert not (place / "picture").exists()


@pytest.mark.parametrize("number", [1, 13])
def test_nobody_waits_where_nothing_is_held(here: Places, number: int) -> None:
    tried = []

    def refused() -> None:
        tried.append(1)
        raise PermissionError(number, "no")

    fd = os.open(here.data, os.O_RDONLY)
    try:
        with pytest.raises(PermissionError):
            patiently(refused, fd)
    finally:
        os.close(fd)
    assert len(tried) <= 2


# -- with a real engine --------------------------------------------------------------------------------------------

READS = """
import os
class Reads:
    INPUT_TYPES = classmethod(lambda cls: {"required": {}})
    RETURN_TYPES = ("STRING",)
    FUNCTION = "run"
    CATEGORY = "t"
    def run(self):
        return (",".join(sorted(os.listdir("/app/input"))),)
NODE_CLASS_MAPPINGS = {"Reads": Reads}
"""


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[World]:
    async with world(
        tmp_path / "world", in_docker, policies={"pack": "paths:\n  - tenant: input\n    access: ro\n"}
    ) as made:
        made.shelf.write("pack", READS)
        (made.places.tenant(TENANT) / "input").mkdir(parents=True)
        (made.places.tenant(TENANT) / "input" / "own.png").touch()
        yield made


async def read_with_a_swap(at: World, secret: Path, *, held: bool) -> tuple[list[str], Any]:
    """What the pack sees of its input when the host swaps it at the worst moment: the engine is about to mount."""
    place = at.places.tenant(TENANT) / "input"
    docker = at.launcher.docker
    start, fates = docker._engine.api.start, []

    def swap_then_start(container: str) -> None:
        if any(record.launched.container == container for record in docker._records.values()):
            fates.extend(swap(secret, place))  # not at the launcher's own self-test
        start(container)

    docker._engine.api.start = swap_then_start
    if not held:
        docker._holder = Holder(Places("none", Path("/none"), Path("/none"), Path("/none")), NOBODY)
    result = await at.run("pack", "Reads")
    return fates, result


@pytest.mark.docker
@pytest.mark.anyio
async def test_the_engine_mounts_what_was_looked_at_although_the_host_swaps_it(
    at: World, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "of-the-machine").touch()
    fates, result = await read_with_a_swap(at, secret, held=True)
    assert fates == ["1"]
    assert "own.png" in str(result)
    assert "of-the-machine" not in str(result)


@pytest.mark.docker
@pytest.mark.anyio
async def test_without_the_holding_the_engine_mounts_what_the_host_put_there(
    at: World, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "of-the-machine").touch()
    fates, result = await read_with_a_swap(at, secret, held=False)
    assert fates == ["swapped"]
    assert "of-the-machine" in str(result)

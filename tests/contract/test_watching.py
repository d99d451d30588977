"""A watched sandbox: what is learned of a pack suffices, a notch less does not, and a lie gains nothing."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from policies import EffectivePolicy, ExtensionName, LearnedPolicy, asks_more, learn_policy
from sandbox import EndedError, NodeRaisedError, ProtocolViolationError, QuotaError, WatchedError
from tests.contract.kit import ANSWER, TENANT, World, call, ignore, in_docker, world

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("engine")]

#: Needs 200 MiB, 12 threads, 3 MiB of files, 2 MiB of output, reads an input, and looks for things that are not there.
NEEDY = """
import mmap, os, socket, threading, time
import numpy as np

os.environ.get("MY_API_TOKEN")

class Needy:
    INPUT_TYPES = classmethod(lambda cls: {"required": {}})
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"
    CATEGORY = "t"
    def run(self):
        held = mmap.mmap(-1, 200 * 2**20)
        for at in range(0, len(held), 4096):
            held[at] = 1
        done = threading.Event()
        threads = [threading.Thread(target=done.wait) for _ in range(12)]
        for thread in threads:
            thread.start()
        done.set()
        for thread in threads:
            thread.join()
        with open(f"/app/output/{os.getpid()}-{time.time_ns()}.bin", "wb") as file:
            file.write(b"x" * (3 * 2**20))
        with open("/app/input/given.txt") as file:
            file.read()
        for path in ("/models/big.safetensors", "/app/models/there.bin"):
            try:
                open(path)
            except OSError:
                pass
        try:
            socket.getaddrinfo("api.example.com", 443)
        except OSError:
            pass
        held.close()
        return (np.zeros(2**19, dtype=np.float32),)
NODE_CLASS_MAPPINGS = {"Needy": Needy}
"""

LIAR = """
import sys
worker = sys.modules["ringfence_runtime.sdk.host"].connected()
def say(kind, name, value=1):
    worker.notify("watch/seen", {"kind": kind, "name": name, "value": value})
for kind in ("tmp", "scratch", "nofile"):
    say(kind, "", 2**50)
say("connect", "evil.example.com:443", 10**6)
say("read", "/etc/shadow")
say("write", "/app/user/x")
say("read", "/x\\nmemory: 16GiB")
say("variable", "LD_PRELOAD")
say("variable", "x: y")
for number in range(3000):
    say("read", f"/opt/{number}")
class Liar:
    INPUT_TYPES = classmethod(lambda cls: {"required": {}})
    RETURN_TYPES = ("INT",)
    FUNCTION = "run"
    CATEGORY = "t"
    def run(self):
        return (1,)
NODE_CLASS_MAPPINGS = {"Liar": Liar}
WEB_DIRECTORY = "./js"
"""


def effective(at: World, name: str) -> EffectivePolicy:
    return at.policies.store.effective(ExtensionName(name), TENANT)


async def learn(at: World, name: str, *classes: str) -> LearnedPolicy:
    """Watch the calls of some nodes; errors of theirs are part of what is seen."""
    now = effective(at, name)
    async with at.manager.watch(TENANT, ExtensionName(name)) as watch:
        for class_type in classes:
            try:
                await at.run(name, class_type)
            except (EndedError, NodeRaisedError, QuotaError):
                pass
            await at.manager.observe(watch)
    assert not at.manager.list(TENANT), "nothing that was watched is left"
    return await anyio.to_thread.run_sync(
        lambda: learn_policy(at.policies.store, ExtensionName(name), TENANT, watch.seen, now)
    )


async def test_what_was_learned_suffices_and_a_notch_less_does_not(tmp_path: Path) -> None:
    async with world(tmp_path, in_docker) as at:
        at.shelf.write("needy", NEEDY)
        given = at.places.tenant(TENANT) / "input" / "given.txt"
        given.parent.mkdir(parents=True)
        given.write_text("x")
        given.chmod(0o644)
        learned = await learn(at, "needy", "Needy")
        policy = learned.effective
        print(learned.text)

        assert not asks_more(effective(at, "needy"), policy)
        assert 200 << 20 < policy.memory <= 512 << 20
        assert 13 <= policy.pids <= 64
        assert 3 << 20 <= policy.disk <= 8 << 20
        assert 2 << 20 <= policy.shared_memory <= 4 << 20
        assert 2 << 20 <= policy.limits.output_bytes <= 4 << 20
        assert [(path.tenant, path.access) for path in policy.paths] == [("input", "ro"), ("output", "rw")]
        for wish in ("api.example.com:443", "/models/big.safetensors", "tenant: models", "MY_API_TOKEN"):
            (line,) = [line for line in learned.text.splitlines() if wish in line]
            assert line.lstrip().startswith("#"), line
            assert "claimed" in line

        at.policies.write("needy", learned.text)
        at.manager._planner._read.clear()
        await at.run("needy", "Needy")
        for less, error in (
            ("memory: 160MiB\n", EndedError),
            ("shared_memory: 1MiB\n", (NodeRaisedError, QuotaError)),
            ("limits: {output_bytes: 1MiB}\n", QuotaError),
            ("pids: 8\n", (NodeRaisedError, EndedError)),
        ):
            key = less.partition(":")[0]
            kept = [line for line in learned.text.splitlines() if not line.startswith(f"{key}:")]
            if key == "limits":
                kept = kept[
                    : kept.index(next(line for line in kept if line.strip().startswith("output_bytes")))
                ]
                kept = [line for line in kept if line != "limits:"]
            at.policies.write("needy", "\n".join(kept) + "\n" + less)
            at.manager._planner._read.clear()
            with pytest.raises(error):
                await at.run("needy", "Needy")


async def test_a_pack_that_lies_about_itself_is_granted_nothing_by_it(tmp_path: Path) -> None:
    async with world(tmp_path, in_docker) as at:
        at.shelf.write("liar", LIAR)
        learned = await learn(at, "liar", "Liar")
        now = effective(at, "liar")
        assert not asks_more(now, learned.effective)
        assert (learned.effective.tmp, learned.effective.scratch) == (now.tmp, now.scratch)
        assert not learned.effective.network
        assert not learned.effective.environment
        assert next(line for line in learned.text.splitlines() if "evil.example.com" in line).startswith("#")
        assert "LD_PRELOAD" in learned.text, "shown, with why it cannot be granted"
        assert "16GiB" not in "".join(
            line for line in learned.text.splitlines() if not line.lstrip().startswith("#")
        )
        assert len(learned.text) < 64 * 1024, "a flood of claims still makes a file that can be read"
        assert any("claims were left out" in note for note in learned.notes)


async def test_a_worker_that_nobody_watches_breaks_the_protocol_with_a_claim(tmp_path: Path) -> None:
    async with world(tmp_path, in_docker) as at:
        at.shelf.write("liar", LIAR)
        with pytest.raises(ProtocolViolationError, match="watch/seen"):
            await at.run("liar", "Liar")


async def test_limits_that_were_met_are_wishes_and_never_granted(tmp_path: Path) -> None:
    policies = {"needy": "memory: 128MiB\n"}
    async with world(tmp_path, in_docker, policies=policies) as at:
        at.shelf.write("needy", NEEDY)
        learned = await learn(at, "needy", "Needy")
        assert learned.effective.memory == 128 << 20
        (wish,) = [line for line in learned.text.splitlines() if line.startswith("# memory: ")]
        assert wish.startswith("# memory: 256MiB")
        assert "measured" in wish
        assert "memory cap 128 MiB" in wish


async def test_an_extension_is_watched_by_one_at_a_time_and_others_share_the_walls(tmp_path: Path) -> None:
    async with world(tmp_path, in_docker) as at:
        at.shelf.write("pack", ANSWER)
        before = (await at.session("pack")).sandbox
        async with at.manager.watch(TENANT, ExtensionName("pack")):
            with pytest.raises(WatchedError, match="watched already"):
                async with at.manager.watch(TENANT, ExtensionName("pack")):
                    raise AssertionError
            session = await at.session("pack")
            assert session.sandbox != before, "a sandbox of its own, from the import on"
            await session.execute(call("Answer"), ignore)
        assert not session.is_alive
        assert (await at.session("pack")).sandbox not in (before, session.sandbox)

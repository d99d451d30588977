"""A client's next prompt runs while the end of its last is stored, and nobody hears of it before."""

from __future__ import annotations

from collections import defaultdict
from copy import copy

import anyio
import pytest
from anyio.lowlevel import checkpoint

from engine import Database, DatabaseError, EngineLimits, SqlStorage
from engine import events as ev
from engine.early_starts import HELD_EVENTS, MOST_OF_PACKS, Voice
from engine.progress import ProgressLog
from engine.testing import FakeNode, MemoryStorage, until_ended
from policies import LOCAL_TENANT, ExtensionName
from sandbox import FastPath, take_fast_paths
from sandbox.calls import PackEvent
from tests.unit.engine.scene import Stage, line, prompt
from tests.unit.engine.test_engine import Gate, named

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("every_fast_path")]

SHOWN = prompt(s=("Show", {"x": 1}))
OTHER = prompt(s=("Show", {"x": 2}))
WITH_AND_WITHOUT = pytest.mark.parametrize("early", [True, False], ids=["early", "late"])


class Held(MemoryStorage):
    """A disk that takes each end when it is let go, and notes what was claimed."""

    def __init__(self) -> None:
        super().__init__()
        self.claimed: list[str] = []
        self.begun: list[str] = []
        self.open: defaultdict[str, anyio.Event] = defaultdict(anyio.Event)
        self.changed = anyio.Event()

    def change(self):
        self.changed.set()
        self.changed = anyio.Event()

    async def claim_next(self, tenant, busy=()):
        row = await super().claim_next(tenant, busy)
        if row is not None:
            self.claimed.append(row.prompt_id)
            self.change()
        return row

    async def finish(self, tenant, prompt_id, entry):
        self.begun.append(prompt_id)
        self.change()
        await self.open[prompt_id].wait()
        await super().finish(tenant, prompt_id, entry)

    async def until(self, is_so):
        with anyio.fail_after(60):
            while not is_so():
                await self.changed.wait()


async def settle():
    """All that can be done without the disk is done."""
    for _ in range(200):
        await checkpoint()


def takes(early):
    take_fast_paths(FastPath if early else set(FastPath) - {FastPath.EARLY_STARTS})


async def hear(stage, ends, said, begun):
    """One line for each event, with the prompt that it is of, until so many prompts have ended."""
    async with stage.engine.subscribe(LOCAL_TENANT) as events:
        begun.set()
        async for event in events:
            of = f"{event.prompt_id}: " if isinstance(event, ev.PromptEvent) else ""
            said.append(of + line(event))
            if isinstance(event, ev.PromptEnded):
                assert await stage.engine.history_entry(LOCAL_TENANT, event.prompt_id) is not None
                ends -= 1
                if not ends:
                    return


@WITH_AND_WITHOUT
@pytest.mark.parametrize("cache", ["classic", "none", "lru:10"])
async def test_a_client_hears_of_one_prompt_after_the_other_however_slow_the_disk_is(early, cache):
    takes(early)
    storage, said, listening = Held(), [], anyio.Event()
    async with (
        Stage(storage=storage, cache=cache, limits=EngineLimits(concurrency=2)) as stage,
        anyio.create_task_group() as group,
    ):
        group.start_soon(hear, stage, 3, said, listening)
        await listening.wait()
        for name, graph in (("k", SHOWN), ("l", OTHER), ("m", OTHER)):
            await stage.submit(graph, prompt_id=name)
        await storage.until(lambda: "k" in storage.begun)
        await settle()
        assert storage.claimed == (["k", "l"] if early else ["k"])
        assert storage.begun == ["k"]
        assert not any(words.startswith("l:") for words in said)
        assert said[-1] == "k: execution_success"
        assert stage.sessions.calls == (["s", "s"] if early else ["s"])
        counts = await stage.engine.counts(LOCAL_TENANT)
        assert (counts.running, counts.pending) == ((2, 1) if early else (1, 2))
        assert (await stage.engine.queue(LOCAL_TENANT)).remaining == 3
        for name in "klm":
            await storage.until(lambda name=name: name in storage.begun)
            await settle()
            storage.open[name].set()
    cached = [] if cache == "none" else ["m: executed s {'x': [2]}"]
    told = [words for words in said if "progress_state" not in words]
    start = told.index("k: execution_start")
    ran = [
        "execution_start",
        "execution_cached",
        "executing s",
        "executed s {'x': [%d]}",
        "execution_success",
    ]
    shown = {"k": 1, "l": 2, "m": 2}
    expected = []
    for left, name in ((2, "k"), (1, "l"), (0, "m")):
        if name != "k":
            expected.append(f"status {left + 1}")
        if name == "m" and cached:
            expected += ["m: execution_start", "m: execution_cached s", *cached, "m: execution_success"]
        else:
            expected += [f"{name}: {words % shown[name] if '%' in words else words}" for words in ran]
        expected += [f"status {left}", f"{name}: executing null"]
    got = [words for words in told[start:] if words != "status 3"]
    assert got == expected


async def test_what_it_says_does_not_depend_on_when_it_began():
    """Of a long queue, with nodes that fail, are cached, or look whether they changed."""

    def boom(x):
        raise ValueError("no")

    nodes = (
        FakeNode("Boom", boom, {"x": ["INT", {}]}, outputs=(), output_node=True),
        FakeNode("Watch", lambda v: (v,), {"v": ["INT", {}]}, fingerprint=lambda v: v),
    )
    graphs = [
        prompt(s=("Show", {"x": number % 2}))
        if number % 3
        else prompt(b=("Boom", {"x": 1}))
        if number % 2
        else prompt(w=("Watch", {"v": number}), s=("Show", {"x": ["w", 0]}))
        for number in range(12)
    ]
    heard = []
    for early in (True, False):
        takes(early)
        said, listening = [], anyio.Event()
        async with Stage(*nodes) as stage, anyio.create_task_group() as group:
            group.start_soon(hear, stage, len(graphs), said, listening)
            await listening.wait()
            for number, graph in enumerate(graphs):
                await stage.submit(graph, prompt_id=str(number))
        heard.append([words for words in said if not words.startswith("status")])
    assert heard[0] == heard[1]


async def test_a_disk_that_does_not_answer_fills_no_memory():
    """No further node is called when much waits to be told."""
    storage, said, listening = Held(), [], anyio.Event()
    node = FakeNode(
        "Wordy", lambda v: {"ui": {"text": ["x" * 100_000]}}, {"v": ["INT", {}]}, output_node=True
    )
    graph = prompt(**{f"n{number}": ("Wordy", {"v": number}) for number in range(12)})
    async with Stage(node, storage=storage) as stage, anyio.create_task_group() as group:
        group.start_soon(hear, stage, 2, said, listening)
        await listening.wait()
        await stage.submit(SHOWN, prompt_id="k")
        await stage.submit(graph, prompt_id="l")
        await storage.until(lambda: "k" in storage.begun)
        await settle()
        called = len(stage.sessions.calls) - 1
        assert 0 < called < 12
        assert not any(words.startswith("l:") for words in said)
        storage.open["k"].set()
        storage.open["l"].set()
        ended = await until_ended(stage.engine, LOCAL_TENANT, "l")
        assert ended["status"]["completed"]
        assert len(ended["outputs"]) == 12
    assert len(stage.sessions.calls) == 13
    executed = [words for words in said if words.startswith("l: executed")]
    assert len(executed) == 12


async def test_what_packs_send_meanwhile_comes_in_its_turn_unless_it_can_be_of_nobody_who_waits():
    storage, said, listening = Held(), [], anyio.Event()
    gate = Gate()
    async with Stage(gate.node, storage=storage) as stage, anyio.create_task_group() as group:
        group.start_soon(hear, stage, 2, said, listening)
        await listening.wait()
        await stage.submit(SHOWN, prompt_id="k", client_id="me")
        await stage.submit(named("l"), prompt_id="l", client_id="me")
        await storage.until(lambda: "k" in storage.begun)
        await settle()
        assert gate.entered == ["l"]
        for number, sid in enumerate([None, "me", "somebody else"]):
            stage.engine.hear_pack(LOCAL_TENANT, ExtensionName("any"), PackEvent(f"e{number}", {}, sid))
        await settle()
        assert [words for words in said if words.startswith("pack")] == ["pack e2"]
        storage.open["k"].set()
        gate.open.set()
        storage.open["l"].set()
    order = [words for words in said if words.startswith("pack") or words.endswith(("null", "start"))]
    assert order == [
        "k: execution_start",
        "pack e2",
        "k: executing null",
        "l: execution_start",
        "pack e0",
        "pack e1",
        "l: executing null",
    ]


async def test_what_a_pack_sends_to_everybody_is_not_kept_from_those_who_may_hear_of_its_prompt():
    storage, said, listening, gate = Held(), [], anyio.Event(), Gate()
    async with Stage(gate.node, storage=storage) as stage, anyio.create_task_group() as group:
        group.start_soon(hear, stage, 3, said, listening)
        await listening.wait()
        await stage.submit(SHOWN, prompt_id="k", client_id="me")
        await stage.submit(named("l"), prompt_id="l", client_id="me")
        await stage.submit(named("other"), prompt_id="other", client_id="somebody else")
        await gate.until(2)
        stage.engine.hear_pack(LOCAL_TENANT, ExtensionName("any"), PackEvent("e", {}, None))
        await settle()
        assert said[-1] == "pack e"
        gate.open.set()
        for name in ("k", "l", "other"):
            storage.open[name].set()


@pytest.mark.parametrize("named_ones", [None, ["l", "m"]])
async def test_what_is_cleared_does_not_run_on_because_it_began_early(named_ones):
    storage, gate = Held(), Gate()
    async with Stage(gate.node, storage=storage) as stage:
        await stage.submit(SHOWN, prompt_id="k")
        for name in "lm":
            await stage.submit(named(name), prompt_id=name)
        await gate.until(1)
        clear, delete = stage.engine.clear_pending, stage.engine.delete_pending
        assert await (delete(LOCAL_TENANT, named_ones) if named_ones else clear(LOCAL_TENANT)) == 2
        await settle()
        assert gate.stopped == ["l"]
        for name in "kl":
            storage.open[name].set()
        ended = [await until_ended(stage.engine, LOCAL_TENANT, name) for name in "kl"]
        assert [entry["status"]["status_str"] for entry in ended] == ["success", "error"]
        assert await storage.remaining(LOCAL_TENANT) == 0
    assert gate.entered == ["l"]


async def test_a_place_that_was_given_to_another_is_not_given_up_for_it():
    """As when a tenant is removed, comes back, and sends a prompt of the same id."""
    storage, gate = MemoryStorage(), Gate()
    async with Stage(gate.node, storage=storage) as stage:
        await stage.submit(named("k"), prompt_id="k", client_id="me")
        await gate.until(1)
        running = stage.engine._dispatcher._running
        key = (LOCAL_TENANT, "k")
        another = running[key] = copy(running[key])
        gate.open.set()
        await until_ended(stage.engine, LOCAL_TENANT, "k")
        await settle()
        assert running[key] is another
        del running[key]
        await stage.submit(SHOWN, prompt_id="l", client_id="me")
        assert (await until_ended(stage.engine, LOCAL_TENANT, "l"))["status"]["completed"]


async def test_a_listener_that_fails_keeps_nobody_waiting():
    def fail(event):
        raise LookupError("a defect")

    voice = Voice(fail, is_early=True)
    voice.say(ev.QueueChanged(LOCAL_TENANT, None, 1))
    with pytest.raises(LookupError):
        voice.speak()
    with anyio.fail_after(60):
        await voice.turn()


def test_of_what_a_node_reports_the_last_is_kept_when_much_waits():
    told = []
    voice = Voice(told.append, is_early=True)

    def report(node, value, preview=None):
        view = ProgressLog()
        view.moved(ev.NodeProgress(node, value, 10_000.0, "running", node, None, node))
        return ev.ProgressChanged(LOCAL_TENANT, "me", "l", 0, view.view(), node, False, preview)

    for number in range(5_000):
        voice.say(report("a", float(number), ("JPEG", b"x" * 1_000) if number == 4_998 else None))
        voice.say(report("b", float(number)))
    assert voice.is_full
    for number in range(5_000):
        voice.takes(ev.PackMessage(LOCAL_TENANT, "me", f"e{number}", {}))
    assert voice.is_full
    assert not told
    voice.speak()
    assert not voice.is_full
    assert len(told) <= MOST_OF_PACKS
    reports = [event for event in told if isinstance(event, ev.ProgressChanged)]
    assert len(reports) <= HELD_EVENTS
    last = {event.changed: event for event in reports}
    assert {state.value for event in last.values() for state in event.nodes.values()} == {4_999.0}
    assert last["a"].preview is not None, "the picture was lost with an older report"


async def test_so_many_ends_at_a_time_let_the_next_begin_and_no_more():
    storage = Held()
    async with Stage(storage=storage, limits=EngineLimits(concurrency=2)) as stage:
        for number in range(3):
            for client in "abcdef":
                await stage.submit(SHOWN, prompt_id=f"{client}{number}", client_id=client)
        await storage.until(lambda: len(storage.begun) == 4)
        await settle()
        # Two have given their places, and those who took them keep theirs until the disk answers.
        assert len(storage.begun) == len(storage.claimed) == 4
        assert len({name[0] for name in storage.begun}) == 4
        for name in [f"{client}{number}" for client in "abcdef" for number in range(3)]:
            storage.open[name].set()
        for client in "abcdef":
            await until_ended(stage.engine, LOCAL_TENANT, f"{client}2")
            mine = [name for name in storage.begun if name[0] == client]
            assert mine == sorted(mine)


async def test_prompts_of_no_client_keep_their_place_until_they_are_stored():
    storage = Held()
    async with Stage(storage=storage, limits=EngineLimits(concurrency=1)) as stage:
        for name in "kl":
            await stage.submit(SHOWN, prompt_id=name, client_id=None)
        await storage.until(lambda: "k" in storage.begun)
        await settle()
        assert storage.claimed == ["k"]
        storage.open["k"].set()
        storage.open["l"].set()
        await until_ended(stage.engine, LOCAL_TENANT, "l")


@WITH_AND_WITHOUT
async def test_an_interrupt_meanwhile_changes_nothing_of_the_one_that_has_run(early):
    takes(early)
    storage = Held()
    async with Stage(storage=storage) as stage:
        await stage.submit(SHOWN, prompt_id="k")
        await stage.submit(OTHER, prompt_id="l")
        await storage.until(lambda: "k" in storage.begun)
        await settle()
        # Without a name: nobody has heard of the second yet, so it is not meant.
        assert await stage.engine.interrupt(LOCAL_TENANT)
        assert await stage.engine.interrupt(LOCAL_TENANT, "k")
        assert await stage.engine.cancel(LOCAL_TENANT, "k")
        await settle()
        storage.open["k"].set()
        storage.open["l"].set()
        for name in "kl":
            assert (await until_ended(stage.engine, LOCAL_TENANT, name))["status"]["completed"]
        assert not stage.engine._dispatcher._cancelled_early


async def test_the_next_can_be_interrupted_by_name_and_says_so_in_its_turn():
    storage, said, listening, gate = Held(), [], anyio.Event(), Gate()
    async with Stage(gate.node, storage=storage) as stage, anyio.create_task_group() as group:
        group.start_soon(hear, stage, 3, said, listening)
        await listening.wait()
        for name, graph in (("k", SHOWN), ("l", named("l")), ("m", OTHER)):
            await stage.submit(graph, prompt_id=name)
        await gate.until(1)
        assert await stage.engine.cancel(LOCAL_TENANT, "l")
        await settle()
        assert gate.stopped == ["l"]
        assert storage.begun == ["k"], "two ends of one client are on their way"
        assert storage.claimed == ["k", "l"]
        assert not any(words.startswith("l:") for words in said)
        for name in "klm":
            storage.open[name].set()
        assert (await until_ended(stage.engine, LOCAL_TENANT, "m"))["status"]["completed"]
        ended = await stage.engine.history_entry(LOCAL_TENANT, "l")
        assert ended["status"]["messages"][-1][0] == "execution_interrupted"
    of_two = [words for words in said if words[:2] in ("k:", "l:")]
    assert of_two.index("k: executing null") < of_two.index("l: execution_start")
    assert of_two[-2:] == ["l: execution_interrupted g", "l: executing null"]


@WITH_AND_WITHOUT
async def test_an_end_that_cannot_be_stored_is_told_before_the_next_prompt(early, monkeypatch):
    takes(early)
    monkeypatch.setattr("engine.dispatcher.RETRY_S", 0)

    class Failing(MemoryStorage):
        async def finish(self, tenant, prompt_id, entry):
            await checkpoint()
            if prompt_id == "k":
                raise DatabaseError("the disk is full")
            await super().finish(tenant, prompt_id, entry)

    said = []
    async with Stage(storage=Failing()) as stage:
        with anyio.fail_after(60):
            async with stage.engine.subscribe(LOCAL_TENANT) as events:
                for name, graph in (("k", SHOWN), ("l", OTHER)):
                    await stage.submit(graph, prompt_id=name)
                async for event in events:
                    if isinstance(event, ev.PromptEvent) and not isinstance(event, ev.ProgressChanged):
                        said.append(f"{event.prompt_id}: {line(event)}")
                    if said and said[-1] == "l: executing null":
                        break
    assert said.index("k: executing null") == said.index("l: execution_start") - 1
    assert said[-2] == "l: execution_success"


async def let_go(storage, engine, names):
    """The disk answers when the host has begun to stop."""
    while engine._is_open:
        await checkpoint()
    await settle()
    for name in names:
        storage.open[name].set()


@WITH_AND_WITHOUT
async def test_when_the_host_stops_meanwhile_the_first_is_stored_and_the_next_runs_again(early):
    takes(early)
    storage = Held()
    async with anyio.create_task_group() as group, Stage(storage=storage) as stage:
        await stage.submit(SHOWN, prompt_id="k")
        await stage.submit(OTHER, prompt_id="l")
        await storage.until(lambda: "k" in storage.begun)
        await settle()
        group.start_soon(let_go, storage, stage.engine, "k")
    assert (await storage.history_entry(LOCAL_TENANT, "k"))["status"]["completed"]
    assert await storage.history_entry(LOCAL_TENANT, "l") is None
    storage.open["l"].set()
    async with Stage(storage=storage) as stage:
        assert (await until_ended(stage.engine, LOCAL_TENANT, "l"))["status"]["completed"]
        assert len(stage.sessions.calls) == 1


async def test_a_next_prompt_that_was_interrupted_does_not_run_again_though_the_host_stops():
    storage, gate = Held(), Gate()
    async with anyio.create_task_group() as group, Stage(gate.node, storage=storage) as stage:
        await stage.submit(SHOWN, prompt_id="k")
        await stage.submit(named("l"), prompt_id="l")
        await gate.until(1)
        assert await stage.engine.cancel(LOCAL_TENANT, "l")
        await settle()
        group.start_soon(let_go, storage, stage.engine, "kl")
    for name in "kl":
        assert await storage.history_entry(LOCAL_TENANT, name) is not None
    assert await storage.remaining(LOCAL_TENANT) == 0


async def test_a_disk_that_never_answers_does_not_keep_the_host_from_stopping(monkeypatch):
    monkeypatch.setattr("engine.dispatcher.CLEANUP_S", 0.01)
    storage = Held()
    with anyio.fail_after(60):
        async with Stage(storage=storage) as stage:
            for name in "kl":
                await stage.submit(SHOWN, prompt_id=name)
            await storage.until(lambda: "l" in storage.claimed)
            await settle()
            await stage.engine.cancel(LOCAL_TENANT, "l")
    assert await storage.requeue_running() == 2


async def test_a_client_that_comes_back_meanwhile_is_at_the_node_that_ran_last():
    storage = Held()
    async with Stage(storage=storage) as stage:
        await stage.submit(SHOWN, prompt_id="k", client_id="me")
        await stage.submit(prompt(t=("Show", {"x": 1})), prompt_id="l", client_id="me")
        await storage.until(lambda: "l" in storage.claimed)
        await settle()
        assert stage.engine.running_node(LOCAL_TENANT, "me") == "s"
        for name in "kl":
            storage.open[name].set()
        await until_ended(stage.engine, LOCAL_TENANT, "l")


async def test_a_prompt_of_the_same_id_has_a_place_of_its_own():
    """An id is free again once its entry is stored, which is before its end is told."""

    class SlowToTell(MemoryStorage):
        is_stored, asked, answers = False, anyio.Event(), anyio.Event()

        async def finish(self, tenant, prompt_id, entry):
            await super().finish(tenant, prompt_id, entry)
            self.is_stored = not self.answers.is_set()

        async def remaining(self, tenant):
            if self.is_stored:
                self.is_stored = False
                self.asked.set()
                await self.answers.wait()
            return await super().remaining(tenant)

    storage, said, listening = SlowToTell(), [], anyio.Event()
    async with Stage(storage=storage) as stage, anyio.create_task_group() as group:
        group.start_soon(hear, stage, 2, said, listening)
        await listening.wait()
        await stage.submit(SHOWN, prompt_id="k")
        with anyio.fail_after(60):
            await storage.asked.wait()
        await stage.submit(OTHER, prompt_id="k")
        await settle()
        assert [row.prompt_id for row in await storage.running(LOCAL_TENANT)] == ["k"]
        assert len(stage.engine._dispatcher._running) == 1
        assert said.count("k: execution_start") == 1
        storage.answers.set()
    assert said.count("k: execution_start") == said.count("k: executing null") == 2
    assert (await storage.history_entry(LOCAL_TENANT, "k"))["outputs"]["s"] == {"x": [2]}
    assert not stage.engine._dispatcher._running
    assert not stage.engine._dispatcher._ending


class TestWithADatabase:
    @pytest.fixture(autouse=True)
    def blocking_calls_fail(self):
        """Off: the database migrates on a loop of its own in a thread, where blocking is fine."""

    @WITH_AND_WITHOUT
    async def test_both_run_again_when_the_host_is_gone_before_the_end_was_stored(self, early, tmp_path):
        takes(early)
        url, begun, gate = f"sqlite+aiosqlite:///{tmp_path}/queue.db", anyio.Event(), Gate()
        gate.open.set()
        async with Database(url) as database:
            storage = SqlStorage(database)

            async def never(tenant, prompt_id, entry):
                begun.set()
                await anyio.sleep_forever()

            storage.finish = never
            with pytest.MonkeyPatch.context() as patch, anyio.fail_after(60):
                patch.setattr("engine.dispatcher.CLEANUP_S", 0.01)
                async with Stage(gate.node, storage=storage) as stage:
                    for name in "kl":
                        await stage.submit(named(name), prompt_id=name)
                    await begun.wait()
                    while early and not await self._runs(stage, "l"):
                        await checkpoint()
        assert gate.entered == (["k", "l"] if early else ["k"])
        gate.entered.clear()
        async with Database(url) as database, Stage(gate.node, storage=SqlStorage(database)) as stage:
            for name in "kl":
                assert (await until_ended(stage.engine, LOCAL_TENANT, name))["status"]["completed"]
        assert gate.entered == ["k", "l"]

    async def _runs(self, stage, name):
        snapshot = await stage.engine.queue(LOCAL_TENANT)
        assert "k" in [item.prompt_id for item in snapshot.running]
        return name in [item.prompt_id for item in snapshot.running]

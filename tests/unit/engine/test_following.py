"""Calls that are sent while the node before them runs: when, and what becomes of those that nobody wants."""

from __future__ import annotations

import gc
import itertools
import weakref
from typing import Any

import anyio
import pytest

from engine.early_starts import EarlyStarts, Voice
from engine.executor import PromptRun
from engine.testing import Blocker, FakeNode, Live, Tensor
from policies import LOCAL_TENANT, ExtensionName
from sandbox import FastPath, take_fast_paths
from sandbox.calls import Progress
from tests.unit.engine.scene import Stage, prompt

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("every_fast_path")]

FAKE = ExtensionName("fake")
CHAIN = prompt(
    a=("Const", {"v": 1}),
    b=("Add", {"a": ["a", 0], "b": 10}),
    c=("Add", {"a": ["b", 0], "b": ["b", 0]}),
    s=("Show", {"x": ["c", 0]}),
)


async def test_each_node_of_a_chain_is_sent_while_the_one_before_runs() -> None:
    async with Stage() as stage:
        said = await stage.said(CHAIN)
        assert (stage.sessions.sent, stage.sessions.given_up) == (["b", "c", "s"], [])
        assert stage.sessions.calls == ["a", "b", "c", "s"]
    take_fast_paths(frozenset(FastPath) - {FastPath.FOLLOWING_CALLS})
    async with Stage() as stage:
        assert await stage.said(CHAIN) == said
        assert (stage.sessions.sent, stage.sessions.calls) == ([], ["a", "b", "c", "s"])


async def test_the_outputs_are_those_of_the_nodes_before() -> None:
    pair = FakeNode("Pair", lambda v: (v, v + 1), {"v": ["INT", {}]}, outputs=("INT", "INT"))
    async with Stage(pair) as stage:
        graph = prompt(
            a=("Pair", {"v": 1}),
            b=("Pair", {"v": ["a", 1]}),
            c=("Add", {"a": ["b", 1], "b": ["a", 0]}),  # one is there already when b runs
            s=("Show", {"x": ["c", 0]}),
        )
        assert (await stage.outputs(graph))["s"] == {"x": [4]}
        assert (stage.sessions.sent, stage.sessions.given_up) == (["b", "c", "s"], [])


@pytest.mark.parametrize(
    ("nodes", "graph", "sent"),
    [
        ((), {"a": ("Const", {"v": 1}), "s": ("Show", {"x": ["a", 0]}), "t": ("Show", {"x": ["a", 0]})}, []),
        (
            (FakeNode("Far", lambda x: {"ui": {"x": [x]}}, {"x": ["*", {}]}, outputs=(), output_node=True,
                      extension="far"),),
            {"a": ("Const", {"v": 1}), "s": ("Far", {"x": ["a", 0]})},
            [],
        ),
        (
            (FakeNode("Lazy", lambda x: {"ui": {"x": [x]}}, {"x": ["*", {"lazy": True}]}, outputs=(), output_node=True,
                      lazy=("x",), check_lazy=lambda x: ["x"]),),
            {"a": ("Const", {"v": 1}), "s": ("Lazy", {"x": ["a", 0]})},
            [],
        ),
        (
            (FakeNode("Whole", lambda x, p: {"ui": {"x": [x]}}, {"x": ["*", {}]}, outputs=(), output_node=True,
                      hidden={"p": "PROMPT"}),),
            {"a": ("Const", {"v": 1}), "s": ("Whole", {"x": ["a", 0]})},
            [],
        ),
        (
            (FakeNode("Named", lambda x, me: {"ui": {"x": [me]}}, {"x": ["*", {}]}, outputs=(), output_node=True,
                      hidden={"me": "UNIQUE_ID"}),),
            {"a": ("Const", {"v": 1}), "s": ("Named", {"x": ["a", 0]})},
            ["s"],
        ),
        (
            (FakeNode("Text", lambda x, t: {"ui": {"x": [x]}}, {"x": ["*", {}], "t": ["STRING", {}]}, outputs=(),
                      output_node=True),),
            {"a": ("Const", {"v": 1}), "s": ("Text", {"x": ["a", 0], "t": "x" * 20_000})},
            [],
        ),
        (
            (FakeNode("Image2", lambda x, v: (v,), {"x": ["*", {}], "v": ["*", {}]}),),
            {"i": ("Image", {"v": 1}), "a": ("Image2", {"x": ["i", 0], "v": 2}),
             "b": ("Image2", {"x": ["i", 0], "v": ["a", 0]}), "s": ("Show", {"x": ["b", 0]})},
            ["a", "s"],
        ),
    ],
    ids=["two wait", "another sandbox", "lazy", "the whole prompt", "its own id", "a long text", "an object beside it"],
)  # fmt: skip
async def test_only_where_it_is_certain_and_all_is_plain(
    nodes: tuple[FakeNode, ...], graph: dict[str, Any], sent: list[str]
) -> None:
    async with Stage(*nodes) as stage:
        await stage.outputs(prompt(**graph))
        assert [node for node in stage.sessions.sent if node not in stage.sessions.given_up] == sent


@pytest.mark.parametrize(
    ("made", "given_up"), [(Tensor(1), []), (Live(1), ["s"])], ids=["a tensor", "a live object"]
)
async def test_an_output_that_is_a_live_object_is_sent_again_as_it_is_let_pass(
    made: Any, given_up: list[str]
) -> None:
    maker = FakeNode("Maker", lambda: (made,))
    taker = FakeNode(
        "Taker", lambda x: {"ui": {"x": [x.data]}}, {"x": ["*", {}]}, outputs=(), output_node=True
    )
    async with Stage(maker, taker) as stage:
        assert (await stage.outputs(prompt(a=("Maker",), s=("Taker", {"x": ["a", 0]}))))["s"] == {"x": [1]}
        assert (stage.sessions.sent, stage.sessions.given_up) == (["s"], given_up)
        assert stage.sessions.calls == ["a", "s"]


async def test_a_blocked_output_and_one_that_is_not_there_are_as_ever() -> None:
    maker = FakeNode("Maker", lambda: (Blocker("stop"),), outputs=("INT", "INT"))
    async with Stage(maker) as stage:
        assert "s" not in await stage.outputs(prompt(a=("Maker",), s=("Show", {"x": ["a", 0]})))
        assert (await stage.outputs(prompt(a=("Maker",), s=("Show", {"x": ["a", 1]})))).get("s") == {
            "x": [None]
        }


async def test_a_node_that_fails_leaves_nothing_of_the_next_behind() -> None:
    def fail(v: int) -> None:
        raise ValueError("no")

    async with Stage(FakeNode("Fails", fail, {"v": ["INT", {}]})) as stage:
        error = await stage.error(prompt(a=("Fails", {"v": 1}), s=("Show", {"x": ["a", 0]})))
        assert error["node_id"] == "a"
        assert (stage.sessions.sent, stage.sessions.given_up) == (["s"], ["s"])
        assert (await stage.outputs(CHAIN))["s"] == {"x": [22]}


async def test_an_expansion_runs_before_the_node_that_was_sent() -> None:
    def expand(v: int) -> dict[str, Any]:
        return {
            "result": (["child", 0],),
            "expand": {"child": {"class_type": "Const", "inputs": {"v": v + 1}}},
        }

    async with Stage(FakeNode("Grow", expand, {"v": ["INT", {}]}, outputs=("INT",))) as stage:
        graph = prompt(a=("Grow", {"v": 1}), s=("Show", {"x": ["a", 0]}))
        assert (await stage.outputs(graph))["s"] == {"x": [2]}
        assert (stage.sessions.sent[0], stage.sessions.given_up[0]) == ("s", "s")
        assert [call.rpartition(".")[2] for call in stage.sessions.calls] == ["a", "child", "s"]


async def test_an_interrupted_prompt_ends_when_the_sent_call_has_stopped() -> None:
    began, go_on = anyio.Event(), anyio.Event()

    async def wait(v: int) -> tuple[int]:
        began.set()
        await go_on.wait()
        return (v,)

    async with Stage(FakeNode("Waits", lambda v: wait(v), {"v": ["INT", {}]})) as stage:
        submitted = await stage.submit(prompt(a=("Waits", {"v": 1}), s=("Show", {"x": ["a", 0]})))
        await began.wait()
        assert stage.sessions.sent == ["s"]
        await stage.engine.interrupt(LOCAL_TENANT, submitted.prompt_id)
        with anyio.fail_after(60):
            while not await stage.engine.history(LOCAL_TENANT):
                await anyio.lowlevel.checkpoint()
        assert stage.sessions.given_up == ["s"]
        go_on.set()
        assert (await stage.outputs(CHAIN))["s"] == {"x": [22]}


async def test_whoever_waits_for_the_sandbox_has_it_next() -> None:
    began, go_on = anyio.Event(), anyio.Event()

    async def wait(v: int) -> tuple[int]:
        if v == 1:
            began.set()
            await go_on.wait()
        return (v,)

    async with Stage(FakeNode("Waits", lambda v: wait(v), {"v": ["INT", {}]}, not_idempotent=True)) as stage:

        def chain(v: int, **names: Any) -> dict[str, Any]:
            first, second, third, last = names["ids"]
            return prompt(
                **{
                    first: ("Waits", {"v": v}),
                    second: ("Waits", {"v": [first, 0]}),
                    third: ("Waits", {"v": [second, 0]}),
                    last: ("Show", {"x": [third, 0]}),
                }
            )

        one = await stage.submit(chain(1, ids=("a", "b", "c", "d")), client_id="one")
        await began.wait()
        other = await stage.submit(chain(2, ids=("p", "q", "r", "t")), client_id="other")
        with anyio.fail_after(60):
            while len((await stage.engine.queue(LOCAL_TENANT)).running) < 2:
                await anyio.lowlevel.checkpoint()
            go_on.set()
            for each in (one, other):
                while each.prompt_id not in {
                    entry["prompt"][1] for entry in (await stage.engine.history(LOCAL_TENANT)).values()
                }:
                    await anyio.lowlevel.checkpoint()
        calls = stage.sessions.calls
        # "b" was sent before anybody waited; then they take turns.
        assert calls.index("p") <= 2, calls
        assert stage.sessions.given_up == []


async def test_what_a_sent_node_reports_is_heard_once_it_is_said_to_run() -> None:
    heard: list[Any] = []

    async with Stage() as stage:
        session: Any = await stage.sessions.acquire(LOCAL_TENANT, FAKE)
        execute = session.execute

        async def early(call: Any, progress: Any, following: Any = None) -> Any:
            def asked() -> Any:
                given = following()
                if given is not None:
                    given.progress(Progress(given.call.node_id, 1, 4, None, legacy=False))
                return given

            return await execute(call, progress, asked if following is not None else None)

        session.execute = early
        heard = await stage.said(CHAIN)
    first = next(n for n, line in enumerate(heard) if "b:running(1/4)" in line)
    assert any(line == "executing b" for line in heard[:first]), heard


async def test_two_prompts_whose_expansions_cross_do_not_wait_for_each_other() -> None:
    both = anyio.Event()
    count: list[int] = []

    def grow(leaf: str) -> Any:
        async def expand(v: int) -> dict[str, Any]:
            count.append(v)
            if len(count) == 2:
                both.set()
            await both.wait()
            child = {"class_type": leaf, "inputs": {"v": v}}
            return {"result": (["child", 0],), "expand": {"child": child}}

        return lambda v: expand(v)

    def nodes(mine: str, others: str) -> tuple[FakeNode, ...]:
        number: dict[str, Any] = {"v": ["INT", {}]}
        return (
            FakeNode(f"Grow{mine}", grow(f"Leaf{others}"), number, outputs=("INT",), extension=mine.lower()),
            FakeNode(f"Leaf{mine}", lambda v: (v,), number, outputs=("INT",), extension=mine.lower()),
            FakeNode(
                f"Show{mine}", lambda x: {"ui": {"x": [x]}}, {"x": ["*", {}]}, outputs=(), output_node=True,
                extension=mine.lower(),
            ),
        )  # fmt: skip

    async with Stage(*nodes("A", "B"), *nodes("B", "A")) as stage:
        for mine in "AB":
            graph = prompt(a=(f"Grow{mine}", {"v": 1}), s=(f"Show{mine}", {"x": ["a", 0]}))
            await stage.submit(graph, client_id=mine)
        with anyio.fail_after(60):
            while len(await stage.engine.history(LOCAL_TENANT)) < 2:
                await anyio.lowlevel.checkpoint()


async def test_nobody_waits_for_a_sandbox_while_a_child_runs_elsewhere() -> None:
    go_on, runs = anyio.Event(), anyio.Event()

    async def slow(v: int) -> tuple[int]:
        runs.set()
        await go_on.wait()
        return (v,)

    def grow(v: int) -> dict[str, Any]:
        child = {"class_type": "Slow", "inputs": {"v": v}}
        return {"result": (["child", 0],), "expand": {"child": child}}

    number: dict[str, Any] = {"v": ["INT", {}]}
    far = FakeNode("Slow", slow, number, outputs=("INT",), extension="far")
    async with Stage(far, FakeNode("Grow", grow, number, outputs=("INT",))) as stage:
        await stage.submit(prompt(a=("Grow", {"v": 1}), s=("Show", {"x": ["a", 0]})), client_id="one")
        with anyio.fail_after(60):
            await runs.wait()
            await stage.submit(prompt(p=("Const", {"v": 1}), t=("Show", {"x": ["p", 0]})), client_id="two")
            while len(await stage.engine.history(LOCAL_TENANT)) < 1:
                await anyio.lowlevel.checkpoint()
            go_on.set()
            while len(await stage.engine.history(LOCAL_TENANT)) < 2:
                await anyio.lowlevel.checkpoint()


async def test_an_object_of_another_sandbox_is_still_handed_on() -> None:
    kept: list[Any] = []

    def keep(x: Any) -> tuple[int]:
        kept.append(x)
        return (1,)

    nodes = (
        FakeNode("Make", lambda: (Live(7),), extension="far"),
        FakeNode("Keep", keep, {"x": ["*", {}]}),
        FakeNode("Get", lambda n: (kept[-1],), {"n": ["*", {}]}),
        FakeNode(
            "Use",
            lambda x: {"ui": {"x": [x.data]}},
            {"x": ["*", {}]},
            outputs=(),
            output_node=True,
            extension="far",
        ),
    )
    async with Stage(*nodes) as stage:
        graph = prompt(
            m=("Make",), k=("Keep", {"x": ["m", 0]}), g=("Get", {"n": ["k", 0]}), u=("Use", {"x": ["g", 0]})
        )
        assert (await stage.outputs(graph))["u"] == {"x": [7]}
        assert "g" in stage.sessions.sent


async def test_a_call_that_was_sent_is_executed_where_it_was_sent_to() -> None:
    """A session that changed meanwhile (other code, another policy) is asked for with the next node."""
    async with Stage() as stage:
        session: Any = await stage.sessions.acquire(LOCAL_TENANT, FAKE)
        execute, others = session.execute, []

        async def replaced(call: Any, progress: Any, following: Any = None) -> Any:
            result = await execute(call, progress, following)
            if call.node_id == "a":
                stage.sessions.replace()
                others.append(await stage.sessions.acquire(LOCAL_TENANT, "fake"))  # type: ignore[arg-type]
            return result

        session.execute = replaced
        assert (await stage.outputs(CHAIN))["s"] == {"x": [22]}
        assert stage.sessions.calls == ["a", "b", "c", "s"]
        assert stage.sessions.given_up == []


async def test_a_call_that_was_sent_is_not_given_up_for_a_voice_that_has_to_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A prompt that began early is held up once it has said so much: before a node, and not before one that runs."""
    voices: list[Voice] = []

    def early(starts: Any, _: Any) -> Voice:
        voices.append(Voice(starts._publish, is_early=True))
        return voices[-1]

    monkeypatch.setattr(EarlyStarts, "voice", early)
    names = [f"n{number:02}" for number in range(31)]
    nodes: dict[str, Any] = {names[0]: ("Const", {"v": 1})}
    for before, name in itertools.pairwise(names):
        nodes[name] = ("Add", {"a": [before, 0], "b": 1})
    nodes["s"] = ("Show", {"x": [names[-1], 0]})
    async with Stage() as stage:
        await stage.submit(prompt(**nodes))
        with anyio.fail_after(60):
            while not voices or not voices[0].is_full:
                await anyio.lowlevel.checkpoint()
            await anyio.wait_all_tasks_blocked()
            assert len(stage.sessions.calls) < len(nodes)
            voices[0].speak()
            while not await stage.engine.history(LOCAL_TENANT):
                await anyio.lowlevel.checkpoint()
        assert stage.sessions.given_up == []
        assert len(stage.sessions.calls) == len(nodes)


async def test_a_run_that_is_over_is_gone_without_the_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[weakref.ref[Any]] = []
    begin = PromptRun.__init__

    def noted(self: PromptRun, *arguments: Any) -> None:
        begin(self, *arguments)
        runs.append(weakref.ref(self))

    monkeypatch.setattr(PromptRun, "__init__", noted)
    async with Stage() as stage:
        gc.collect()
        gc.disable()
        try:
            for number in range(5):
                await stage.outputs(prompt(a=("Const", {"v": number}), s=("Show", {"x": ["a", 0]})))
            with anyio.fail_after(60):
                while sum(run() is not None for run in runs) > 1:
                    await anyio.lowlevel.checkpoint()
        finally:
            gc.enable()

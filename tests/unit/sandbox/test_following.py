"""Calls that are sent while another runs: the session's side, with scripted workers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from runtime import wire
from sandbox import (
    CallTimeoutError,
    EndedError,
    FastPath,
    NodeRaisedError,
    ProtocolViolationError,
    SandboxState,
    Value,
    take_fast_paths,
)
from sandbox.calls import FollowingCall, NodeCall
from sandbox.testing import HELLO, LOADED, FakeLauncher, FakeWorker, Script
from tests.contract.kit import MakeLauncher, call, ignore, world

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("every_fast_path")]

FAST = {"pack": "timeouts: {import: 2s, call: 2s, grace: 100ms}\n"}


def fake(*scripts: Script) -> MakeLauncher:
    return lambda places, _policies: FakeLauncher(places, *scripts)


def result(*values: Any) -> dict[str, Any]:
    return {"slots": [[value] for value in values], "ui": None, "calls": None, "blocked": []}


def after(given: dict[str, Any] | None = None, node_id: str = "2") -> FollowingCall:
    """A call whose input ``x`` is output 0 of the one before."""
    return FollowingCall(call("X", {"x": None} | (given or {}), node_id=node_id), {"x": 0}, ignore)


def completed(following: FollowingCall, value: Any) -> NodeCall:
    inputs = following.call.inputs
    assert isinstance(inputs, dict)  # the engine's own, as it fills them in
    inputs["x"] = (Value(value),)
    return following.call


async def loaded(worker: FakeWorker) -> None:
    await worker.answer(await worker.receive(), HELLO)
    await worker.answer(await worker.receive(), LOADED)


async def asked(worker: FakeWorker) -> dict[str, Any]:
    """The next request; what is only said is passed over."""
    while "id" not in (message := await worker.receive()):
        pass
    return message


class Sends:
    """Gives a call to send along, once; counts how often it was asked."""

    def __init__(self, following: FollowingCall | None) -> None:
        self.following = following
        self.asked = 0

    def __call__(self) -> FollowingCall | None:
        self.asked += 1
        return self.following


async def test_the_next_call_is_sent_before_the_answer_and_its_own_is_waited_for(tmp_path: Path) -> None:
    heard: list[dict[str, Any]] = []

    async def script(worker: FakeWorker) -> None:
        await loaded(worker)
        one, two = await worker.receive(), await worker.receive()
        heard.extend((one["params"], two["params"]))
        await worker.answer(one, result(5))
        await worker.answer(two, result(6))
        three = await worker.receive()
        await worker.answer(three, result(7))
        await worker.receive()

    async with world(tmp_path, fake(script)) as at:
        at.shelf.write("pack", "")
        session = await at.session("pack")
        following = after({"y": 3})
        with anyio.fail_after(60):
            made = await session.execute(call("X"), ignore, Sends(following))
            assert following.is_sent
            assert made.slots == ((Value(5),),)
            assert (await session.execute(completed(following, 5), ignore)).slots == ((Value(6),),)
            # The turn is given back, and nothing is in use.
            assert (await session.execute(call("X"), ignore)).slots == ((Value(7),),)
        assert heard[1]["inputs"] == {"x": [], "y": [3]}
        assert heard[1]["follows"] == {"call": heard[0]["call"], "inputs": {"x": 0}}
        (sandbox,) = at.manager.list()
        assert sandbox.state is SandboxState.WARM
        assert sandbox.at_rest is not None


async def test_a_call_that_its_worker_did_not_run_is_made_anew_with_what_it_waited_for(
    tmp_path: Path,
) -> None:
    heard: list[dict[str, Any]] = []

    async def script(worker: FakeWorker) -> None:
        await loaded(worker)
        one, two = await worker.receive(), await worker.receive()
        await worker.answer(one, result(5))
        await worker.refuse(two, wire.NOT_FOLLOWING, "no")
        again = await worker.receive()
        heard.append(again["params"])
        await worker.answer(again, result(6))
        await worker.receive()

    async with world(tmp_path, fake(script)) as at:
        at.shelf.write("pack", "")
        session = await at.session("pack")
        following = after()
        with anyio.fail_after(60):
            await session.execute(call("X"), ignore, Sends(following))
            assert (await session.execute(completed(following, 5), ignore)).slots == ((Value(6),),)
        assert heard[0]["inputs"] == {"x": [5]}
        assert "follows" not in heard[0]


async def test_nobody_may_say_that_a_call_did_not_follow_which_was_not_sent_ahead(tmp_path: Path) -> None:
    async def script(worker: FakeWorker) -> None:
        await loaded(worker)
        await worker.refuse(await worker.receive(), wire.NOT_FOLLOWING, "no")
        await worker.receive()

    async with world(tmp_path, fake(script)) as at:
        at.shelf.write("pack", "")
        session = await at.session("pack")
        with anyio.fail_after(60), pytest.raises(ProtocolViolationError, match="error -32011"):
            await session.execute(call("X"), ignore)


async def test_a_call_that_nobody_wants_is_interrupted_and_the_turn_is_left_when_it_has_stopped(
    tmp_path: Path,
) -> None:
    said: list[str] = []

    async def script(worker: FakeWorker) -> None:
        await loaded(worker)
        one, two = await worker.receive(), await worker.receive()
        data = {"type": "ValueError", "message": "no", "traceback": [], "inputs": {}}
        await worker.refuse(one, wire.NODE_RAISED, "no", data)
        cancel = await worker.receive()
        assert (cancel["method"], cancel["params"]) == (wire.CANCEL, {"call": two["params"]["call"]})
        said.append("stops")
        await worker.refuse(two, wire.INTERRUPTED, "stopped")
        await worker.answer(await worker.receive(), result())
        await worker.receive()

    async with world(tmp_path, fake(script)) as at:
        at.shelf.write("pack", "")
        session = await at.session("pack")
        following = after()
        with anyio.fail_after(60):
            with pytest.raises(NodeRaisedError):
                await session.execute(call("X"), ignore, Sends(following))
            async with anyio.create_task_group() as group:

                async def other() -> None:
                    await session.execute(call("X"), ignore)
                    said.append("other")

                group.start_soon(other)
                await anyio.wait_all_tasks_blocked()
                assert said == []  # it has not its turn yet
                await session.give_up(following.call)
                said.append("given up")
            assert said[0] == "stops"
            assert set(said) == {"stops", "given up", "other"}
            await session.give_up(following.call)  # once more is nothing
        assert session.is_alive


async def test_one_that_ran_for_nobody_gives_its_files_back_and_one_that_does_not_stop_ends_the_sandbox(
    tmp_path: Path,
) -> None:
    async def script(worker: FakeWorker) -> None:
        await loaded(worker)
        one, two = await worker.receive(), await worker.receive()
        await worker.send({"id": 1, "method": wire.ALLOCATE, "params": {"bytes": 4096}})
        allocated = await worker.receive()
        await worker.answer(one, result(5))
        ref = {
            "file": allocated["result"]["file"],
            "nbytes": 4096,
            "dtype": "uint8",
            "shape": [4096],
            "requires_grad": False,
        }
        await worker.answer(two, result({wire.TAG_ARRAY: ref}))
        three, _ = await asked(worker), await asked(worker)
        await worker.answer(three, result(5))
        while True:
            await worker.receive()

    async with world(tmp_path, fake(script), policies=FAST) as at:
        at.shelf.write("pack", "")
        session = await at.session("pack")
        with anyio.fail_after(60):
            following = after()
            await session.execute(call("X"), ignore, Sends(following))
            await session.give_up(following.call)
            assert at.store.usage().bytes == 0
            assert session.is_alive
            following = after()
            await session.execute(call("X"), ignore, Sends(following))
            await session.give_up(following.call)
        assert not session.is_alive
        assert at.launcher.stopped == [session.sandbox]


async def test_its_time_begins_with_the_end_of_the_call_before(tmp_path: Path) -> None:
    async def script(worker: FakeWorker) -> None:
        await loaded(worker)
        one, _ = await worker.receive(), await worker.receive()
        await worker.answer(one, result(5))
        await worker.receive()

    policies = {"pack": "timeouts: {call: 50ms, grace: 10ms}\n"}
    async with world(tmp_path, fake(script), policies=policies) as at:
        at.shelf.write("pack", "")
        session = await at.session("pack")
        following = after()
        with anyio.fail_after(60):
            await session.execute(call("X"), ignore, Sends(following))
            with pytest.raises(
                CallTimeoutError, match=r"node '2' \(X\) took longer than timeouts.call 50 ms"
            ):
                await session.execute(completed(following, 5), ignore)


async def test_a_sandbox_that_ends_takes_the_call_that_it_has_with_it(tmp_path: Path) -> None:
    leaves = anyio.Event()

    async def script(worker: FakeWorker) -> None:
        await loaded(worker)
        one, _ = await worker.receive(), await worker.receive()
        await worker.answer(one, result(5))
        await leaves.wait()

    async with world(tmp_path, fake(script)) as at:
        at.shelf.write("pack", "")
        session = await at.session("pack")
        following = after()
        with anyio.fail_after(60):
            await session.execute(call("X"), ignore, Sends(following))
            leaves.set()
            with pytest.raises(EndedError) as caught:
                await session.execute(completed(following, 5), ignore)
        assert caught.value.call_started


@pytest.mark.parametrize("why", ["nothing follows", "no such way", "it is watched"])
async def test_nothing_is_sent_along_where_it_may_not_be(tmp_path: Path, why: str) -> None:
    heard: list[Any] = []

    async def script(worker: FakeWorker) -> None:
        def execute(params: dict[str, Any]) -> dict[str, Any]:
            heard.append(params)
            return result()

        await worker.serve({wire.EXECUTE: execute})

    if why == "no such way":
        take_fast_paths(frozenset(FastPath) - {FastPath.INSTANT_WRITES})
    async with world(tmp_path, fake(script)) as at:
        at.shelf.write("pack", "")
        session: Any = await at.session("pack")
        if why == "it is watched":
            session._sandbox.watch = _Watch()
        following = None if why == "nothing follows" else after()
        with anyio.fail_after(60):
            await session.execute(call("X"), ignore, Sends(following))
            await session.execute(call("X"), ignore, Sends(following))
        assert len(heard) == 2
        assert following is None or not following.is_sent


class _Watch:
    def __getattr__(self, _: str) -> Callable[..., None]:
        return lambda *_: None


async def test_whoever_waits_for_the_turn_has_it_before_a_following_call(tmp_path: Path) -> None:
    order: list[str] = []
    go_on = anyio.Event()

    async def script(worker: FakeWorker) -> None:
        async def execute(params: dict[str, Any]) -> dict[str, Any]:
            order.append(params["node_id"])
            await go_on.wait()
            return result(1)

        await worker.serve({wire.EXECUTE: execute})

    async with world(tmp_path, fake(script)) as at:
        at.shelf.write("pack", "")
        session = await at.session("pack")
        first, second = after(node_id="b"), after(node_id="c")
        sends = Sends(second)
        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(session.execute, call("X", node_id="a"), ignore, Sends(first))
                await anyio.wait_all_tasks_blocked()
                group.start_soon(session.execute, call("X", node_id="other"), ignore)
                await anyio.wait_all_tasks_blocked()
                go_on.set()
                await anyio.wait_all_tasks_blocked()
                await session.execute(completed(first, 1), ignore, sends)
            assert order == ["a", "b", "other"]
            assert (sends.asked, second.is_sent) == (0, False)


@pytest.mark.parametrize("way", ["in one chunk", "no instant answers", "after a line of the log"])
async def test_what_a_node_says_is_heard_after_the_end_of_the_one_before(tmp_path: Path, way: str) -> None:
    async def script(worker: FakeWorker) -> None:
        await loaded(worker)
        one, two = await worker.receive(), await worker.receive()
        log = {"method": wire.LOG, "params": {"stream": "stdout", "text": "x", "dropped": 0}}
        messages = [
            *([log] if way == "after a line of the log" else []),
            {"id": one["id"], "result": result(5)},
            {"method": wire.TEXT, "params": {"node_id": "2", "text": "of the next"}},
        ]
        await worker.send_raw(b"".join(wire.encode_frame({"jsonrpc": "2.0", **each}) for each in messages))
        await worker.answer(two, result(6))
        await worker.receive()

    if way == "no instant answers":
        take_fast_paths(frozenset(FastPath) - {FastPath.INSTANT_ANSWERS})
    async with world(tmp_path, fake(script)) as at:
        at.shelf.write("pack", "")
        session = await at.session("pack")
        following = after()
        with anyio.fail_after(60):
            await session.execute(call("X"), ignore, Sends(following))
            assert at.events == []
            await session.execute(completed(following, 5), ignore)
        assert [event.data for _, _, event in at.events] == [{"text": "of the next"}]


@pytest.mark.parametrize("is_slow", [False, True])
async def test_one_call_that_was_not_run_does_not_spoil_the_rest(tmp_path: Path, is_slow: bool) -> None:
    """A text too long to be plain, at the head of a chain: what follows it is sent anew, the rest is sent ahead."""
    log: list[str] = []

    async def script(worker: FakeWorker) -> None:
        await loaded(worker)
        before = None
        while True:
            message = await asked(worker)
            params = message["params"]
            if "follows" in params and params["follows"]["call"] != before:
                log.append(f"{params['node_id']} refused")
                before = None
                await worker.refuse(message, wire.NOT_FOLLOWING, "no")
                continue
            if is_slow:
                await anyio.wait_all_tasks_blocked()
            log.append(params["node_id"])
            before = None if params["node_id"] == "a" else params["call"]
            await worker.answer(message, result("x" * 300 if params["node_id"] == "a" else 1))

    async with world(tmp_path, fake(script)) as at:
        at.shelf.write("pack", "")
        session = await at.session("pack")
        names = "bcdef"
        with anyio.fail_after(60):
            for _ in range(2):
                ahead = {name: after(node_id=name) for name in names}
                await session.execute(call("First", node_id="a"), ignore, Sends(ahead["b"]))
                for name, following in zip(names, [*names[1:], ""], strict=True):
                    await session.execute(completed(ahead[name], 1), ignore, Sends(ahead.get(following)))
                log.append("-")
    first, second, _ = "".join(f" {each}" for each in log).split(" -")
    assert first.split()[-4:] == ["c", "d", "e", "f"]
    assert first.count("refused") <= 2
    assert second.split() == ["a", "b", "c", "d", "e", "f"]  # it is remembered of the class


async def test_who_is_cancelled_while_a_call_is_given_up_sees_it_through(tmp_path: Path) -> None:
    go_on = anyio.Event()

    async def script(worker: FakeWorker) -> None:
        await loaded(worker)
        one, two = await worker.receive(), await worker.receive()
        await worker.answer(one, result(5))
        await worker.receive()
        await go_on.wait()
        await worker.refuse(two, wire.INTERRUPTED, "stopped")
        await worker.answer(await asked(worker), result())
        await worker.receive()

    async with world(tmp_path, fake(script), policies={"pack": "timeouts: {grace: 30s}\n"}) as at:
        at.shelf.write("pack", "")
        session = await at.session("pack")
        following = after()
        with anyio.fail_after(60):
            await session.execute(call("X"), ignore, Sends(following))
            async with anyio.create_task_group() as group:
                group.start_soon(session.give_up, following.call)
                await anyio.wait_all_tasks_blocked()
                group.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    await anyio.wait_all_tasks_blocked()
                    go_on.set()
            await session.execute(call("X"), ignore)


async def test_an_interrupt_reaches_the_following_call_first(tmp_path: Path) -> None:
    running = anyio.Event()
    heard: list[Any] = []

    async def script(worker: FakeWorker) -> None:
        await loaded(worker)
        one, two = await worker.receive(), await worker.receive()
        running.set()
        heard.extend([(await worker.receive())["params"] for _ in range(2)])
        heard.append([one["params"]["call"], two["params"]["call"]])
        await worker.refuse(two, wire.INTERRUPTED, "before it started")
        await worker.answer(one, result(5))
        await worker.answer(await asked(worker), result())
        await worker.receive()

    async with world(tmp_path, fake(script), policies={"pack": "timeouts: {grace: 30s}\n"}) as at:
        at.shelf.write("pack", "")
        session = await at.session("pack")
        following = after()
        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(session.execute, call("X"), ignore, Sends(following))
                await running.wait()
                group.cancel_scope.cancel()
            await session.give_up(following.call)
            await session.execute(call("X"), ignore)
    first, second = heard[2]
    assert heard[:2] == [{"call": second}, {"call": first}]


async def test_a_defect_in_finding_what_follows_leaves_the_call_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> FollowingCall | None:
        raise ValueError("a defect")

    async with world(tmp_path, fake()) as at:
        at.shelf.write("pack", "")
        session = await at.session("pack")
        with anyio.fail_after(60):
            await session.execute(call("X"), ignore, broken)
            await session.execute(call("X"), ignore)
    assert "what follows node '1' (X) cannot be told" in caplog.text


async def test_what_others_said_meanwhile_is_told_though_the_call_is_given_up(tmp_path: Path) -> None:
    async def script(worker: FakeWorker) -> None:
        await loaded(worker)
        one, two = await worker.receive(), await worker.receive()
        messages = [
            {"id": one["id"], "result": result("x" * 300)},
            {"method": wire.TEXT, "params": {"node_id": "9", "text": "of a thread"}},
            {"id": two["id"], "error": {"code": wire.NOT_FOLLOWING, "message": "no"}},
        ]
        await worker.send_raw(b"".join(wire.encode_frame({"jsonrpc": "2.0", **each}) for each in messages))
        await worker.receive()

    async with world(tmp_path, fake(script)) as at:
        at.shelf.write("pack", "")
        session = await at.session("pack")
        following = after()
        with anyio.fail_after(60):
            await session.execute(call("X"), ignore, Sends(following))
            await session.give_up(following.call)
        assert [event.data for _, _, event in at.events] == [{"text": "of a thread"}]


async def test_nothing_follows_where_a_policy_allows_few_outputs(tmp_path: Path) -> None:
    """The host may refuse a result then which its worker takes for good."""
    policies = {"pack": "limits: {outputs: 3}\n"}
    async with world(tmp_path, fake(), policies=policies) as at:
        at.shelf.write("pack", "")
        session = await at.session("pack")
        sends = Sends(after())
        with anyio.fail_after(60):
            await session.execute(call("X"), ignore, sends)
        assert sends.asked == 0

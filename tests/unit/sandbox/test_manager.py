"""Which sandbox serves whom, with scripted workers: sharing, replacing, holding back, and every way to misbehave."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from policies import ExtensionName, PolicyError, SandboxId, TenantId
from runtime import wire
from sandbox import (
    CallTimeoutError,
    EndedError,
    HandleNotPortableError,
    LoadFailedError,
    ManagerLimits,
    NodeInterruptedError,
    NodeRaisedError,
    Progress,
    ProtocolViolationError,
    QuarantinedError,
    QuotaError,
    SandboxError,
    SandboxState,
    StartError,
    Value,
)
from sandbox import peer as peer_module
from sandbox.launcher.verbs import Ending, Usage
from sandbox.testing import HELLO, LOADED, FakeLauncher, FakeWorker, Script, obedient
from tests.contract.kit import TENANT, MakeLauncher, call, ignore, world

pytestmark = pytest.mark.anyio

EMPTY: dict[str, Any] = {"slots": [], "ui": None, "calls": None, "blocked": []}
FAST = "timeouts: {import: 2s, call: 2s, grace: 100ms}\n"


def fake(*scripts: Script) -> MakeLauncher:
    return lambda places, _policies: FakeLauncher(places, *scripts)


def serving(**handlers: Any) -> Script:
    """A worker that answers from a table; ``execute=...`` stands for node/execute."""
    names = {
        "hello": wire.HELLO,
        "load": wire.LOAD,
        "execute": wire.EXECUTE,
    }
    table = {names[name]: handler for name, handler in handlers.items()}

    async def script(worker: FakeWorker) -> None:
        await worker.serve(table)

    return script


def raw(data: bytes) -> Script:
    """A worker that says hello, loads, and then sends ``data`` as soon as a node runs."""

    async def script(worker: FakeWorker) -> None:
        async def attack(_: Any) -> None:
            await worker.send_raw(data)

        await worker.serve({wire.EXECUTE: attack})

    return script


def sends(*messages: dict[str, Any]) -> Script:
    return raw(b"".join(wire.encode_frame({"jsonrpc": "2.0", **message}) for message in messages))


# -- sharing and replacing -----------------------------------------------------------------------------------


async def test_callers_at_the_same_time_share_one_start(tmp_path: Path) -> None:
    async with world(tmp_path, fake()) as at:
        at.shelf.write("pack", "")
        found: list[SandboxId] = []

        async def use() -> None:
            found.append((await at.session("pack")).sandbox)

        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(use)
        assert len(set(found)) == len(at.launcher.requests) == 1


async def test_tenants_and_extensions_never_share_a_sandbox(tmp_path: Path) -> None:
    async with world(tmp_path, fake()) as at:
        other = TenantId("other")
        at.shelf.write("one", "")
        at.shelf.write("two", "")
        at.shelf.write("one", "", other)
        sessions = [await at.session("one"), await at.session("two"), await at.session("one", other)]
        assert len({session.sandbox for session in sessions}) == 3
        assert [info.tenant for info in at.manager.list(other)] == [other]


async def test_a_caller_that_goes_away_does_not_take_the_start_with_it(tmp_path: Path) -> None:
    began, go_on = anyio.Event(), anyio.Event()

    async def slow(worker: FakeWorker) -> None:
        began.set()
        await go_on.wait()
        await obedient(worker)

    async with world(tmp_path, fake(slow)) as at:
        at.shelf.write("pack", "")
        async with anyio.create_task_group() as group:
            group.start_soon(at.session, "pack")
            await began.wait()
            group.cancel_scope.cancel()
        go_on.set()
        with anyio.fail_after(60):
            await at.session("pack")
        assert len(at.launcher.requests) == 1


async def test_a_caller_that_is_interrupted_does_not_end_a_load_that_others_wait_for(tmp_path: Path) -> None:
    began, go_on = anyio.Event(), anyio.Event()

    async def load(_: Any) -> Any:
        began.set()
        await go_on.wait()
        return LOADED

    policies = {"pack": "timeouts: {grace: 50ms}\n"}
    async with (
        world(tmp_path, fake(serving(load=load)), policies=policies) as at,
        anyio.create_task_group() as group,
    ):
        at.shelf.write("pack", "")
        impatient = anyio.CancelScope()

        async def leave() -> None:
            with impatient:
                await at.session("pack")

        group.start_soon(leave)
        await began.wait()
        found: list[Any] = []

        async def stay() -> None:
            found.append(await at.session("pack"))

        group.start_soon(stay)
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(60):
            impatient.cancel()
            await anyio.wait_all_tasks_blocked()
            go_on.set()
            while not found:
                await anyio.lowlevel.checkpoint()
        assert len(at.launcher.requests) == 1
        assert found[0].is_alive


async def test_new_content_means_a_new_sandbox_and_the_old_one_ends(tmp_path: Path) -> None:
    async with world(tmp_path, fake()) as at:
        at.shelf.write("pack", "")
        old = await at.session("pack")
        ended = at.manager._all[old.sandbox].sandbox
        at.shelf.write("pack", "")
        new = await at.session("pack")
        assert new.sandbox != old.sandbox
        with anyio.fail_after(60):
            await ended.gone()
        assert not at.manager.is_alive(old.sandbox)
        assert at.manager.is_alive(new.sandbox)


async def test_a_dead_sandbox_fails_the_running_node_only_and_is_replaced(tmp_path: Path) -> None:
    running = anyio.Event()

    async def hang(_: Any) -> None:
        running.set()

    async with world(tmp_path, fake(serving(execute=hang), obedient, obedient)) as at:
        at.shelf.write("bad", "")
        at.shelf.write("good", "")
        at.launcher.ending = Ending(exit_code=137, oom_killed=True, oom_events=1)
        bad = await at.session("bad")
        good = await at.session("good")
        errors: list[SandboxError] = []

        async def run() -> None:
            with pytest.raises(EndedError) as caught:
                await bad.execute(call("X"), ignore)
            errors.append(caught.value)

        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(run)
                await running.wait()
                at.launcher.die(bad.sandbox)
        assert "extension 'bad' ended: killed: memory cap 2 GiB" in str(errors[0])
        assert (await good.execute(call("X"), ignore)).slots == ()
        replaced = await at.session("bad")
        assert replaced.sandbox != bad.sandbox
        assert (await replaced.execute(call("X"), ignore)).slots == ()


async def test_a_call_that_waited_for_its_turn_may_be_made_again(tmp_path: Path) -> None:
    running = anyio.Event()

    async def hang(_: Any) -> None:
        running.set()

    async with world(tmp_path, fake(serving(execute=hang))) as at:
        at.shelf.write("pack", "")
        session = await at.session("pack")
        started: dict[str, bool] = {}

        async def run(name: str) -> None:
            with pytest.raises(EndedError) as caught:
                await session.execute(call("X"), ignore)
            started[name] = caught.value.call_started

        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(run, "first")
                await running.wait()
                group.start_soon(run, "second")
                await anyio.wait_all_tasks_blocked()
                at.launcher.die(session.sandbox)
        assert started == {"first": True, "second": False}


async def test_an_idle_sandbox_ends_after_its_policys_time(tmp_path: Path) -> None:
    async with world(tmp_path, fake(), policies={"pack": "timeouts: {idle: 50ms}\n"}) as at:
        at.shelf.write("pack", "")
        session = await at.session("pack")
        with anyio.fail_after(60):
            await at.manager._all[session.sandbox].sandbox.gone()
        assert not session.is_alive
        assert at.manager.list() == []


async def test_the_longest_idle_sandbox_makes_room(tmp_path: Path) -> None:
    async with world(tmp_path, fake(), limits=ManagerLimits(max_sandboxes=2)) as at:
        for name in ("a", "b", "c"):
            at.shelf.write(name, "")
        first, second = await at.session("a"), await at.session("b")
        await second.execute(call("X"), ignore)
        with anyio.fail_after(60):
            third = await at.session("c")
        assert (first.is_alive, second.is_alive, third.is_alive) == (False, True, True)


async def test_when_all_are_busy_the_next_is_refused_in_time(tmp_path: Path) -> None:
    running = anyio.Event()

    async def hang(_: Any) -> None:
        running.set()

    limits = ManagerLimits(max_sandboxes=1, wait_for_room_s=0.1)
    async with world(tmp_path, fake(serving(execute=hang)), limits=limits, policies={"a": FAST}) as at:
        at.shelf.write("a", "")
        at.shelf.write("b", "")
        session = await at.session("a")
        async with anyio.create_task_group() as group:
            group.start_soon(session.execute, call("X"), ignore)
            await running.wait()
            with anyio.fail_after(60), pytest.raises(StartError, match="1 sandboxes run"):
                await at.session("b")
            group.cancel_scope.cancel()


async def test_an_extension_that_keeps_dying_is_held_back_and_tried_again(tmp_path: Path) -> None:
    now = 0.0

    async def dies(worker: FakeWorker) -> None:
        await worker.receive()

    async with world(tmp_path, fake(dies), policies={"pack": FAST}) as at:
        at.manager._health.clock = lambda: now
        at.shelf.write("pack", "")
        for _ in range(3):
            with pytest.raises(EndedError):
                await at.session("pack")
        with pytest.raises(QuarantinedError, match="3 times in a row") as caught:
            await at.session("pack")
        assert caught.value.retry_after_s == at.manager.quarantined_for(TENANT, ExtensionName("pack")) == 2.0
        now = 2.5
        with pytest.raises(EndedError):
            await at.session("pack")
        with pytest.raises(QuarantinedError) as caught:
            await at.session("pack")
        assert caught.value.retry_after_s == 4.0
        now = 10.0
        at.launcher.scripts = [obedient]
        await (await at.session("pack")).execute(call("X"), ignore)
        assert at.manager.quarantined_for(TENANT, ExtensionName("pack")) == 0


async def test_a_refused_start_is_reported_and_leaves_nothing(tmp_path: Path) -> None:
    async with world(tmp_path, fake()) as at:
        at.shelf.write("pack", "")
        at.launcher.refusal = StartError("image 'x' not found", "make up")
        with pytest.raises(StartError, match="image 'x' not found; make up"):
            await at.session("pack")
        assert at.manager.list() == []
        assert list((at.places.shm / "sandboxes").iterdir()) == []


async def test_stopping_is_for_the_tenants_own(tmp_path: Path) -> None:
    async with world(tmp_path, fake()) as at:
        at.shelf.write("pack", "")
        session = await at.session("pack")
        assert not await at.manager.stop(TenantId("other"), session.sandbox)
        assert await at.manager.logs(TenantId("other"), session.sandbox) == []
        assert await at.manager.stop(TENANT, session.sandbox)
        assert not at.manager.is_alive(session.sandbox)


async def test_list_says_the_state(tmp_path: Path) -> None:
    async with world(tmp_path, fake()) as at:
        at.shelf.write("pack", "")
        at.launcher.usage = Usage(memory=5, pids=3)
        await at.session("pack")
        await at.manager.refresh()
        (info,) = at.manager.list(TENANT)
        assert (info.state, info.memory_used, info.pids_used) == (SandboxState.WARM, 5, 3)
        assert at.manager.warm(TENANT, ExtensionName("pack")) is SandboxState.WARM


async def test_a_sandbox_that_nobody_uses_and_nothing_works_in_is_seldom_asked_what_it_used(
    tmp_path: Path,
) -> None:
    class Bill:
        cpu = 0.0
        has_limit = False

        def is_timed(self, tenant: TenantId) -> bool:
            return self.has_limit

        def charge_time(self, tenant: TenantId, cpu_s: float, gpu_s: float) -> None:
            self.cpu += cpu_s

        def charge_disk(self, tenant: TenantId, nbytes: int) -> None:
            """Nothing is written."""

    bill = Bill()
    async with world(tmp_path, fake()) as at:
        at.shelf.write("pack", "")
        session = await at.session("pack")
        sandbox = at.manager._all[session.sandbox].sandbox
        at.launcher.usage = Usage(cpu_s=5.0)
        await sandbox.meter(bill)
        assert sandbox.is_to_be_metered(bill, time.monotonic())
        await sandbox.meter(bill)
        assert not sandbox.is_to_be_metered(bill, time.monotonic())
        bill.has_limit = True
        assert sandbox.is_to_be_metered(bill, time.monotonic())
        bill.has_limit = False
        with sandbox.busy():
            assert sandbox.is_to_be_metered(bill, time.monotonic())
        await session.execute(call("X"), ignore)
        at.launcher.usage = Usage(cpu_s=7.0)
        assert sandbox.is_to_be_metered(bill, time.monotonic())
        await sandbox.meter(bill)
        assert bill.cpu == 7.0


# -- groups --------------------------------------------------------------------------------------------------


async def test_a_group_shares_one_sandbox_and_each_member_is_loaded(tmp_path: Path) -> None:
    loaded: list[str] = []

    def load(params: dict[str, Any]) -> dict[str, Any]:
        loaded.append(params["name"])
        return LOADED

    policies = {"one": "group: g\n", "two": "group: g\n"}
    async with world(tmp_path, fake(serving(load=load)), policies=policies) as at:
        at.shelf.groups["g"] = (at.shelf.write("one", ""), at.shelf.write("two", ""))
        one, two = await at.session("one"), await at.session("two")
        assert one.sandbox == two.sandbox
        assert loaded == ["one", "two"]
        assert at.launcher.requests[0].names == ("one", "two")


async def test_members_whose_policies_differ_are_refused_before_anything_starts(tmp_path: Path) -> None:
    policies = {"one": "group: g\n", "two": "group: g\nmemory: 1GiB\n"}
    async with world(tmp_path, fake(), policies=policies) as at:
        at.shelf.groups["g"] = (at.shelf.write("one", ""), at.shelf.write("two", ""))
        with pytest.raises(
            PolicyError, match=r"'one' and 'two' share the sandbox group 'g' but differ in 'memory'"
        ):
            await at.session("one")
        assert at.launcher.requests == []


async def test_the_list_of_sandboxes_tells_the_group_and_its_members(tmp_path: Path) -> None:
    policies = {"one": "group: g\n", "two": "group: g\n"}
    async with world(tmp_path, fake(), policies=policies) as at:
        at.shelf.groups["g"] = (at.shelf.write("one", ""), at.shelf.write("two", ""))
        await at.session("two")
        (info,) = at.manager.list()
        assert (info.group, info.extensions) == ("g", ("one", "two"))


async def test_a_handle_of_another_sandbox_is_refused(tmp_path: Path) -> None:
    async with world(tmp_path, fake()) as at:
        at.shelf.write("pack", "")
        session = await at.session("pack")
        handle = Value(
            {"$handle": {"id": 1, "type": "M", "sandbox": "other"}}, handles=((SandboxId("other"), 1),)
        )
        with pytest.raises(HandleNotPortableError, match="sandbox group"):
            await session.execute(call("X", {"model": handle}), ignore)


# -- calls ---------------------------------------------------------------------------------------------------


async def test_a_call_says_what_the_protocol_says(tmp_path: Path) -> None:
    said: list[dict[str, Any]] = []

    def execute(params: dict[str, Any]) -> dict[str, Any]:
        said.append(params)
        return EMPTY

    async with world(tmp_path, fake(serving(execute=execute))) as at:
        at.shelf.write("pack", "")
        session = await at.session("pack")
        asked = call(
            "X", {"a": 1, "b": None, "c": (Value(1), Value(2))}, hidden={"unique_id": "7"}, links=("b",)
        )
        await session.execute(asked, ignore)
    (params,) = said
    assert params.pop("call") == 1
    assert params.pop("extension") == "pack"
    assert params == {
        "prompt_id": "p",
        "node_id": "1",
        "class_type": "X",
        "instance": "1",
        "inputs": {"a": [1], "b": None, "c": [1, 2]},
        "hidden": {"unique_id": "7"},
        "links": ["b"],
    }


async def test_objects_are_granted_for_the_call_only_hidden_ones_too(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    async with world(tmp_path, fake()) as at:
        box: list[Path] = []

        async def execute(_: Any) -> dict[str, Any]:
            seen.append(sorted([path.name async for path in anyio.Path(box[0]).iterdir()]))
            return EMPTY

        at.launcher.scripts = [serving(execute=execute)]
        at.shelf.write("pack", "")
        session = await at.session("pack")
        box.append(at.places.inbox(session.sandbox))
        one, two = await at.store.put(TENANT, b"one"), await at.store.put(TENANT, b"{}")
        text = Value({"$str": {"file": one, "nbytes": 3}}, (one,))
        await session.execute(
            call("X", {"t": text}, hidden={"prompt": {"$json": {"file": two, "nbytes": 2}}}), ignore
        )
        assert seen == [sorted([one, two])]
        assert list(box[0].iterdir()) == []


async def test_a_nodes_error_leaves_the_sandbox_alive(tmp_path: Path) -> None:
    async def script(worker: FakeWorker) -> None:
        await worker.answer(await worker.receive(), HELLO)
        await worker.answer(await worker.receive(), LOADED)
        data = {"type": "ValueError", "message": "no", "traceback": ["line"], "inputs": {}}
        await worker.refuse(await worker.receive(), wire.NODE_RAISED, "no", data)
        await worker.answer(await worker.receive(), EMPTY)
        await worker.receive()

    async with world(tmp_path, fake(script)) as at:
        at.shelf.write("pack", "")
        session = await at.session("pack")
        at.launcher.usage = Usage(pids_refused=3)
        with pytest.raises(NodeRaisedError, match="no; the kernel refused a process or thread: pids cap 256"):
            await session.execute(call("X"), ignore)
        await session.execute(call("X"), ignore)


async def test_a_call_over_its_time_ends_the_sandbox(tmp_path: Path) -> None:
    policies = {"pack": "timeouts: {call: 50ms, grace: 10ms}\n"}
    async with world(tmp_path, fake(serving(execute=lambda _: None)), policies=policies) as at:
        at.shelf.write("pack", "")
        session = await at.session("pack")
        with (
            anyio.fail_after(60),
            pytest.raises(CallTimeoutError, match=r"\(X\) took longer than timeouts.call 50 ms"),
        ):
            await session.execute(call("X"), ignore)
        assert at.launcher.stopped == [session.sandbox]


async def test_a_node_that_heeds_the_interrupt_keeps_its_sandbox(tmp_path: Path) -> None:
    running = anyio.Event()

    async def script(worker: FakeWorker) -> None:
        await worker.answer(await worker.receive(), HELLO)
        await worker.answer(await worker.receive(), LOADED)
        request = await worker.receive()
        running.set()
        cancel = await worker.receive()
        assert cancel["method"] == wire.CANCEL
        assert cancel["params"] == {"call": request["params"]["call"]}
        await worker.refuse(request, wire.INTERRUPTED, "stopped")
        await worker.answer(await worker.receive(), EMPTY)
        await worker.receive()

    async with world(tmp_path, fake(script)) as at:
        at.shelf.write("pack", "")
        session = await at.session("pack")
        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(session.execute, call("X"), ignore)
                await running.wait()
                group.cancel_scope.cancel()
            await session.execute(call("X"), ignore)


async def deaf_until(worker: FakeWorker, heard: anyio.Event) -> None:
    """Once it is loaded it reads nothing before ``heard``."""
    await worker.answer(await worker.receive(), HELLO)
    await worker.answer(await worker.receive(), LOADED)
    transport: Any = worker.stream._transport  # type: ignore[attr-defined]  # a stream has no way to stop reading
    transport.pause_reading()
    await heard.wait()
    transport.resume_reading()


async def test_an_interrupt_while_the_call_waits_for_room_stops_it_and_keeps_the_sandbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        peer_module.Peer.__init__, "__kwdefaults__", {"frame_limit": wire.MAX_FRAME, "write_timeout_s": 60.0}
    )
    reads = anyio.Event()

    async def script(worker: FakeWorker) -> None:
        await deaf_until(worker, reads)
        request = await worker.receive()
        cancel = await worker.receive()
        assert cancel["method"] == wire.CANCEL
        assert cancel["params"] == {"call": request["params"]["call"]}
        await worker.refuse(request, wire.INTERRUPTED, "stopped")
        await worker.answer(await worker.receive(), EMPTY)
        await worker.receive()

    async with world(tmp_path, fake(script), policies={"pack": "timeouts: {grace: 30s}\n"}) as at:
        at.shelf.write("pack", "")
        session = await at.session("pack")
        over = anyio.Event()

        async def interrupted() -> None:
            try:
                await session.execute(call("X", {"a": "x" * 3_000_000}), ignore)
            finally:
                over.set()

        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(interrupted)
                await anyio.wait_all_tasks_blocked()
                group.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    await anyio.wait_all_tasks_blocked()
                    assert not over.is_set(), "its worker was not told, and may run it yet"
                    reads.set()
            await session.execute(call("X"), ignore)
        assert session.is_alive
        assert at.launcher.stopped == []


async def test_a_node_that_ignores_the_interrupt_ends_with_its_sandbox_only(tmp_path: Path) -> None:
    running = anyio.Event()

    async def hang(_: Any) -> None:
        running.set()

    async with world(tmp_path, fake(serving(execute=hang), obedient), policies={"bad": FAST}) as at:
        at.shelf.write("bad", "")
        at.shelf.write("good", "")
        bad, good = await at.session("bad"), await at.session("good")
        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(bad.execute, call("X"), ignore)
                await running.wait()
                group.cancel_scope.cancel()
        assert at.launcher.stopped == [bad.sandbox]
        assert good.is_alive
        assert at.manager.quarantined_for(TENANT, ExtensionName("bad")) == 0


async def test_a_result_that_comes_after_the_interrupt_is_given_back(tmp_path: Path) -> None:
    running = anyio.Event()

    async def script(worker: FakeWorker) -> None:
        await worker.answer(await worker.receive(), HELLO)
        await worker.answer(await worker.receive(), LOADED)
        request = await worker.receive()
        await worker.send({"id": 1, "method": wire.ALLOCATE, "params": {"bytes": 4}})
        file = (await worker.receive())["result"]["file"]
        running.set()
        await worker.receive()
        ref = {"file": file, "nbytes": 4, "dtype": "float32", "shape": [1], "requires_grad": False}
        await worker.answer(request, {**EMPTY, "slots": [[{"$tensor": ref}]]})
        await worker.receive()

    async with world(tmp_path, fake(script)) as at:
        at.shelf.write("pack", "")
        session = await at.session("pack")
        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(session.execute, call("X"), ignore)
                await running.wait()
                group.cancel_scope.cancel()
        assert session.is_alive
        assert at.store.usage().objects == 0


async def test_an_interrupted_node_is_an_error_of_its_own_kind(tmp_path: Path) -> None:
    async def script(worker: FakeWorker) -> None:
        await worker.answer(await worker.receive(), HELLO)
        await worker.answer(await worker.receive(), LOADED)
        await worker.refuse(await worker.receive(), wire.INTERRUPTED, "stopped by itself")
        await worker.receive()

    async with world(tmp_path, fake(script)) as at:
        at.shelf.write("pack", "")
        with pytest.raises(NodeInterruptedError):
            await (await at.session("pack")).execute(call("X"), ignore)


async def test_outputs_over_the_policys_bytes_are_refused_and_nothing_is_kept(tmp_path: Path) -> None:
    async def script(worker: FakeWorker) -> None:
        await worker.answer(await worker.receive(), HELLO)
        await worker.answer(await worker.receive(), LOADED)
        request = await worker.receive()
        await worker.send({"id": 1, "method": wire.ALLOCATE, "params": {"bytes": 8192}})
        file = (await worker.receive())["result"]["file"]
        ref = {"file": file, "nbytes": 8192, "dtype": "uint8", "shape": [8192], "requires_grad": False}
        await worker.answer(request, {**EMPTY, "slots": [[{"$tensor": ref}]]})
        await worker.receive()

    async with world(tmp_path, fake(script), policies={"pack": "limits: {output_bytes: 4KiB}\n"}) as at:
        at.shelf.write("pack", "")
        session = await at.session("pack")
        with pytest.raises(QuotaError, match=r"returned 8 KiB, limits\.output_bytes allows 4 KiB"):
            await session.execute(call("X"), ignore)
        assert at.store.usage().objects == 0
        assert session.is_alive


async def test_what_a_json_file_refers_to_is_taken_over_with_it(tmp_path: Path) -> None:
    async with world(tmp_path, fake()) as at:

        async def script(worker: FakeWorker) -> None:
            await worker.answer(await worker.receive(), HELLO)
            await worker.answer(await worker.receive(), LOADED)
            request = await worker.receive()
            files = []
            for number, size in enumerate((4, 300)):
                await worker.send({"id": number, "method": wire.ALLOCATE, "params": {"bytes": size}})
                files.append((await worker.receive())["result"]["file"])
            ref = {"file": files[0], "nbytes": 4, "dtype": "uint8", "shape": [4], "requires_grad": False}
            tree = [{"$tensor": ref}, {"$handle": {"id": 3, "type": "M"}}]
            box = at.places.outbox(at.launcher.requests[-1].sandbox)
            await anyio.Path(box / files[1]).write_bytes(json.dumps(tree).encode().ljust(300))
            await worker.answer(request, {**EMPTY, "slots": [[{"$json": {"file": files[1], "nbytes": 300}}]]})
            await worker.receive()

        at.launcher.scripts = [script]
        at.shelf.write("pack", "")
        session = await at.session("pack")
        result = await session.execute(call("X"), ignore)
        assert result.slots is not None
        ((value,),) = result.slots
        assert len(value.objects) == 2
        assert value.handles == ((session.sandbox, 3),)
        at.store.release(value)
        assert at.store.usage().objects == 0


async def test_progress_texts_events_and_logs_arrive_as_safe_text(tmp_path: Path) -> None:
    async def script(worker: FakeWorker) -> None:
        await worker.answer(await worker.receive(), HELLO)
        await worker.answer(await worker.receive(), LOADED)
        request = await worker.receive()
        number = request["params"]["call"]
        report = {"call": number, "node_id": "1", "value": 1, "max": 4.0, "preview": None, "legacy": True}
        await worker.send({"method": wire.PROGRESS, "params": report})
        await worker.send({"method": wire.TEXT, "params": {"node_id": "1", "text": "half\x1b[31m"}})
        await worker.send(
            {"method": wire.EVENT, "params": {"event": "my.event", "data": {"a": 2**80}, "sid": None}}
        )
        await worker.send(
            {"method": wire.LOG, "params": {"stream": "stdout", "text": "a\x07\nb", "dropped": 5}}
        )
        await worker.answer(request, EMPTY)
        await worker.receive()

    reports: list[Progress] = []
    async with world(tmp_path, fake(script)) as at:
        at.shelf.write("pack", "")
        session = await at.session("pack")
        await session.execute(call("X"), reports.append)
        assert [(report.value, report.max, report.legacy) for report in reports] == [(1.0, 4.0, True)]
        assert [event.data for _, _, event in at.events] == [{"text": "half\\x1b[31m"}, {"a": float(2**80)}]
        texts = [line.text for line in await at.manager.logs(TENANT, session.sandbox)]
        assert texts == ["5 bytes of output were dropped in the sandbox", "a\\x07", "b"]


async def test_a_flood_of_logs_is_dropped_and_counted(tmp_path: Path) -> None:
    async def script(worker: FakeWorker) -> None:
        await worker.answer(await worker.receive(), HELLO)
        await worker.answer(await worker.receive(), LOADED)
        request = await worker.receive()
        text = "\n".join(f"line {number}" for number in range(1000))
        await worker.send({"method": wire.LOG, "params": {"stream": "stderr", "text": text, "dropped": 0}})
        await worker.answer(request, EMPTY)
        await worker.receive()

    async with world(
        tmp_path, fake(script), policies={"pack": "limits: {log_rate: 10, log_bytes: 4KiB}\n"}
    ) as at:
        at.shelf.write("pack", "")
        session = await at.session("pack")
        await session.execute(call("X"), ignore)
        lines = [line.text for line in await at.manager.logs(TENANT, session.sandbox)]
        assert lines[:20] == [f"line {number}" for number in range(20)]
        assert "lines were dropped: over limits.log_rate" in lines[-1]


# -- hostile workers -----------------------------------------------------------------------------------------

PROGRESS = {"node_id": "1", "value": 1, "max": 2, "preview": None, "legacy": False}


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (raw(struct.pack(">I", 0)), "framing"),
        (raw(struct.pack(">I", 0xFFFFFFFF)), "framing"),
        (raw(struct.pack(">I", 5) + b"hello"), "not JSON"),
        (raw(struct.pack(">I", 2) + b"[]"), "no JSON-RPC"),
        (sends({"id": 999, "result": 1}), "answered call 999, which nobody made"),
        (sends({"id": 1, "result": 1}), "answered call 1, which nobody made"),
        (sends({"id": 5, "method": "tenant/list", "params": {}}), "a worker may not"),
        (sends({"id": 5, "method": wire.LOG, "params": {}}), "as a request"),
        (sends({"method": wire.ALLOCATE, "params": {"bytes": 1}}), "as a notification"),
        (sends({"method": wire.DISCARD, "params": {"file": "0" * 32}}), "not given"),
        (sends({"method": wire.PROGRESS, "params": {"call": 77, **PROGRESS}}), "never made"),
        (sends({"id": 5, "method": wire.ALLOCATE, "params": {"bytes": -1}}), "bad shm/allocate"),
        (serving(execute={"slots": 1}), "bad node result"),
        (serving(execute={**EMPTY, "slots": [[{"$tensor": {}}]]}), "tensor ref"),
        (serving(execute={**EMPTY, "slots": [[{"$str": {"file": "0" * 32, "nbytes": 3}}]]}), "not given"),
    ],
)
async def test_a_worker_that_breaks_the_protocol_is_ended_and_others_live_on(
    tmp_path: Path, script: Script, says: str
) -> None:
    async with world(tmp_path, fake(obedient, script), policies={"bad": FAST}) as at:
        at.shelf.write("good", "")
        at.shelf.write("bad", "")
        good = await at.session("good")
        bad = await at.session("bad")
        with anyio.fail_after(60), pytest.raises(ProtocolViolationError, match=says) as caught:
            await bad.execute(call("X"), ignore)
        assert str(caught.value).startswith("extension 'bad' broke the protocol and was ended: it ")
        assert at.launcher.stopped == [bad.sandbox]
        assert (await good.execute(call("X"), ignore)).slots == ()
        assert at.store.usage().objects == 0


async def test_an_id_used_twice_at_once_is_a_violation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = [{"id": 5, "method": wire.ALLOCATE, "params": {"bytes": 3 << 20}}] * 2
    async with world(tmp_path, fake(sends(*frames))) as at:
        at.shelf.write("bad", "")
        session = await at.session("bad")
        with anyio.fail_after(60), pytest.raises(ProtocolViolationError, match="id 5 twice"):
            await session.execute(call("X"), ignore)


async def test_a_stream_that_breaks_off_inside_a_frame_is_a_violation(tmp_path: Path) -> None:
    async def script(worker: FakeWorker) -> None:
        await worker.answer(await worker.receive(), HELLO)
        await worker.answer(await worker.receive(), LOADED)
        await worker.receive()
        await worker.send_raw(struct.pack(">I", 100) + b"half")

    async with world(tmp_path, fake(script)) as at:
        at.shelf.write("bad", "")
        session = await at.session("bad")
        with anyio.fail_after(60), pytest.raises((ProtocolViolationError, EndedError)):
            await session.execute(call("X"), ignore)


async def test_a_worker_that_does_not_read_cannot_hold_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        peer_module.Peer.__init__, "__kwdefaults__", {"frame_limit": wire.MAX_FRAME, "write_timeout_s": 0.2}
    )
    deaf = anyio.Event()

    async def script(worker: FakeWorker) -> None:
        await deaf_until(worker, deaf)

    async with world(tmp_path, fake(script), policies={"bad": FAST}) as at:
        at.shelf.write("bad", "")
        session = await at.session("bad")
        with anyio.fail_after(60), pytest.raises(ProtocolViolationError, match="has not read"):
            await session.execute(call("X", {"a": "x" * 3_000_000}), ignore)


async def test_a_worker_that_connects_and_never_speaks_is_ended_in_time(tmp_path: Path) -> None:
    async def silent(worker: FakeWorker) -> None:
        while True:
            await worker.receive()

    async with world(tmp_path, fake(silent), policies={"bad": "timeouts: {import: 100ms}\n"}) as at:
        at.shelf.write("bad", "")
        with anyio.fail_after(60), pytest.raises(EndedError, match="hello took longer"):
            await at.session("bad")


async def test_another_protocol_version_is_refused_with_the_remedy(tmp_path: Path) -> None:
    async with world(tmp_path, fake(serving(hello={**HELLO, "protocol": 2}))) as at:
        at.shelf.write("old", "")
        with pytest.raises(ProtocolViolationError, match="rebuild the node image"):
            await at.session("old")


@pytest.mark.parametrize(
    ("load", "says"),
    [
        (lambda _: None, "could not be loaded: .* took longer than timeouts.import"),
    ],
)
async def test_an_import_that_hangs_is_a_failed_load(
    tmp_path: Path, load: Callable[[Any], Any], says: str
) -> None:
    policies = {"pack": "timeouts: {import: 200ms}\n"}
    async with world(tmp_path, fake(serving(load=load)), policies=policies) as at:
        at.shelf.write("pack", "")
        with anyio.fail_after(60), pytest.raises(LoadFailedError, match=says):
            await at.session("pack")
        assert at.manager.list() == []


async def test_an_import_that_raises_is_a_failed_load_and_no_reason_to_hold_back(tmp_path: Path) -> None:
    async def script(worker: FakeWorker) -> None:
        await worker.answer(await worker.receive(), HELLO)
        data = {"type": "ImportError", "message": "no module named x", "traceback": [], "inputs": {}}
        await worker.refuse(await worker.receive(), wire.LOAD_FAILED, "", data)
        await worker.receive()

    async with world(tmp_path, fake(script)) as at:
        at.shelf.write("pack", "")
        for _ in range(5):
            with pytest.raises(
                LoadFailedError, match="'pack' could not be loaded: ImportError: no module named x"
            ):
                await at.session("pack")


async def test_an_import_that_reaches_for_the_network_says_whose_wall_it_met(tmp_path: Path) -> None:
    async def script(worker: FakeWorker) -> None:
        await worker.answer(await worker.receive(), HELLO)
        kind = "requests.exceptions.ConnectionError"
        data = {"type": kind, "message": "no name", "traceback": [], "inputs": {}}
        await worker.refuse(await worker.receive(), wire.LOAD_FAILED, "", data)
        await worker.receive()

    async with world(tmp_path, fake(script)) as at:
        at.shelf.write("pack", "")
        with pytest.raises(LoadFailedError, match="ConnectionError: no name; a sandbox has no network"):
            await at.session("pack")


async def test_a_stranger_at_the_socket_is_turned_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandbox.testing.os.getuid", lambda: 4242)
    async with world(tmp_path, fake()) as at:
        at.shelf.write("pack", "")
        with pytest.raises(ProtocolViolationError, match="only uid 4242 may"):
            await at.session("pack")


async def test_leaving_while_nodes_run_ends_everything_in_time(tmp_path: Path) -> None:
    running = anyio.Event()

    async def hang(_: Any) -> None:
        running.set()

    errors: list[BaseException] = []
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:  # noqa: SIM117
            async with world(tmp_path, fake(serving(execute=hang)), policies={"pack": FAST}) as at:
                at.shelf.write("pack", "")
                session = await at.session("pack")

                async def run() -> None:
                    try:
                        await session.execute(call("X"), ignore)
                    except EndedError as error:
                        errors.append(error)

                group.start_soon(run)
                await running.wait()
    assert "shutting down" in str(errors[0])

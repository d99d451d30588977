"""One behaviour suite for every kind of sandbox: real worker, every launcher, both transports.

What differs between them is data: ``KINDS``. Anything else that differs is a bug.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

from sandbox import (
    EndedError,
    FastPath,
    HandleNotPortableError,
    ManagerLimits,
    NodeInterruptedError,
    NodeRaisedError,
    Progress,
    Session,
    Value,
    take_fast_paths,
    takes,
)
from sandbox.testing import UnconfinedLauncher
from tests.contract.kit import (
    CHECKOUT,
    GVISOR,
    TENANT,
    MakeLauncher,
    World,
    call,
    ignore,
    in_docker,
    tensor_of,
    world,
)

pytestmark = pytest.mark.anyio
PACK = CHECKOUT / "tests" / "contract" / "pack"


@dataclass(frozen=True)
class Kind:
    """A kind of sandbox and what is particular about it."""

    name: str
    make: MakeLauncher
    policy: str
    pid_one: bool
    adopts: bool = True
    """Outputs are taken over without a copy. gVisor keeps a file open behind the program's back: always a copy."""
    spare: bool = False
    """Its sandboxes come from the pool: they waited for what they run, and imported torch meanwhile."""


KINDS = [
    Kind("plain-socket", lambda places, _: UnconfinedLauncher(places), "", pid_one=False),
    Kind(
        "plain-stdio",
        lambda places, _: UnconfinedLauncher(places, transport="stdio"),
        "transport: stdio\n",
        pid_one=False,
    ),
    Kind("docker-socket", in_docker, "", pid_one=True),
    Kind("docker-spare", in_docker, "", pid_one=True, spare=True),
    Kind("docker-stdio", in_docker, "transport: stdio\n", pid_one=True),
    Kind("docker-gvisor-socket", in_docker, GVISOR, pid_one=True, adopts=False),
    Kind("docker-gvisor-stdio", in_docker, GVISOR + "transport: stdio\n", pid_one=True, adopts=False),
]
MARKS = {False: [pytest.mark.docker], True: [pytest.mark.docker, pytest.mark.gvisor]}
POLICY = "timeouts: {call: 60s, grace: 1s}\nmemory: 1GiB\n"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(
            kind, id=kind.name, marks=MARKS[kind.policy.startswith(GVISOR)] if "docker" in kind.name else []
        )
        for kind in KINDS
    ],
)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
async def at(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    directory = tmp_path_factory.mktemp(kind.name)
    policy = POLICY + kind.policy
    limits = ManagerLimits(spares=2, spare_settle_s=0.0) if kind.spare else None
    policies = {"pack": policy, "twin": policy}
    async with world(directory, kind.make, policies=policies, limits=limits) as made:
        made.shelf.add(PACK)
        made.shelf.add(PACK, "twin")
        if kind.spare:
            await use_spares(made)
        yield made


async def use_spares(at: World) -> None:
    """From here on the current sandboxes of both packs are spares that were put to use."""
    for name in ("pack", "twin"):
        await run(await at.session(name), "echo", 1)
    with anyio.fail_after(60):
        await at.manager.pool_filled(2)
    for name in ("pack", "twin"):
        await at.manager.stop(TENANT, (await at.session(name)).sandbox)
        await at.session(name)
    assert (at.manager.pool.taken, at.manager.pool.missed) == (2, 2)


async def run(session: Session, class_type: str, value: Any) -> tuple[Value, ...]:
    """One call with one input; the first value of each output."""
    with anyio.fail_after(60):
        result = await session.execute(call(class_type, {"value": value}), ignore)
    assert result.slots is not None
    return tuple(slot[0] for slot in result.slots)


async def test_it_loads_and_describes_its_nodes(at: World, kind: Kind) -> None:
    session = await at.session("pack")
    names = {node.class_type for node in session.loaded.nodes}
    assert {"echo", "views", "stubborn"} <= names
    assert session.loaded.api == "v1"
    (node,) = await session.describe(["progresses"])
    assert node.output_node
    assert node.info["category"] == "contract"
    sandbox = at.manager._all[session.sandbox].sandbox
    assert sandbox.hello is not None
    assert (sandbox.hello.pid == 1) is kind.pid_one


async def test_what_a_pack_did_is_counted_and_describing_its_nodes_is_not(at: World) -> None:
    session = await at.session("pack")

    def at_rest() -> int | None:
        (info,) = [info for info in at.manager.list() if info.id == session.sandbox]
        return info.at_rest

    before = at_rest()
    assert before is not None
    await session.describe(["echo"])
    await at.session("pack")
    assert at_rest() == before
    during: list[int | None] = []
    with anyio.fail_after(30):
        await session.execute(call("progresses", {"value": 5}), lambda _: during.append(at_rest()))
    assert during
    assert set(during) == {None}
    assert at_rest() == before + 1


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -(2**63),
        2**70,
        1.5,
        "text \u2603",
        [1, [2, None]],
        {"a": {"b": 1}},
        {"$tuple": [1, "a"]},
        {"$dict": [[1, "one"], [{"$tuple": [1]}, 2]]},
        {"$float": "nan"},
        {"$complex": [1.0, -2.0]},
        {"$set": [1]},
    ],
    ids=repr,
)
async def test_plain_values_survive_the_trip(at: World, value: Any) -> None:
    (back,) = await run(await at.session("pack"), "echo", value)
    assert back.tree == value
    assert back.objects == ()


DTYPES = ["bool", "uint8", "int16", "uint32", "int64", "float16", "float32", "float64", "complex64"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
async def test_tensors_survive_the_trip_and_are_taken_over(
    at: World, dtype: str, shape: tuple[int, ...]
) -> None:
    made = (np.arange(np.prod(shape, dtype=int)) % 2).astype(dtype).reshape(shape)
    data = made.tobytes()
    objects: tuple[str, ...] = (await at.store.put(TENANT, data),) if data else ()
    ref = {
        "file": objects[0] if objects else None,
        "nbytes": len(data),
        "dtype": dtype,
        "shape": list(shape),
        "requires_grad": False,
    }
    given = Value({"$tensor": ref}, objects, nbytes=len(data))
    (back,) = await run(await at.session("pack"), "echo", given)
    assert back.tree["$tensor"]["dtype"] == dtype
    np.testing.assert_array_equal(tensor_of(back, at.store), made)
    assert back.objects != given.objects or not objects
    at.store.release(given)
    at.store.release(back)


async def a_tensor(at: World, count: int) -> Value:
    """A tensor that a worker made: adopted."""
    (made,) = await run(await at.session("pack"), "full", count)
    return made


async def test_an_output_is_adopted_without_a_copy_where_the_runtime_lets_go_of_files(
    at: World, kind: Kind
) -> None:
    made = await a_tensor(at, 100_000)
    assert at.store._held.objects[made.objects[0]].leased is (kind.adopts and takes(FastPath.ADOPTED_OUTPUTS))
    at.store.release(made)


async def test_writing_to_an_input_in_place_changes_only_the_nodes_own_copy(at: World) -> None:
    made = await a_tensor(at, 1000)
    (doubled,) = await run(await at.session("pack"), "double_in_place", made)
    assert set(tensor_of(doubled, at.store)) == {14}
    assert set(tensor_of(made, at.store)) == {7}
    at.store.release(made)
    at.store.release(doubled)


async def test_a_tensor_goes_from_one_sandbox_to_another_without_a_copy(at: World) -> None:
    made = await a_tensor(at, 5000)
    (text,) = await run(await at.session("twin"), "describe", made)
    assert text.tree == "Tensor torch.uint8 (5000,)"
    at.store.release(made)


async def test_an_input_that_comes_out_unchanged_is_handed_on_without_a_copy(at: World, kind: Kind) -> None:
    made = await a_tensor(at, 1_000_000)
    (echoed,) = await run(await at.session("twin"), "echo", made)
    (changed,) = await run(await at.session("twin"), "double_in_place", made)
    assert (echoed.objects == made.objects) is (kind.adopts and takes(FastPath.UNCHANGED_INPUTS))
    assert changed.objects != made.objects
    assert set(tensor_of(echoed, at.store)) == {7}
    at.store.release(made)
    (again,) = await run(await at.session("pack"), "echo", echoed)
    assert set(tensor_of(again, at.store)) == {7}
    for value in (echoed, changed, again):
        at.store.release(value)


@pytest.mark.usefixtures("every_fast_path")
@pytest.mark.parametrize("path", [FastPath.UNCHANGED_INPUTS, FastPath.ADOPTED_OUTPUTS])
async def test_with_a_shorter_way_switched_off_tensors_are_the_same(tmp_path: Path, path: FastPath) -> None:
    take_fast_paths(set(FastPath) - {path})
    async with world(tmp_path, lambda places, _: UnconfinedLauncher(places)) as at:
        at.shelf.add(PACK)
        made = await a_tensor(at, 1_000_000)
        (echoed,) = await run(await at.session("pack"), "echo", made)
        assert at.store._held.objects[made.objects[0]].leased is (path is not FastPath.ADOPTED_OUTPUTS)
        assert (echoed.objects == made.objects) is (path is not FastPath.UNCHANGED_INPUTS)
        assert set(tensor_of(echoed, at.store)) == set(tensor_of(made, at.store)) == {7}


async def test_what_was_read_is_free_again_while_its_reader_lives(at: World, kind: Kind) -> None:
    """gVisor would hold each file that was read until its sandbox ends."""
    objects: list[str] = []

    async def give(class_type: str, nbytes: int) -> None:
        name = await at.store.put(TENANT, bytes(nbytes))
        ref = {"file": name, "nbytes": nbytes, "dtype": "uint8", "shape": [nbytes], "requires_grad": False}
        given = Value({"$tensor": ref}, (name,))
        (made,) = await run(await at.session("twin"), class_type, given)
        at.store.release(given)
        at.store.release(made)
        objects.append(name)

    async def until_free(left: int) -> None:
        with anyio.fail_after(60):
            while at.store.usage().bytes > left:
                await anyio.sleep(0.01)
                at.store._reaper.ask_again()

    sandbox = (await at.session("twin")).sandbox
    await until_free(0)
    for nbytes in (8192, 1 << 20, 4 << 20):  # read, mapped, mapped
        await give("describe", nbytes)
    await until_free(0)
    await give("holds", 4 << 20)
    await give("describe", 4 << 20)
    await until_free(4 << 20)
    assert at.store.usage().bytes == 4 << 20  # what is still in use is still counted
    await run(await at.session("twin"), "holds", 0)
    await until_free(0)
    assert (await at.session("twin")).sandbox == sandbox


async def test_views_arrive_as_what_they_show(at: World) -> None:
    base = np.arange(12, dtype="int64").reshape(3, 4)
    name = await at.store.put(TENANT, base.tobytes())
    ref = {"file": name, "nbytes": 96, "dtype": "int64", "shape": [3, 4], "requires_grad": False}
    sliced, turned, expanded = await run(await at.session("pack"), "views", Value({"$tensor": ref}, (name,)))
    np.testing.assert_array_equal(tensor_of(sliced, at.store), base[1:, ::2])
    np.testing.assert_array_equal(tensor_of(turned, at.store), base.T)
    np.testing.assert_array_equal(tensor_of(expanded, at.store), np.broadcast_to(base[:1], (5, 4)))
    for value in (sliced, turned, expanded, Value(None, (name,))):
        at.store.release(value)


async def test_long_text_travels_as_a_file(at: World) -> None:
    text = "snow \u2603 " * 50_000
    name = await at.store.put(TENANT, text.encode())
    given = Value({"$str": {"file": name, "nbytes": len(text.encode())}}, (name,))
    (back,) = await run(await at.session("pack"), "echo", given)
    assert await at.store.read(back.objects[0], 1 << 20) == text.encode()
    at.store.release(given)
    at.store.release(back)


async def test_a_large_value_travels_as_a_file_with_what_it_refers_to(at: World) -> None:
    made = await a_tensor(at, 10)
    tree = [{"n": number, "text": "x" * 100} for number in range(2000)]
    (back,) = await run(await at.session("pack"), "echo", Value([made.tree, tree], made.objects))
    assert "$json" in back.tree
    assert len(back.objects) == 2
    (again,) = await run(await at.session("twin"), "describe", back)
    assert again.tree.startswith("list")
    at.store.release(made)
    at.store.release(back)


async def test_a_nodes_exception_is_a_result_and_the_sandbox_lives_on(at: World) -> None:
    session = await at.session("pack")
    with pytest.raises(NodeRaisedError, match="no: 5") as caught:
        await run(session, "fails", 5)
    assert caught.value.exception_type == "ValueError"
    assert any("raise ValueError" in line for line in caught.value.traceback)
    assert session.is_alive


async def test_what_a_pack_prints_arrives_as_logs_and_never_in_the_protocol(at: World) -> None:
    session = await at.session("pack")
    await run(session, "prints", "hello \x1b[31mred")
    lines = {(line.stream, line.text) for line in await at.manager.logs(TENANT, session.sandbox)}
    assert {("stdout", "hello \\x1b[31mred"), ("stderr", "to stderr"), ("stdout", "past python")} <= lines


async def test_progress_arrives_and_ends_at_its_end(at: World) -> None:
    reports: list[Progress] = []
    session = await at.session("pack")
    await session.execute(call("progresses", {"value": 5}), reports.append)
    assert reports
    assert (reports[-1].value, reports[-1].max) == (5.0, 5.0)
    assert {report.node_id for report in reports} == {"1"}


async def test_an_object_stays_in_its_sandbox_and_can_be_used_there(at: World) -> None:
    session = await at.session("pack")
    (handle,) = await run(session, "make_object", 41)
    assert handle.handles[0][0] == session.sandbox
    (back,) = await run(session, "use_object", handle)
    assert back.tree == 41
    with pytest.raises(HandleNotPortableError):
        await run(await at.session("twin"), "use_object", handle)
    await session.release_handles([handle.handles[0][1]])


async def test_a_patient_node_is_interrupted_and_its_sandbox_kept(at: World) -> None:
    session = await at.session("pack")
    await interrupted(at, session, "patient")
    assert session.is_alive
    assert (await run(session, "echo", 1))[0].tree == 1


async def interrupted(at: World, session: Session, class_type: str) -> None:
    """Start a node that waits, see that it runs, cancel it, and wait until it does not."""
    logbook = at.manager._all[session.sandbox].sandbox.logbook
    before = len([line for line in logbook.lines(10_000) if line.text == "waiting"])

    async def wait_for_it() -> None:
        # No event tells of a log line; the caller bounds the wait.
        while len([line for line in logbook.lines(10_000) if line.text == "waiting"]) == before:  # noqa: ASYNC110 - the logbook offers no event
            await anyio.sleep(0.01)

    async def start() -> None:
        try:
            await session.execute(call(class_type, {"value": 0}), ignore)
        except NodeInterruptedError:
            pass

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(start)
            await wait_for_it()
            group.cancel_scope.cancel()


async def test_a_stubborn_node_ends_after_its_grace_with_its_sandbox_only(at: World) -> None:
    twin, other = await at.session("twin"), await at.session("pack")
    with anyio.fail_after(60):
        await interrupted(at, twin, "stubborn")
    assert not twin.is_alive
    assert "did not stop when it was interrupted within timeouts.grace 1 s" in str(twin._sandbox.ended_by)
    assert other.is_alive
    again = await at.session("twin")
    assert again.sandbox != twin.sandbox
    assert (await run(again, "echo", 2))[0].tree == 2


async def test_a_worker_that_leaves_fails_its_call_with_its_status_and_is_replaced(at: World) -> None:
    session = await at.session("twin")
    with pytest.raises(EndedError, match="extension 'twin' ended: left with status 7") as caught:
        await run(session, "leaves", 7)
    assert (caught.value.limit, caught.value.figure) == ("exit", "7")
    assert (await run(await at.session("twin"), "echo", 3))[0].tree == 3


async def test_nothing_is_left_in_shared_memory_when_all_values_are_released(at: World) -> None:
    for sandbox in list(at.manager.list()):
        await at.manager.stop(TENANT, sandbox.id)
    at.store._reaper.ask_again()
    left = [entry for entry in at.store._held.objects.values() if entry.references > 0]
    assert left == []
    assert at.store.usage().bytes == 0
    assert os.listdir(at.places.store) == []


def test_kinds_have_names_of_their_own() -> None:
    assert len({kind.name for kind in KINDS}) == len(KINDS)
    assert Path(PACK).is_dir()

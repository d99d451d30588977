"""Files that a call takes along: dead outputs of the same sandbox, for a node that made such, and back afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runtime import wire
from sandbox import EndedError, FastPath, NodeRaisedError, Value, take_fast_paths
from sandbox.kept_outputs import SMALLEST
from sandbox.testing import HELLO, LOADED, FakeLauncher, FakeWorker, Script
from tests.contract.kit import MakeLauncher, World, call, ignore, world

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("every_fast_path")]

SIZE = SMALLEST
EMPTY: dict[str, Any] = {"slots": [], "ui": None, "calls": None, "blocked": []}


def fake(*scripts: Script) -> MakeLauncher:
    return lambda places, _policies: FakeLauncher(places, *scripts)


class Maker:
    """A worker whose node returns a tensor of ``SIZE`` in the file it is offered, or in one that it asks for."""

    def __init__(self) -> None:
        self.offered: list[list[dict[str, Any]]] = []
        """By call."""
        self.asked = 0
        self.leaves = False
        """Whether it leaves what it is offered."""

    async def __call__(self, worker: FakeWorker) -> None:
        await worker.answer(await worker.receive(), HELLO)
        await worker.answer(await worker.receive(), LOADED)
        while True:
            request = await worker.receive()
            if request["method"] != wire.EXECUTE:
                continue
            offered = request["params"].get("offered", [])
            self.offered.append(offered)
            if request["params"]["class_type"] == "Fails":
                await worker.refuse(request, wire.NODE_RAISED, "no")
                continue
            if request["params"]["class_type"] == "Leaves":
                return
            file = offered[0]["file"] if offered and not self.leaves else await self._allocated(worker)
            ref = {"file": file, "nbytes": SIZE, "dtype": "uint8", "shape": [SIZE], "requires_grad": False}
            slots = [] if self.leaves else [[{"$tensor": ref}]]
            await worker.answer(request, {**EMPTY, "slots": slots})

    async def _allocated(self, worker: FakeWorker) -> str:
        if self.leaves:
            return ""
        self.asked += 1
        await worker.send({"id": self.asked, "method": wire.ALLOCATE, "params": {"bytes": SIZE}})
        return str((await worker.receive())["result"]["file"])


async def made(at: World, class_type: str = "X", node_id: str = "1") -> None:
    """Run a node whose output nobody wants then."""
    session = await at.session("pack")
    result = await session.execute(call(class_type, node_id=node_id), ignore)
    for slot in result.slots or ():
        for value in slot:
            at.store.release(value)


async def begun(at: World) -> Maker:
    maker = Maker()
    at.launcher.scripts = [maker]
    at.shelf.write("pack", "")
    await made(at)
    return maker


async def test_a_node_is_offered_a_dead_output_of_the_size_that_it_made_last(tmp_path: Path) -> None:
    async with world(tmp_path, fake()) as at:
        maker = await begun(at)
        box = at.places.outbox(at.launcher.requests[-1].sandbox)
        for _ in range(3):
            await made(at)
        assert maker.asked == 1
        assert [len(offered) for offered in maker.offered] == [0, 1, 1, 1]
        names = [offered[0]["file"] for offered in maker.offered[1:]]
        assert len(set(names)) == 3  # a new name each time: an old one is never good again
        assert maker.offered[1][0] == {"file": names[0], "bytes": SIZE, "huge": 0}
        assert not list(box.iterdir())


async def test_while_a_call_runs_the_file_for_the_next_is_laid_out(tmp_path: Path) -> None:
    async with world(tmp_path, fake()) as at:
        maker = await begun(at)
        session = await at.session("pack")
        held = [await session.execute(call("X"), ignore) for _ in range(2)]
        for result in held:
            for slot in result.slots or ():
                at.store.release(slot[0])
        await made(at)
        (ready,) = at.places.outbox(session.sandbox).iterdir()
        await made(at)
        assert maker.offered[-1][0]["file"] == ready.name


async def test_another_node_and_one_without_a_dead_output_are_offered_nothing(tmp_path: Path) -> None:
    async with world(tmp_path, fake()) as at:
        maker = await begun(at)
        await made(at, node_id="2")
        session = await at.session("pack")
        held = await session.execute(call("X"), ignore)  # offered the only one there was
        await session.execute(call("X"), ignore)
        assert [len(offered) for offered in maker.offered] == [0, 0, 1, 0]
        assert held.slots is not None
        (used,) = maker.offered[2]
        assert held.slots[0][0] == Value(held.slots[0][0].tree, (used["file"],), (), SIZE)


async def test_what_a_node_leaves_is_freed_and_it_is_offered_nothing_more(tmp_path: Path) -> None:
    async with world(tmp_path, fake()) as at:
        maker = await begun(at)
        sandbox = at.launcher.requests[-1].sandbox
        maker.leaves = True
        await made(at)
        assert [len(offered) for offered in maker.offered] == [0, 1]
        assert at.store.sandbox_bytes(sandbox) == 0
        assert not list(at.places.outbox(sandbox).iterdir())
        await made(at)
        assert maker.offered[2] == []


async def test_a_node_that_raises_leaves_no_file_behind(tmp_path: Path) -> None:
    async with world(tmp_path, fake()) as at:
        maker = await begun(at)
        session: Any = await at.session("pack")
        session._offers.sizes["Fails", "1"] = [SIZE]
        with pytest.raises(NodeRaisedError):
            await session.execute(call("Fails"), ignore)
        assert len(maker.offered[1]) == 1
        assert at.store.sandbox_bytes(session.sandbox) == 0


async def test_a_sandbox_that_ends_with_an_offer_leaves_nothing(tmp_path: Path) -> None:
    async with world(tmp_path, fake()) as at:
        await begun(at)
        session: Any = await at.session("pack")
        session._offers.sizes["Leaves", "1"] = [SIZE]
        with pytest.raises(EndedError):
            await session.execute(call("Leaves"), ignore)
        assert at.store.usage().objects == 0


async def test_a_name_that_was_offered_is_good_for_that_call_only(tmp_path: Path) -> None:
    async with world(tmp_path, fake()) as at:
        maker = await begun(at)
        maker.leaves = True
        session = await at.session("pack")
        await session.execute(call("X"), ignore)
        (gone,) = maker.offered[1]
        assert not at.store.has_allocated(session.sandbox, gone["file"])  # no name of a later call


async def test_nothing_is_offered_that_others_would_have_to_do_without(tmp_path: Path) -> None:
    cap = {"pack": f"shared_memory: {SIZE + SIZE // 2}\n"}
    async with world(tmp_path, fake(), policies=cap) as at:
        maker = await begun(at)
        await made(at)
        assert maker.offered == [[], []], "it lies where another size would find no room"


async def test_nothing_is_offered_where_that_way_is_not_taken(tmp_path: Path) -> None:
    take_fast_paths({*FastPath} - {FastPath.OFFERED_OUTPUTS})
    async with world(tmp_path, fake()) as at:
        maker = await begun(at)
        await made(at)
        assert maker.offered == [[], []]
        assert maker.asked == 2

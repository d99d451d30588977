"""The catalogue answers with what is known; outdated and slow packs are caught up with behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from engine import extension_updates
from engine.extension_errors import UpdateFailedError
from engine.extensions import ExtensionRegistry
from policies import LOCAL_TENANT, ExtensionName
from sandbox.environment_errors import BuildFailedError
from sandbox.errors import StartError
from tests.unit.extensions.stand_ins import FakeImage
from tests.unit.extensions.test_extensions import House

pytestmark = pytest.mark.anyio

PACKS = ("a", "b", "c", "d")


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path.resolve())


@asynccontextmanager
async def after_new_image(house: House, *gated: str) -> AsyncIterator[ExtensionRegistry]:
    """A host that starts with another image than its packs, each with a node of its name, were added on."""
    async with house.open() as registry:
        for name in PACKS:
            await registry.add(LOCAL_TENANT, house.pack(name, f"# nodes: {name.upper()}"))
    house.environments.current = FakeImage("sha256:two")
    async with house.open() as registry:
        house.sandboxes.more = {name: f"{name}New" for name in PACKS}  # what a pack has on the new image only
        house.sandboxes.gates = {name: anyio.Event() for name in gated}
        yield registry


async def until(condition: object) -> None:
    assert callable(condition)
    with anyio.fail_after(60):
        while not condition():
            await anyio.lowlevel.checkpoint()


async def note(registry: ExtensionRegistry, name: str) -> str:
    return (await registry.get(LOCAL_TENANT, ExtensionName(name))).outdated


async def test_the_catalogue_answers_while_outdated_packs_are_brought_up_to_date_two_at_a_time(
    house: House,
) -> None:
    async with after_new_image(house, *PACKS) as registry:
        with anyio.fail_after(60):
            types = await registry.refresh(LOCAL_TENANT, None)
        assert {"A", "B", "C", "D", "LoadImage"} <= types.keys()
        assert "aNew" not in types
        await until(lambda: len(house.sandboxes.waiting) == 2)
        assert sorted(house.sandboxes.waiting) == ["a", "b"]
        assert await note(registry, "a") == "is being brought up to date with the node image and its policy"
        assert (
            await note(registry, "c")
            == "waits for its turn to be brought up to date with the node image and its policy"
        )
        await registry.refresh(LOCAL_TENANT, None)  # asks for nothing twice
        house.sandboxes.gates["a"].set()
        await until(lambda: len(house.sandboxes.waiting) == 3)
        assert sorted(house.sandboxes.waiting) == ["a", "b", "c"]
        assert "aNew" in await registry.node_types(LOCAL_TENANT)
        assert await note(registry, "a") == ""
        for gate in house.sandboxes.gates.values():
            gate.set()
        await registry.make_current(LOCAL_TENANT, ["B", "C", "D"])
        assert {"bNew", "cNew", "dNew"} <= (await registry.node_types(LOCAL_TENANT)).keys()
        assert sorted(house.sandboxes.started) == ["a", "b", "c", "core", "d"]


async def test_a_prompt_waits_for_its_own_extension_and_passes_the_line(house: House) -> None:
    async with after_new_image(house, "a", "b") as registry:
        await registry.refresh(LOCAL_TENANT, None)
        with anyio.fail_after(60):
            await registry.make_current(LOCAL_TENANT, ["D", "LoadImage", "Unknown"])
        types = await registry.node_types(LOCAL_TENANT)
        assert "dNew" in types
        assert "aNew" not in types


async def test_an_update_that_fails_is_said_and_tried_again_for_a_prompt_only(house: House) -> None:
    async with after_new_image(house) as registry:
        house.environments.fails = BuildFailedError("no numpy for you", hint="be patient")
        await registry.refresh(LOCAL_TENANT, None)
        with pytest.raises(
            UpdateFailedError, match="extension 'a' could not be brought up to date"
        ) as caught:
            await registry.make_current(LOCAL_TENANT, ["A"])
        assert caught.value.hint == "be patient"
        assert "no numpy for you" in await note(registry, "a")
        assert "A" in await registry.refresh(LOCAL_TENANT, None)
        assert "A" in await registry.refresh(LOCAL_TENANT, ["A"])
        house.environments.fails = None
        await registry.refresh(LOCAL_TENANT, None)
        await anyio.wait_all_tasks_blocked()
        assert "aNew" not in await registry.node_types(LOCAL_TENANT)  # it failed a moment ago
        await registry.make_current(LOCAL_TENANT, ["A"])
        assert "aNew" in await registry.node_types(LOCAL_TENANT)
        assert await note(registry, "a") == ""


async def test_descriptions_outlive_a_host_that_stopped_on_the_way_to_newer_ones(house: House) -> None:
    async with after_new_image(house) as registry:

        def fail(name: str) -> None:
            raise StartError(f"{name} does not start")

        house.sandboxes.on_start = fail
        with pytest.raises(UpdateFailedError):
            await registry.make_current(LOCAL_TENANT, ["A"])
        assert house.meta("a")["image_id"] == "sha256:two"
    async with house.open() as registry:
        house.sandboxes.more = {"a": "aNew"}
        assert "A" in await registry.node_types(LOCAL_TENANT)
        assert (
            await note(registry, "a")
            == "is brought up to date with the node image and its policy when it is used"
        )
        await registry.make_current(LOCAL_TENANT, ["A"])
        assert "aNew" in await registry.node_types(LOCAL_TENANT)


async def test_a_pack_that_is_slow_to_describe_does_not_hold_the_catalogue(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        extension_updates, "PACK_S", 2.0
    )  # the other one answers within it on a busy machine, too
    async with house.open() as registry:
        await registry.add(LOCAL_TENANT, house.pack())
        await registry.add(LOCAL_TENANT, house.pack("glow", "# nodes: Glow"))
        session = await house.sandboxes.acquire(LOCAL_TENANT, ExtensionName("blur"))
        session.before_describe = anyio.Event()
        with anyio.fail_after(60):
            types = await registry.refresh(LOCAL_TENANT, None)
        assert types["Glow"].description.info["description"] == "live"
        assert types["Blur"].description.info["description"] == ""
        assert "did not describe its nodes within 2 s" in await note(registry, "blur")
        assert await note(registry, "glow") == ""
        await registry.refresh(LOCAL_TENANT, None)
        assert len(session.asked) == 1  # the question of before is still open

        session.before_describe.set()
        await until(lambda: not registry._updates._late)
        types = await registry.refresh(LOCAL_TENANT, None)
        assert types["Blur"].description.info["description"] == "live"
        assert await note(registry, "blur") == ""


async def test_a_host_that_stops_leaves_no_update_behind(house: House) -> None:
    with anyio.fail_after(60):
        async with after_new_image(house, *PACKS) as registry:
            await registry.refresh(LOCAL_TENANT, None)
            await until(lambda: len(house.sandboxes.waiting) == 2)

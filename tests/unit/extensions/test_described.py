"""A pack is asked for its nodes when something happened that its answer could depend on, and not otherwise."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from engine import described
from engine.described import roots_of
from engine.directory_looks import Root, look
from engine.extensions import ExtensionRegistry
from policies import CORE_EXTENSION, LOCAL_TENANT, ExtensionName, PolicyStore
from tests.unit.extensions.test_extensions import House

pytestmark = pytest.mark.anyio


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path.resolve())


class Asked:
    """How often a running pack was asked, and what it is asked next."""

    def __init__(self, house: House, registry: ExtensionRegistry) -> None:
        self.registry = registry
        (self.view,) = [view for view in house.sandboxes.list() if view.extensions == ("blur",)]
        self.session = house.sandboxes.sessions[self.view.id]

    async def times(self) -> int:
        """Read the catalogue; how often the pack was asked for that."""
        before = len(self.session.asked)
        await self.registry.refresh(LOCAL_TENANT, None)
        return len(self.session.asked) - before


@asynccontextmanager
async def quiet_pack(house: House) -> AsyncIterator[Asked]:
    async with house.open() as registry:
        await registry.add(LOCAL_TENANT, house.pack())
        for area in ("input", "output", "temp"):
            make(house, area)
        asked = Asked(house, registry)
        assert await asked.times() == 1
        yield asked


def make(house: House, area: str) -> Path:
    """A directory that was last changed long ago: what changed a moment ago is not relied on."""
    directory = house.places.tenant(LOCAL_TENANT) / area
    directory.mkdir(parents=True, exist_ok=True)
    age(directory)
    return directory


def age(directory: Path, seconds: float = 100.0) -> None:
    then = directory.stat().st_mtime - seconds
    os.utime(directory, (then, then))


async def test_a_pack_that_did_nothing_is_not_asked_again(house: House) -> None:
    async with quiet_pack(house) as asked:
        types = await asked.registry.refresh(LOCAL_TENANT, None)
        assert await asked.times() == 0
        assert await asked.registry.refresh(LOCAL_TENANT, None) is types  # so that an answer is written once
        assert types["Blur"].description.info["description"] == "live"


async def test_a_new_file_is_seen_at_once(house: House) -> None:
    async with quiet_pack(house) as asked:
        (house.places.tenant(LOCAL_TENANT) / "input/new.png").write_bytes(b"x")
        asked.session.live_text = "with new.png"
        types = await asked.registry.refresh(LOCAL_TENANT, None)
        assert types["Blur"].description.info["description"] == "with new.png"


async def test_a_pack_that_did_something_is_asked_again(house: House) -> None:
    async with quiet_pack(house) as asked:
        asked.view.at_rest = 1
        assert await asked.times() == 1
        assert await asked.times() == 0
        asked.view.at_rest = None  # at work
        assert await asked.times() == 1
        assert await asked.times() == 1


async def test_a_pack_whose_policy_changed_is_asked_again(house: House) -> None:
    async with quiet_pack(house) as asked:
        house.policies.directory.mkdir(exist_ok=True)
        (house.policies.directory / "blur.yaml").write_text("memory: 700MiB\n")
        assert await asked.times() == 1


async def test_named_classes_are_always_asked_for(house: House) -> None:
    async with quiet_pack(house) as asked:
        asked.session.live_text = "newer"
        types = await asked.registry.refresh(LOCAL_TENANT, ["Blur"])
        assert types["Blur"].description.info["description"] == "newer"
        assert types["Sharpen"].description.info["description"] == "live"


async def test_an_answer_that_is_not_young_is_asked_for_again_behind_the_catalogue(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with quiet_pack(house) as asked:
        monkeypatch.setattr(described, "FRESH_S", 0.0)
        asked.session.live_text = "what nobody could notice"
        asked.session.before_describe = anyio.Event()
        types = await asked.registry.refresh(LOCAL_TENANT, None)  # does not wait for the pack
        assert types["Blur"].description.info["description"] == "live"
        await asked.registry.refresh(LOCAL_TENANT, None)  # asks nothing twice
        asked.session.before_describe.set()
        with anyio.fail_after(30):
            while asked.registry._updates._behind:
                await anyio.lowlevel.checkpoint()
        types = await asked.registry.refresh(LOCAL_TENANT, None)
        assert types["Blur"].description.info["description"] == "what nobody could notice"
        assert asked.session.asked.count(None) <= 4


async def test_core_nodes_are_not_started_again_for_files_that_are_as_they_were(house: House) -> None:
    async with quiet_pack(house) as asked:
        for view in list(house.sandboxes.views.values()):
            if view.extensions == (CORE_EXTENSION,):
                del house.sandboxes.views[view.id]
        house.sandboxes.started.clear()
        await asked.registry.refresh(LOCAL_TENANT, None)
        assert house.sandboxes.started == []
        (make(house, "input") / "new.png").write_bytes(b"x")
        await asked.registry.refresh(LOCAL_TENANT, None)
        assert house.sandboxes.started == [CORE_EXTENSION]


# -- looks ---------------------------------------------------------------------------------------------------------


def root(path: Path, *, may_be_absent: bool = True) -> Root:
    return Root(path, may_be_absent)


def tree(tmp_path: Path) -> Path:
    deep = tmp_path / "input/a/b"
    deep.mkdir(parents=True)
    (deep / "one.png").write_bytes(b"1")
    for directory in (deep, deep.parent, deep.parent.parent):
        age(directory)
    return tmp_path / "input"


def test_a_look_notices_what_is_added_removed_and_renamed_at_any_depth(tmp_path: Path) -> None:
    top = tree(tmp_path)
    deep = top / "a/b"
    changes = (
        lambda: (deep / "two.png").write_bytes(b"2"),
        lambda: (deep / "two.png").rename(deep / "three.png"),
        lambda: (deep / "three.png").unlink(),
        lambda: (top / "c").mkdir(),
        lambda: deep.rename(top / "a/d"),
    )
    for change in changes:
        seen = look([root(top)])
        assert seen is not None
        assert seen.still_holds()
        change()
        assert not seen.still_holds()
        for directory in (top, *(path for path in top.rglob("*") if path.is_dir())):
            age(directory)


def test_a_directory_that_comes_or_is_replaced_is_noticed(tmp_path: Path) -> None:
    top = tree(tmp_path)
    seen = look([root(top), root(tmp_path / "output")])
    assert seen is not None
    (tmp_path / "output").mkdir()
    assert not seen.still_holds()
    seen = look([root(top)])
    assert seen is not None
    times = top.stat()
    top.rename(tmp_path / "old")
    top.mkdir()
    os.utime(top, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert not seen.still_holds()


def test_what_changed_a_moment_ago_is_not_relied_on(tmp_path: Path) -> None:
    top = tree(tmp_path)
    os.utime(top)
    assert look([root(top)]) is None


def test_links_are_not_followed_and_not_relied_on(tmp_path: Path) -> None:
    top, elsewhere = tree(tmp_path), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (top / "link").symlink_to(elsewhere)
    age(top)
    assert look([root(top)]) is None
    assert look([root(top / "link")]) is None


def test_what_cannot_be_seen_from_here_is_not_relied_on(tmp_path: Path) -> None:
    assert look([root(tmp_path / "models", may_be_absent=False)]) is None


def test_more_than_can_be_watched_cheaply_is_not_relied_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = tree(tmp_path)
    monkeypatch.setattr("engine.directory_looks.MOST_DIRECTORIES", 2)
    assert look([root(top)]) is None
    monkeypatch.undo()
    monkeypatch.setattr("engine.directory_looks.MOST_NAMES", 2)
    assert look([root(top)]) is None


def test_a_pack_is_watched_where_its_sandbox_looks(tmp_path: Path) -> None:
    models = tmp_path / "weights"
    models.mkdir()
    directory = tmp_path / "policies"
    directory.mkdir()
    (directory / "default.yaml").write_text(f"path_roots: [{models}]\n")
    (directory / "blur.yaml").write_text(
        "paths:\n  - {tenant: input}\n  - {tenant: output, access: rw}\n"
        f"  - {{host: {models}, mount: /mnt/weights}}\n"
    )
    policy = PolicyStore(directory).effective(ExtensionName("blur"))
    tenant = tmp_path / "tenant"
    assert roots_of(policy, tenant, ExtensionName("blur")) == [
        root(tenant / "input"),
        root(tenant / "output/blur"),
        root(models, may_be_absent=False),
    ]

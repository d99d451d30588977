"""Sandbox groups in real containers: live objects, names, files and failures of members that share one."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from policies import ExtensionName
from sandbox import EndedError, HandleNotPortableError, LoadFailedError, SandboxError, Value
from tests.contract.kit import TENANT, World, call, ignore, in_docker, world

pytestmark = [pytest.mark.docker, pytest.mark.anyio]

BASE = """
class Base:
    RETURN_TYPES = ("*",)
    FUNCTION = "run"
    CATEGORY = "t"
"""
MAKER = (
    BASE
    + """
import nodes
import os

class Engine:
    def __init__(self):
        self.log = []

class MakeEngine(Base):
    INPUT_TYPES = classmethod(lambda cls: {"required": {}})
    made = None
    def run(self):
        MakeEngine.made = Engine()
        return (MakeEngine.made,)

class IsSame(Base):
    INPUT_TYPES = classmethod(lambda cls: {"required": {"engine": ("ENGINE",)}})
    def run(self, engine):
        return (engine is MakeEngine.made and engine.log == ["used"],)

class Who(Base):
    INPUT_TYPES = classmethod(lambda cls: {"required": {}})
    def run(self):
        return ("maker",)

class Die(Base):
    INPUT_TYPES = classmethod(lambda cls: {"required": {}})
    def run(self):
        os._exit(3)

NODE_CLASS_MAPPINGS = {"MakeEngine": MakeEngine, "IsSame": IsSame, "Who": Who, "Die": Die}
"""
)
USER = (
    BASE
    + """
import folder_paths
import nodes

class UseEngine(Base):
    INPUT_TYPES = classmethod(lambda cls: {"required": {"value": ("*",)}})
    def run(self, value):
        value["engine"].log.append("used")
        return (value["engine"],)

class Who(Base):
    INPUT_TYPES = classmethod(lambda cls: {"required": {}})
    def run(self):
        return ("user",)

class Neighbours(Base):
    INPUT_TYPES = classmethod(lambda cls: {"required": {}})
    def run(self):
        return ("MakeEngine" in nodes.NODE_CLASS_MAPPINGS,)

class Write(Base):
    INPUT_TYPES = classmethod(lambda cls: {"required": {}})
    def run(self):
        with open(folder_paths.get_output_directory() + "/made.txt", "w") as file:
            file.write("by user")
        return (folder_paths.get_output_directory(),)

NODE_CLASS_MAPPINGS = {"UseEngine": UseEngine, "Who": Who, "Neighbours": Neighbours, "Write": Write}
"""
)
GROUP = "group: studio\nmemory: 1GiB\ntimeouts: {grace: 1s}\n"


def members(at: World, **packs: str) -> None:
    at.shelf.groups["studio"] = tuple(at.shelf.write(name, code) for name, code in packs.items())


async def first(at: World, extension: str, class_type: str, **inputs: object) -> Value:
    slots = (await at.run(extension, class_type, **inputs)).slots
    assert slots is not None
    return slots[0][0]


async def test_members_share_one_sandbox_objects_keep_their_identity_and_each_class_its_owner(
    engine: None, tmp_path: Path
) -> None:
    policies = dict.fromkeys(("maker", "user"), GROUP)
    async with world(tmp_path, in_docker, policies=policies) as at:
        members(at, maker=MAKER, user=USER)
        made = await first(at, "maker", "MakeEngine")
        assert made.handles
        nested = Value({"engine": made.tree}, handles=made.handles)
        used = await first(at, "user", "UseEngine", value=nested)
        assert (await first(at, "maker", "IsSame", engine=used)).tree is True
        # Both have a class of this name: each call reaches that of its own extension.
        assert (await first(at, "maker", "Who")).tree == "maker"
        assert (await first(at, "user", "Who")).tree == "user"
        assert (await first(at, "user", "Neighbours")).tree is True
        assert (await first(at, "user", "Write")).tree == "/app/output"
        file = at.places.tenant(TENANT) / "output" / "_studio" / "made.txt"
        assert await anyio.Path(file).read_text() == "by user"
        (info,) = at.manager.list()
        assert (info.group, info.extensions) == ("studio", ("maker", "user"))


async def test_a_member_that_cannot_be_imported_does_not_take_the_others_along(
    engine: None, tmp_path: Path
) -> None:
    policies = dict.fromkeys(("broken", "user"), GROUP)
    async with world(tmp_path, in_docker, policies=policies) as at:
        members(at, broken="raise ValueError('no such luck')", user=USER)
        assert (await first(at, "user", "Who")).tree == "user"
        sandbox = at.manager.list()[0].id
        for _ in range(2):
            with pytest.raises(
                LoadFailedError, match="'broken' could not be loaded: ValueError: no such luck"
            ):
                await at.session("broken")
        assert (await first(at, "user", "Who")).tree == "user"
        assert [info.id for info in at.manager.list()] == [sandbox]


async def test_a_death_names_the_group_and_the_extension_that_ran(engine: None, tmp_path: Path) -> None:
    policies = dict.fromkeys(("maker", "user"), GROUP)
    async with world(tmp_path, in_docker, policies=policies) as at:
        members(at, maker=MAKER, user=USER)
        await at.session("user")
        with pytest.raises(EndedError) as caught:
            await at.run("maker", "Die")
    text = caught.value.message
    assert text.startswith("sandbox group 'studio' (extensions 'maker', 'user') ended: left with status 3")
    assert text.endswith("node '1' (Die) of extension 'maker' ran at that time")


async def test_a_member_of_new_content_gets_a_new_sandbox_with_the_others_in_it(
    engine: None, tmp_path: Path
) -> None:
    policies = dict.fromkeys(("maker", "user"), GROUP)
    async with world(tmp_path, in_docker, policies=policies) as at:
        members(at, maker=MAKER, user=USER)
        made = await first(at, "maker", "MakeEngine")
        before = (await at.session("user")).sandbox
        at.shelf.write("user", USER.replace('("user",)', '("new user",)'))
        assert (await first(at, "user", "Who")).tree == "new user"
        maker = await at.session("maker")
        assert maker.sandbox != before
        assert not at.manager.is_alive(before)
        with pytest.raises(HandleNotPortableError, match="sandbox group"):
            await maker.execute(call("IsSame", {"engine": made}), ignore)


async def test_without_a_group_an_object_does_not_cross(engine: None, tmp_path: Path) -> None:
    async with world(tmp_path, in_docker) as at:
        at.shelf.write("maker", MAKER)
        at.shelf.write("user", USER)
        made = await first(at, "maker", "MakeEngine")
        with pytest.raises(HandleNotPortableError, match="extension 'user'"):
            await at.run("user", "UseEngine", value=Value({"engine": made.tree}, handles=made.handles))
        # A forged handle reaches no object of another sandbox: the worker has none of that number.
        forged = Value({"engine": {"$handle": {"id": 99, "type": "E"}}})
        with pytest.raises(SandboxError, match="holds no object 99"):
            await at.run("user", "UseEngine", value=forged)
        assert {info.extensions for info in at.manager.list()} == {
            (ExtensionName("maker"),),
            (ExtensionName("user"),),
        }

"""What a build from source may install in order to be built, on the real engine and the real installer."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import pytest

from sandbox.bills import Subject, make_bill
from sandbox.environment_errors import BuildToolsError, PackageChangedError
from sandbox.environments import Environment
from sandbox.launcher import build_verb
from tests.integration.environments.index import WRITES_WHEEL, Index, source, wheel
from tests.integration.environments.test_supply_chain import Yard, anyio_backend, engine, index, yard

__all__ = ["anyio_backend", "engine", "index", "yard"]  # fixtures

pytestmark = [pytest.mark.docker, pytest.mark.anyio]

#: Builds a package that says with which tools; what its hook asks for is only known when it runs.
BACKEND = (
    WRITES_WHEEL
    + """
from importlib import metadata

def get_requires_for_build_wheel(config=None):
    return %r

def build_wheel(directory, config=None, meta=None):
    found = {each.name: each.version for each in metadata.distributions() if each.name.startswith("tool")}
    return write_wheel(directory, "made", "TOOLS = " + repr(found) + "\\n")
"""
)


def tool(name: str, version: str = "1.0", *, evil: str = "", requires: tuple[str, ...] = ()) -> bytes:
    return wheel(name, version, {f"{name}.py": f"x = 1\n{evil}"}, requires=requires)


def made_with(environment: Environment) -> Any:
    assert environment.site is not None
    names: dict[str, Any] = {}
    exec((environment.site / "made.py").read_text(), names)
    return names["TOOLS"]


@pytest.fixture
def tools(index: Index) -> Index:
    index.files["toola-1.0-py3-none-any.whl"] = tool("toola", requires=("toolc",))
    index.files["toolb-1.0-py3-none-any.whl"] = tool("toolb")
    index.files["toolc-1.0-py3-none-any.whl"] = tool("toolc")
    backend = BACKEND % ["toolb<3"]
    # Two that ask for the same, and whose code has to be asked already when versions are chosen.
    for name in ("made", "more"):
        code = backend.replace("made", name)
        index.files[f"{name}-1.0.tar.gz"] = source(name, "1.0", code, ["toola>=0.5"], says_all=False)
    return index


def hash_of(index: Index, name: str) -> str:
    return hashlib.sha256(index.files[f"{name}-1.0-py3-none-any.whl"]).hexdigest()


async def test_a_source_is_built_with_locked_tools_and_with_no_others(
    yard: Yard, tools: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await yard.ensure("made\nmore", policy=yard.sources)
    every = {"toola": "1.0", "toolb": "1.0", "toolc": "1.0"}
    assert made_with(first) == every
    assert first.key is not None
    assert first.lock is not None
    assert first.lock.tools is not None
    # What its file says, what its code says and what those need: each with the hash of the index.
    entries = {name: f"{name}==1.0 \\\n    --hash=sha256:{hash_of(tools, name)}\n" for name in every}
    assert [name for name, entry in entries.items() if entry not in first.lock.tools] == []
    await yard.environments.verify(first.key)
    inventory = await yard.environments.inventory(first.key)
    bill = json.loads(make_bill(Subject("x", "0" * 64, "directory", ""), inventory))
    parts = {part["name"]: part for part in bill["components"] if part.get("scope") == "excluded"}
    assert sorted(parts) == sorted(every)
    assert parts["toolb"]["hashes"][0]["content"] == hash_of(tools, "toolb")

    # The index has a newer one by now: the lock is what counts.
    tools.files["toolb-2.0-py3-none-any.whl"] = tool("toolb", "2.0")
    await yard.environments.discard(first.key)
    again = await yard.ensure("made\nmore", policy=yard.sources, kept=first.lock)
    assert (again.key, again.reused, made_with(again), again.lock) == (first.key, False, every, first.lock)
    await yard.environments.discard(first.key)

    # As if the same files asked for more than when they were locked.
    less = first.lock.model_copy(update={"tools": first.lock.tools.replace(entries["toolb"], "")})
    with pytest.raises(BuildToolsError) as refused:
        await yard.ensure("made\nmore", policy=yard.sources, kept=less)
    assert re.match(r"the build of m(ad|or)e==1\.0 asks for 'toolb<3'", refused.value.message)
    assert "the extension's lock of build tools has 'toola 1.0', 'toolc 1.0'" in refused.value.message
    with monkeypatch.context() as weakened:
        free = [flag for flag in build_verb._LOCKED_TOOLS if flag != "--require-build-hashes"]
        weakened.setattr(build_verb, "_LOCKED_TOOLS", free)
        # Without the wall it takes what the index has.
        assert made_with(await yard.ensure("made\nmore", policy=yard.sources, kept=less))["toolb"] == "2.0"

    # Another file under a locked version is refused, and both hashes are named.
    locked = hash_of(tools, "toolc")
    tools.files["toolc-1.0-py3-none-any.whl"] = tool("toolc", evil="EVIL = 1\n")
    with pytest.raises(PackageChangedError) as changed:
        await yard.ensure("made\nmore", policy=yard.sources, kept=first.lock)
    assert (changed.value.package, changed.value.expected, changed.value.found) == (
        "toolc==1.0", (f"sha256:{locked}",), (f"sha256:{hash_of(tools, 'toolc')}",),
    )  # fmt: skip
    assert yard.environments.site(first.key) is None

"""Locking what builds from source ask for, with an installer that answers as uv does."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import anyio.lowlevel
import pytest

from policies import LOCAL_TENANT, EffectivePolicy, ExtensionName, PolicyStore
from sandbox.bills import Subject, make_bill
from sandbox.environment_errors import (
    BuildFailedError,
    BuildToolsError,
    EnvironmentChangedError,
    PackageChangedError,
)
from sandbox.environment_locks import KeptLock, environment_key
from sandbox.environments import Environments
from sandbox.launcher import build_verb as verb
from sandbox.resolver_answers import Lock

pytestmark = pytest.mark.anyio

MADE = f"made==1.0 --hash=sha256:{'1' * 64}\n"


def entry(name: str, version: str, digit: str = "a") -> str:
    return f"{name}=={version} \\\n    --hash=sha256:{digit * 64}\n"


class Uv:
    """Refuses build tools that are not locked, in uv's words; ``index`` is what a lock of them is made from."""

    def __init__(self, image: verb.NodeImage) -> None:
        self._image = image
        self.index: dict[str, str] = {
            "setuptools": entry("setuptools", "80.0"),
            "wheel": entry("wheel", "0.45"),
        }
        self.asks: list[Mapping[str, tuple[str, ...]]] = [{"made==1.0": ("setuptools>=40.8.0",)}]
        self.steps: list[str] = []
        self.instead: dict[str, Callable[[str], verb.BuildOutcome | None]] = {}
        self.preferred: list[str] = []

    async def image(self) -> verb.NodeImage:
        return self._image

    async def sweep(self) -> int:
        return 0

    async def run(self, job: verb.BuildJob, step: verb.Step, line: verb.Line) -> verb.BuildOutcome:
        self.steps.append(step)
        await anyio.lowlevel.checkpoint()
        return self._run(job, step)

    def _run(self, job: verb.BuildJob, step: verb.Step) -> verb.BuildOutcome:
        inputs, outputs = job.directory / "in", job.directory / "out"
        given = inputs / (verb.WANTED_TOOLS if step == "tools" else verb.TOOLS)
        if step in self.instead and (outcome := self.instead[step](given.read_text())) is not None:
            return outcome
        if step == "tools":
            self.preferred.append((outputs / verb.TOOLS).read_text())
            wanted = (inputs / verb.WANTED_TOOLS).read_text().splitlines()
            names = {line.split(";")[0].split(">")[0].split("<")[0].strip() for line in wanted}
            for name in names - self.index.keys():
                words = (
                    f"  cause: Because {name} was not found in the package registry and you require {name}"
                )
                return verb.BuildOutcome(
                    1, ("error: No solution found when resolving dependencies", words), 0
                )
            (outputs / verb.TOOLS).write_text("".join(self.index[name] for name in sorted(names)))
            return verb.BuildOutcome(0, (), 0)
        if step == "resolve":
            (outputs / verb.LOCK).write_text(MADE)
            return verb.BuildOutcome(0, (), 0)
        locked = (inputs / verb.TOOLS).read_text() if job.source_builds else ""
        for asks in self.asks:
            for package, requirements in asks.items():
                if (refused := refusal(package, requirements, locked)) is not None:
                    return refused
        (outputs / verb.SITE).mkdir(parents=True)
        (outputs / verb.SITE / "made.py").write_text("x = 1\n")
        return verb.BuildOutcome(0, (), 0)


def refusal(package: str, requirements: tuple[str, ...], locked: str) -> verb.BuildOutcome | None:
    for text in requirements:
        name = text.split(" ")[0].split(">")[0].split("<")[0]
        if f"{name}==" not in locked:
            return said(
                package,
                requirements,
                f"Hash-checking is required, but no trusted hash was provided for: `{name}`",
            )
    return None


def said(package: str, requirements: tuple[str, ...], last: str) -> verb.BuildOutcome:
    lines = (
        f"error: Failed to download and build `{package}`",
        "  cause: Failed to resolve requirements from `build-system.requires`",
        f"  cause: No solution found when resolving: {', '.join(f'`{each}`' for each in requirements)}",
        f"  cause: {last}",
    )
    return verb.BuildOutcome(1, lines, 0)


@dataclass(frozen=True)
class Made:
    """An environment that has packages."""

    key: str
    lock: KeptLock
    reused: bool


class House:
    """Environments of one pack that is built from source."""

    def __init__(self, root: Path, image: verb.NodeImage) -> None:
        self.uv = Uv(image)
        settings = verb.BuildSettings(image="x", instance="test")
        self.root = root / "environments"
        self.environments = Environments(self.root, self.uv, settings=settings)
        wheels = PolicyStore(root / "policies").effective(ExtensionName("x"))
        build = wheels.build.model_copy(update={"source_builds": True})
        self.sources: EffectivePolicy = wheels.model_copy(update={"build": build})
        self.wheels = wheels
        self.lines: list[str] = []
        self.pack = root / "pack"
        (self.pack / "requirements.txt").write_text("made\n")

    async def ensure(
        self, policy: EffectivePolicy | None = None, *, kept: KeptLock | None = None, upgrade: bool = False
    ) -> Made:
        made = await self.environments.ensure(
            LOCAL_TENANT, self.pack, policy or self.sources, self.lines.append, kept=kept, upgrade=upgrade
        )
        assert made.key is not None
        assert made.lock is not None
        return Made(made.key, made.lock, made.reused)


@pytest.fixture
def house(tmp_path: Path, image: verb.NodeImage, pack: Path) -> House:
    assert pack.is_dir()
    return House(tmp_path, image)


async def test_tools_are_locked_as_builds_ask_for_them_and_kept(house: House) -> None:
    house.uv.asks = [
        {"made==1.0": ("setuptools>=40.8.0 ; python_full_version >= '3.8'",)},
        {"made==1.0": ("setuptools>=40.8.0 ; python_full_version >= '3.8'", "wheel")},
    ]
    first = await house.ensure()
    assert house.uv.steps == ["resolve", "install", "tools", "install", "tools", "install"]
    assert first.lock.tools == entry("setuptools", "80.0") + entry("wheel", "0.45")
    assert any(
        line.startswith("locking the build tools of made==1.0: setuptools>=40.8.0") for line in house.lines
    )
    manifest = house.environments.manifest(first.key)
    assert manifest is not None
    assert manifest["build_tools"] == {"setuptools": "80.0", "wheel": "0.45"}
    # Built again: from the lock, whatever the index has by now, and under the same name.
    await house.environments.discard(first.key)
    house.uv.index["wheel"] = entry("wheel", "0.46")
    house.uv.steps.clear()
    again = await house.ensure(kept=first.lock)
    assert (again.key, again.lock, house.uv.steps) == (first.key, first.lock, ["install"])
    # Renewed when asked for; another lock of tools is another environment.
    newer = await house.ensure(kept=first.lock, upgrade=True)
    assert "wheel==0.46" in (newer.lock.tools or "")
    assert newer.key != first.key
    assert newer.lock.digest != first.lock.digest


async def test_a_second_extension_with_the_same_wish_has_the_same_tools(house: House) -> None:
    first = await house.ensure()
    house.uv.steps.clear()
    second = await house.ensure()
    assert (second.key, second.reused, second.lock.tools) == (first.key, True, first.lock.tools)
    assert house.uv.steps == []


async def test_wheels_only_know_of_no_tools_and_no_tool_is_locked_for_them(house: House) -> None:
    house.uv.asks = []
    made = await house.ensure(house.wheels)
    assert made.lock.tools is None
    assert not (house.root / made.key / verb.TOOLS).exists()
    assert house.uv.steps == ["resolve", "install"]


async def test_what_is_not_in_a_kept_lock_is_refused_and_named(house: House) -> None:
    first = await house.ensure()
    await house.environments.discard(first.key)
    house.uv.asks.append({"made==1.0": ("setuptools>=40.8.0", "wheel<1")})
    house.uv.steps.clear()
    with pytest.raises(BuildToolsError) as caught:
        await house.ensure(kept=first.lock)
    assert caught.value.message == (
        "the build of made==1.0 asks for 'wheel<1', and the extension's lock of build tools has 'setuptools 80.0'"
    )
    assert "ringfence extension reload NAME --upgrade" in caught.value.hint
    assert house.uv.steps == ["install"]
    # Also when nothing at all is locked.
    with pytest.raises(BuildToolsError, match="the extension's lock of build tools has none"):
        await house.ensure(kept=first.lock.model_copy(update={"tools": ""}))


async def test_tools_that_cannot_be_had_are_no_packages_to_leave_out(house: House) -> None:
    house.uv.asks = [{"made==1.0": ("nowhere>=2",)}]
    with pytest.raises(
        BuildToolsError, match=r"the build of made==1\.0 asks for 'nowhere>=2', which cannot be had"
    ):
        await house.ensure()
    assert house.uv.steps == ["resolve", "install", "tools"]
    assert not [line for line in house.lines if "left out" in line]


async def test_packages_that_need_other_versions_of_one_tool_are_refused_with_both(house: House) -> None:
    house.uv.asks.append({"other==2": ("setuptools<60",)})
    conflict = "Because you require setuptools<60 and setuptools==80.0, we can conclude that"
    house.uv.instead = {
        "install": lambda locked: said("other==2", ("setuptools<60",), conflict) if locked else None,
        "tools": lambda wanted: verb.BuildOutcome(1, ("error: No solution",), 0) if "<60" in wanted else None,
    }
    with pytest.raises(BuildToolsError) as caught:
        await house.ensure()
    assert caught.value.message.startswith(
        "the build of other==2 asks for 'setuptools<60', which cannot be had (locked: 'setuptools 80.0'): uv could"
    )
    assert "one version of each for all packages of an extension" in caught.value.hint
    assert house.uv.steps == ["resolve", "install", "tools", "install", "tools"]


async def test_a_locked_tool_that_the_index_has_no_more_is_said_to_be_gone_and_not_to_be_unlocked(
    house: House,
) -> None:
    first = await house.ensure()
    await house.environments.discard(first.key)
    gone = "Because setuptools was not found in the package registry and you require setuptools>=40.8.0"
    house.uv.instead = {"install": lambda _: said("made==1.0", ("setuptools>=40.8.0",), gone)}
    with pytest.raises(
        BuildToolsError, match=r"which cannot be had \(locked: 'setuptools 80\.0'\).*not found"
    ):
        await house.ensure(kept=first.lock)


async def test_tools_that_could_not_be_fetched_are_a_failed_build_with_its_own_hint(house: House) -> None:
    lines = (
        "error: Failed to download and build `made==1.0`",
        "  cause: Failed to install requirements from `build-system.requires`",
        "  cause: Failed to fetch: `https://index.example/setuptools.whl`",
    )
    house.uv.instead = {"install": lambda _: verb.BuildOutcome(1, lines, 0)}
    with pytest.raises(BuildFailedError, match="Failed to fetch") as caught:
        await house.ensure()
    assert "check that builds reach the package index" in caught.value.hint


@pytest.mark.parametrize(
    "asked",
    [
        "tool @ https://host.example/tool.whl",
        "git+https://host.example/x",
        "../x",
        "-r /etc/passwd",
        "a\x1bb",
    ],
)
async def test_a_tool_that_is_no_package_of_the_index_is_refused(house: House, asked: str) -> None:
    house.uv.asks = [{"made==1.0": (asked,)}]
    with pytest.raises(
        BuildToolsError, match=r"build requirements of made==1\.0|made==1\.0: control"
    ) as caught:
        await house.ensure()
    assert "tools" not in house.uv.steps
    assert "\x1b" not in caught.value.message


async def test_an_endless_wish_for_tools_ends(house: House) -> None:
    house.uv.index = {f"tool{number}": entry(f"tool{number}", "1.0") for number in range(40)}
    house.uv.asks = [{"made==1.0": (name,)} for name in house.uv.index]
    with pytest.raises(BuildToolsError, match="ever more build tools"):
        await house.ensure()


async def test_a_refusal_that_says_nothing_new_is_not_tried_again(house: House) -> None:
    house.uv.index["setuptools"] = entry(
        "setuptools-other", "1.0"
    )  # locked, and still not what was asked for
    with pytest.raises(BuildToolsError, match=r"asks for 'setuptools>=40\.8\.0', which cannot be had"):
        await house.ensure()
    assert house.uv.steps.count("tools") <= 2


@pytest.mark.parametrize(
    "text", ["setuptools==80.0\n", "setuptools>=80\n", entry("x", "1") + "--index-url=https://x\n"]
)
async def test_tools_without_a_version_and_hashes_are_no_lock(house: House, text: str) -> None:
    house.uv.index["setuptools"] = text
    with pytest.raises(BuildFailedError, match="without one version and its hashes"):
        await house.ensure()


async def test_another_wish_keeps_to_the_tools_there_were_and_refuses_changed_files(house: House) -> None:
    first = await house.ensure()
    (house.pack / "requirements.txt").write_text("made>=1\n")
    house.uv.preferred.clear()
    await house.ensure(kept=first.lock)
    assert house.uv.preferred == ["setuptools==80.0\n"]
    house.uv.index["setuptools"] = entry("setuptools", "80.0", "b")
    (house.pack / "requirements.txt").write_text("made<9\n")
    with pytest.raises(PackageChangedError, match=r"another file for setuptools==80\.0"):
        await house.ensure(kept=first.lock)


async def test_an_environment_from_before_there_were_locked_tools_serves_until_it_is_built_anew(
    house: House, image: verb.NodeImage
) -> None:
    first = await house.ensure()
    key = environment_key(image, Lock(first.lock.text), LOCAL_TENANT)
    (house.root / first.key).rename(house.root / key)
    (house.root / key / verb.TOOLS).unlink()
    file = house.root / key / "environment.json"
    manifest = json.loads(file.read_text())
    del manifest["tools"]
    file.write_text(json.dumps(manifest))
    older = first.lock.model_copy(update={"tools": None})
    house.uv.steps.clear()
    same = await house.ensure(kept=older)
    assert (same.key, same.reused, same.lock, house.uv.steps) == (key, True, older, [])
    await house.environments.discard(key)
    again = await house.ensure(kept=older)
    assert (again.key, again.lock) == (first.key, first.lock)
    assert house.uv.steps == ["install", "tools", "install"]


async def test_a_lock_of_tools_that_was_changed_on_the_disk_is_noticed(house: House) -> None:
    first = await house.ensure()
    await house.environments.verify(first.key)
    file = house.root / first.key / verb.TOOLS
    file.write_text(file.read_text().replace("80.0", "81.0"))
    with pytest.raises(EnvironmentChangedError):
        await house.environments.verify(first.key)


async def test_a_bill_lists_the_tools_beside_what_a_sandbox_meets(house: House) -> None:
    house.uv.index["setuptools"] = entry("made", "1.0", "c")  # a tool of the same name as a package
    with pytest.raises(BuildToolsError):
        await house.ensure()
    house.uv.index["setuptools"] = entry("setuptools", "80.0", "c")
    made = await house.ensure()
    bill = json.loads(
        make_bill(Subject("x", "0" * 64, "directory", ""), await house.environments.inventory(made.key))
    )
    parts = {part["bom-ref"]: part for part in bill["components"]}
    tool = parts["pkg:pypi/setuptools@80.0#build"]
    assert (tool["scope"], tool["hashes"][0]["content"]) == ("excluded", "c" * 64)
    assert {"name": "ringfence:from", "value": "build"} in tool["properties"]
    (graph,) = [each for each in bill["dependencies"] if each["ref"] == "ringfence:extension/x"]
    assert "pkg:pypi/setuptools@80.0#build" not in graph["dependsOn"]

"""Adding, reloading, removing and remembering extensions, with sandboxes that are none."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from engine.extension_errors import (
    ExtensionExistsError,
    ExtensionProtectedError,
    ExtensionUnknownError,
    NoNodesError,
    PolicyReservedError,
    SourceRefusedError,
)
from engine.extension_files import SourceLimits
from engine.extensions import ExtensionRegistry
from policies import (
    CORE_EXTENSION,
    LOCAL_TENANT,
    ExtensionName,
    NameInvalidError,
    PolicyError,
    PolicyStore,
    TenantId,
)
from sandbox import AdvisoryDatabase, Places
from sandbox.environment_errors import BuildFailedError, GroupConflictError
from sandbox.errors import LoadFailedError, StartError
from tests.unit.extensions.stand_ins import FakeEnvironments, FakeSandboxes, loaded

pytestmark = pytest.mark.anyio

OTHER = TenantId("other")
BLUR = ExtensionName("blur")


class House:
    """One data directory with everything around a registry; ``open`` it as often as a host restarts."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.places = Places(instance="test", data=root / "data")
        self.policies = PolicyStore(root / "policies")
        self.environments = FakeEnvironments(root / "environments")
        self.core = root / "core"
        self.core.mkdir()
        (self.core / "__init__.py").write_text("# nodes: LoadImage SaveImage\n")
        self.sandboxes = FakeSandboxes()
        self.advisories: AdvisoryDatabase | None = None
        self.limits: SourceLimits | None = None
        self.lines: list[str] = []

    @asynccontextmanager
    async def open(self) -> AsyncIterator[ExtensionRegistry]:
        self.sandboxes = FakeSandboxes()
        async with ExtensionRegistry(
            places=self.places,
            core=self.core,
            policies=self.policies,
            environments=self.environments,
            advisories=self.advisories,
            limits=self.limits,
        ) as registry:
            self.sandboxes.source = registry.to_run
            registry.attach(self.sandboxes)  # type: ignore[arg-type]  # its sessions can only describe
            yield registry

    def pack(self, name: str = "blur", first: str = "# nodes: Blur Sharpen", **files: str) -> Path:
        directory = self.root / "packs" / name
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "__init__.py").write_text(first + "\n")
        for file, text in files.items():
            (directory / file.replace("_txt", ".txt")).write_text(text)
        return directory

    def meta(self, name: str = "blur", tenant: str = "local") -> dict[str, object]:
        path = self.places.tenant(TenantId(tenant)) / "extensions" / name / "meta.json"
        data: dict[str, object] = json.loads(path.read_text())
        return data

    def copies(self, name: str = "blur") -> list[str]:
        directory = self.places.tenant(LOCAL_TENANT) / "extensions" / name
        return sorted(path.name for path in directory.iterdir() if path.is_dir())


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path.resolve())


async def test_no_pack_may_be_more_than_the_installation_takes(house: House) -> None:
    house.limits = SourceLimits(files=2, nbytes=1024)
    async with house.open() as registry:
        with pytest.raises(SourceRefusedError, match="more than 2 files"):
            await registry.add(LOCAL_TENANT, house.pack("many", a_txt="a", b_txt="b"))
        with pytest.raises(SourceRefusedError, match="more than"):
            await registry.add(LOCAL_TENANT, house.pack("large", a_txt="a" * 1024))
        assert (await registry.add(LOCAL_TENANT, house.pack(a_txt="a"))).state == "ready"


async def test_an_added_pack_is_pinned_built_started_and_ready(house: House) -> None:
    async with house.open() as registry:
        info = await registry.add(
            LOCAL_TENANT, house.pack(requirements_txt="numpy"), progress=house.lines.append
        )
        assert (info.name, info.state, info.sandbox, info.node_count, info.api) == (
            "blur",
            "ready",
            "warm",
            2,
            "v1",
        )
        assert info.environment_key == "numpy-one"
        assert info.asks == ("asks for the moon",)
        assert info.notes == ("a note",)
        assert house.copies() == [info.content_hash]
        types = await registry.node_types(LOCAL_TENANT)
        assert sorted(types) == ["Blur", "LoadImage", "SaveImage", "Sharpen"]
        assert (types["Blur"].extension, types["Blur"].core) == ("blur", False)
        assert types["LoadImage"].core
        assert await registry.extension_of(LOCAL_TENANT, "Blur") == "blur"
        files = await registry.to_run.files(LOCAL_TENANT, BLUR)
        assert files.source == house.places.tenant(LOCAL_TENANT) / "extensions" / "blur" / info.content_hash
        assert files.environment == house.environments.root / "numpy-one"
    assert house.meta()["state"] == "ready"
    assert any(line.startswith("ready: 2 node(s)") for line in house.lines)


async def test_a_restart_needs_no_sandbox(house: House) -> None:
    async with house.open() as registry:
        before = await registry.add(LOCAL_TENANT, house.pack())
        await registry.node_types(LOCAL_TENANT)
    async with house.open() as registry:
        assert sorted(await registry.node_types(LOCAL_TENANT)) == [
            "Blur",
            "LoadImage",
            "SaveImage",
            "Sharpen",
        ]
        core, info = await registry.list(LOCAL_TENANT)
        assert (core.name, core.core) == ("core", True)
        assert (info.content_hash, info.state, info.sandbox) == (before.content_hash, "ready", "cold")
        assert house.sandboxes.started == []


async def test_descriptions_of_another_policy_are_read_anew_when_asked_for(house: House) -> None:
    async with house.open() as registry:
        await registry.add(LOCAL_TENANT, house.pack())
    house.policies.directory.mkdir(exist_ok=True)
    (house.policies.directory / "blur.yaml").write_text("memory: 1GiB\n")
    async with house.open() as registry:
        assert "Blur" in await registry.node_types(LOCAL_TENANT)
        await registry.make_current(LOCAL_TENANT, ["Blur"])
        assert "blur" in house.sandboxes.started
    async with house.open() as registry:
        await registry.refresh(LOCAL_TENANT, ["LoadImage"])
        assert house.sandboxes.started == ["core"]


async def test_another_image_means_another_environment(house: House) -> None:
    async with house.open() as registry:
        await registry.add(LOCAL_TENANT, house.pack(requirements_txt="numpy"))
    house.environments.current.id = "sha256:two"
    async with house.open() as registry:
        files = await registry.to_run.files(LOCAL_TENANT, BLUR)
        assert files.environment == house.environments.root / "numpy-two"
        assert house.meta()["environment_key"] == "numpy-two"
        assert house.environments.discarded == ["numpy-one"]


@pytest.mark.parametrize(
    ("first", "error"),
    [("raise ValueError", LoadFailedError), ("", NoNodesError)],
)
async def test_a_pack_that_does_not_load_is_listed_as_failed_and_nothing_runs(
    house: House, first: str, error: type[Exception]
) -> None:
    async with house.open() as registry:
        with pytest.raises(error):
            await registry.add(LOCAL_TENANT, house.pack(first=first))
        info = await registry.get(LOCAL_TENANT, BLUR)
        assert info.state == "failed"
        assert info.error is not None
        assert "blur" in info.error.message
        assert house.sandboxes.list() == []
        with pytest.raises(StartError, match="is not ready"):
            await registry.to_run.files(LOCAL_TENANT, BLUR)
    async with house.open() as registry:
        assert (await registry.get(LOCAL_TENANT, BLUR)).error == info.error
        house.pack()
        assert (await registry.reload(LOCAL_TENANT, BLUR)).state == "ready"


async def test_a_missing_module_comes_with_a_hint(house: House) -> None:
    async with house.open() as registry:
        pack = house.pack(first="raise ModuleNotFoundError: No module named 'torchvision.ops'")
        with pytest.raises(LoadFailedError) as caught:
            await registry.add(LOCAL_TENANT, pack)
        assert caught.value.hint == "do something about torchvision"


async def test_a_failed_install_concerns_that_extension_only(house: House) -> None:
    async with house.open() as registry:
        await registry.add(LOCAL_TENANT, house.pack("fine", "# nodes: Fine"))
        house.environments.fails = BuildFailedError("uv could not", lines=("x",))
        with pytest.raises(BuildFailedError):
            await registry.add(LOCAL_TENANT, house.pack())
        _, fine, blur = await registry.list(LOCAL_TENANT)
        assert (fine.state, blur.state) == ("ready", "failed")
        assert blur.error is not None
        assert blur.error.code == "environment-build-failed"
        house.environments.fails = None
        assert (await registry.add(LOCAL_TENANT, house.pack())).state == "ready"


async def test_a_pack_with_only_a_web_folder_is_no_failure(house: House) -> None:
    async with house.open() as registry:
        original = house.sandboxes.acquire

        async def acquire(tenant: TenantId, extension: ExtensionName) -> object:
            session = await original(tenant, extension)
            session.loaded = loaded(web_directory="web")
            return session

        house.sandboxes.acquire = acquire  # type: ignore[method-assign, assignment]
        info = await registry.add(LOCAL_TENANT, house.pack(first="pass"))
        assert (info.state, info.node_count) == ("ready", 0)


async def test_names_are_checked_suggested_and_protected(house: House) -> None:
    async with house.open() as registry:
        info = await registry.add(LOCAL_TENANT, house.pack("My Pack (v2)", "# nodes: One"))
        assert info.name == "My-Pack-v2"
        with pytest.raises(ExtensionExistsError):
            await registry.add(LOCAL_TENANT, house.pack("other"), name="My-Pack-v2")
        for name in ("core", "Core"):
            with pytest.raises(ExtensionProtectedError):
                await registry.add(LOCAL_TENANT, house.pack("other"), name=name)
        with pytest.raises(NameInvalidError):
            await registry.add(LOCAL_TENANT, house.pack("other"), name="../x")
        with pytest.raises(ExtensionProtectedError):
            await registry.remove(LOCAL_TENANT, CORE_EXTENSION)
        with pytest.raises(ExtensionUnknownError):
            await registry.remove(LOCAL_TENANT, ExtensionName("nothere"))
        with pytest.raises(SourceRefusedError):
            await registry.add(LOCAL_TENANT, house.root / "nothere")
        assert [info.name for info in await registry.list(LOCAL_TENANT)] == ["core", "My-Pack-v2"]


async def test_core_keeps_its_classes_and_among_packs_the_last_added_wins(house: House) -> None:
    async with house.open() as registry:
        await registry.node_types(LOCAL_TENANT)
        await registry.add(LOCAL_TENANT, house.pack("a", "# nodes: LoadImage Blur"))
        await registry.add(LOCAL_TENANT, house.pack("b", "# nodes: Blur"))
        types = await registry.node_types(LOCAL_TENANT)
        assert (types["LoadImage"].extension, types["Blur"].extension) == ("core", "b")
        info = await registry.get(LOCAL_TENANT, ExtensionName("a"))
        lost = [note.split("of this extension is not used: ") for note in info.notes]
        assert lost == [
            ["node 'Blur' ", "extension 'b' provides it (it was added later)"],
            ["node 'LoadImage' ", "extension 'core' provides it (core nodes keep their names)"],
        ]
        await registry.remove(LOCAL_TENANT, ExtensionName("b"))
        assert (await registry.node_types(LOCAL_TENANT))["Blur"].extension == "a"


async def test_tenants_do_not_see_each_others_extensions(house: House) -> None:
    async with house.open() as registry:
        await registry.add(LOCAL_TENANT, house.pack())
        assert sorted(await registry.node_types(OTHER)) == ["LoadImage", "SaveImage"]
        with pytest.raises(StartError):
            await registry.to_run.files(OTHER, BLUR)
        with pytest.raises(ExtensionUnknownError):
            await registry.reload(OTHER, BLUR)


async def test_a_reload_takes_the_new_content_and_ends_the_old_sandbox(house: House) -> None:
    async with house.open() as registry:
        pack = house.pack()
        before = await registry.add(LOCAL_TENANT, pack)
        house.pack(first="# nodes: Blur Glow", requirements_txt="tqdm")
        after = await registry.reload(LOCAL_TENANT, BLUR)
        assert after.content_hash != before.content_hash
        assert house.copies() == [after.content_hash]
        assert "Glow" in await registry.node_types(LOCAL_TENANT)
        assert house.sandboxes.stopped == ["blur-0"]
        assert [view.id for view in house.sandboxes.list()] == ["blur-1", "core-2"]


async def test_a_reload_of_the_same_content_starts_it_anew(house: House) -> None:
    async with house.open() as registry:
        await registry.add(LOCAL_TENANT, house.pack())
        await registry.reload(LOCAL_TENANT, BLUR)
        assert house.sandboxes.started == ["blur", "blur"]
        assert house.sandboxes.stopped == ["blur-0"]


async def test_a_failed_reload_leaves_the_running_version_alone(house: House) -> None:
    async with house.open() as registry:
        before = await registry.add(LOCAL_TENANT, house.pack())
        house.pack(first="raise SyntaxError")
        with pytest.raises(LoadFailedError):
            await registry.reload(LOCAL_TENANT, BLUR)
        info = await registry.get(LOCAL_TENANT, BLUR)
        assert (info.state, info.sandbox, info.content_hash) == ("ready", "warm", before.content_hash)
        assert info.error is not None
        assert info.error.message.startswith("reload failed: ")
        assert house.copies() == [before.content_hash]
        assert house.sandboxes.stopped == []
        assert "Blur" in await registry.node_types(LOCAL_TENANT)


async def test_a_reload_works_when_the_original_is_gone(house: House) -> None:
    async with house.open() as registry:
        pack = house.pack()
        await registry.add(LOCAL_TENANT, pack)
        (pack / "__init__.py").unlink()
        pack.rmdir()
        info = await registry.reload(LOCAL_TENANT, BLUR, house.lines.append)
        assert info.state == "ready"
        assert any("is gone" in line for line in house.lines)


async def test_removing_takes_everything_along(house: House) -> None:
    policy = house.root / "mine.yaml"
    policy.write_text("memory: 1GiB\n")
    async with house.open() as registry:
        await registry.add(LOCAL_TENANT, house.pack(requirements_txt="numpy"), policy_file=policy)
        assert (house.policies.directory / "blur.yaml").exists()
        await registry.remove(LOCAL_TENANT, BLUR)
        assert house.sandboxes.stopped == ["blur-0"]
        assert house.environments.discarded == ["numpy-one"]
        assert not (house.policies.directory / "blur.yaml").exists()
        assert not (house.places.tenant(LOCAL_TENANT) / "extensions" / "blur").exists()
        assert "Blur" not in await registry.node_types(LOCAL_TENANT)


async def test_an_environment_that_another_extension_uses_stays(house: House) -> None:
    async with house.open() as registry:
        await registry.add(LOCAL_TENANT, house.pack(requirements_txt="numpy"))
        await registry.add(OTHER, house.pack(requirements_txt="numpy"))
        await registry.remove(LOCAL_TENANT, BLUR)
        assert house.environments.discarded == []
        await registry.remove(OTHER, BLUR)
        assert house.environments.discarded == ["numpy-one"]


@pytest.mark.parametrize(("needs", "left_over"), [("numpy", []), ("scipy", ["numpy-one"])])
async def test_an_environment_that_another_extension_is_just_being_given_stays(
    house: House, monkeypatch: pytest.MonkeyPatch, needs: str, left_over: list[str]
) -> None:
    """It is found whole before it stands in any record; its last user may go in between."""
    found, removed = anyio.Event(), anyio.Event()
    ensure = house.environments.ensure

    async def slowly(tenant: TenantId, *arguments: Any, **more: Any) -> Any:
        built = await ensure(tenant, *arguments, **more)
        if tenant == OTHER:
            found.set()
            await removed.wait()
        return built

    monkeypatch.setattr(house.environments, "ensure", slowly)
    async with house.open() as registry:
        await registry.add(LOCAL_TENANT, house.pack(requirements_txt="numpy"))
        pack = house.pack(requirements_txt=needs)
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(registry.add, OTHER, pack)
                await found.wait()
                await registry.remove(LOCAL_TENANT, BLUR)
                assert house.environments.discarded == []
                removed.set()
        assert house.environments.discarded == left_over
        await registry.remove(OTHER, BLUR)
        assert sorted(house.environments.discarded) == sorted({"numpy-one", f"{needs}-one"})


async def test_a_wrong_policy_adds_nothing(house: House) -> None:
    policy = house.root / "mine.yaml"
    policy.write_text("memory: lots\n")
    async with house.open() as registry:
        with pytest.raises(PolicyError):
            await registry.add(LOCAL_TENANT, house.pack(), policy_file=policy)
        assert len(await registry.list(LOCAL_TENANT)) == 1
        assert not (house.policies.directory / "blur.yaml").exists()


async def test_refresh_asks_the_workers_that_run_or_are_named(house: House) -> None:
    async with house.open() as registry:
        await registry.add(LOCAL_TENANT, house.pack())
        await registry.add(LOCAL_TENANT, house.pack("glow", "# nodes: Glow"))
        types = await registry.refresh(LOCAL_TENANT, ["Blur", "Unknown"])
        assert types["Blur"].description.info["description"] == "live"
        assert types["Sharpen"].description.info["description"] == ""
        assert types["Glow"].description.info["description"] == ""
        for view in house.sandboxes.list():
            if view.extensions == ("glow",):
                await house.sandboxes.stop(LOCAL_TENANT, view.id)
        house.sandboxes.started.clear()
        types = await registry.refresh(LOCAL_TENANT, None)
        assert types["Sharpen"].description.info["description"] == "live"
        assert types["Glow"].description.info["description"] == ""
        assert house.sandboxes.started == []


async def test_a_worker_that_fails_keeps_its_last_description(house: House) -> None:
    async with house.open() as registry:
        await registry.add(LOCAL_TENANT, house.pack())
        house.sandboxes.views.clear()

        def fail(name: str) -> None:
            raise StartError(f"{name} does not start")

        house.sandboxes.on_start = fail
        assert "Blur" in await registry.refresh(LOCAL_TENANT, ["Blur"])


async def test_core_that_does_not_start_takes_nothing_down(house: House) -> None:
    async with house.open() as registry:
        (house.core / "__init__.py").write_text("raise ImportError\n")
        assert dict(await registry.node_types(LOCAL_TENANT)) == {}
        core, *_ = await registry.list(LOCAL_TENANT)
        assert core.state == "failed"
        (house.core / "__init__.py").write_text("# nodes: LoadImage\n")
        assert (await registry.reload(LOCAL_TENANT, CORE_EXTENSION)).state == "ready"
        assert "LoadImage" in await registry.node_types(LOCAL_TENANT)


async def test_a_host_that_died_while_adding_lists_it_as_interrupted(house: House) -> None:
    async with house.open() as registry:
        await registry.add(LOCAL_TENANT, house.pack())
    path = house.places.tenant(LOCAL_TENANT) / "extensions" / "blur" / "meta.json"
    path.write_text(json.dumps({**house.meta(), "state": "building"}))
    async with house.open() as registry:
        info = await registry.get(LOCAL_TENANT, BLUR)
        assert info.error is not None
        assert (info.state, info.error.code) == ("failed", "interrupted")


async def test_a_damaged_record_costs_only_its_extension(house: House) -> None:
    async with house.open() as registry:
        await registry.add(LOCAL_TENANT, house.pack())
        await registry.add(LOCAL_TENANT, house.pack("glow", "# nodes: Glow"))
    (house.places.tenant(LOCAL_TENANT) / "extensions" / "blur" / "meta.json").write_text("{")
    async with house.open() as registry:
        assert [info.name for info in await registry.list(LOCAL_TENANT)] == ["core", "glow"]
        assert (await registry.add(LOCAL_TENANT, house.pack())).state == "ready"


async def test_the_same_name_twice_at_once_is_added_once(house: House) -> None:
    async with house.open() as registry:
        outcomes: list[str] = []

        async def add() -> None:
            try:
                outcomes.append((await registry.add(LOCAL_TENANT, house.pack())).state)
            except ExtensionExistsError:
                outcomes.append("exists")

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(add)
        assert sorted(outcomes) == ["exists", "exists", "ready"]


async def test_an_interrupted_add_is_listed_as_such(house: House) -> None:
    async with house.open() as registry:
        with anyio.CancelScope() as scope:
            house.sandboxes.on_start = lambda _name: scope.cancel()
            await registry.add(LOCAL_TENANT, house.pack())
        assert scope.cancelled_caught
        info = await registry.get(LOCAL_TENANT, BLUR)
        assert info.error is not None
        assert (info.state, info.error.code) == ("failed", "interrupted")
        assert house.sandboxes.list() == []


async def test_members_of_a_group_are_the_ready_ones(house: House) -> None:
    house.policies.directory.mkdir()
    for name in ("blur", "glow"):
        (house.policies.directory / f"{name}.yaml").write_text("group: pictures\n")
    async with house.open() as registry:
        await registry.add(LOCAL_TENANT, house.pack("glow", "# nodes: Glow"))
        await registry.add(LOCAL_TENANT, house.pack())
        await registry.add(LOCAL_TENANT, house.pack("alone", "# nodes: Alone"))
        assert await registry.to_run.members(LOCAL_TENANT, "pictures") == ("blur", "glow")
        assert (await registry.node_types(LOCAL_TENANT))["Glow"].group == "pictures"


async def test_a_group_has_one_environment_made_once_for_its_members_as_they_are(house: House) -> None:
    house.policies.directory.mkdir()
    for name in ("blur", "glow"):
        (house.policies.directory / f"{name}.yaml").write_text("group: pictures\n")
    async with house.open() as registry:
        for name, needs in (("blur", "numpy"), ("glow", "scipy")):
            pack = house.pack(name, f"# nodes: {name}")
            (pack / "requirements.txt").write_text(needs)
            await registry.add(LOCAL_TENANT, pack)
        for _ in range(2):
            blur, glow = await registry.to_run.group_files(LOCAL_TENANT, "pictures", BLUR)
            assert (blur.name, glow.name) == ("blur", "glow")
            assert blur.environment == glow.environment == house.environments.root / "numpy+scipy"
        assert house.environments.groups == [("pictures", ("blur", "glow"))]
        assert (
            await registry.to_run.files(LOCAL_TENANT, BLUR)
        ).environment == house.environments.root / "numpy-one"

        (pack / "requirements.txt").write_text("tqdm")
        lines: list[str] = []
        await registry.reload(LOCAL_TENANT, ExtensionName("glow"), lines.append)
        assert "the sandbox of group 'pictures' is replaced, which also holds 'blur'" in lines
        blur, glow = await registry.to_run.group_files(LOCAL_TENANT, "pictures", BLUR)
        assert blur.environment == glow.environment == house.environments.root / "numpy+tqdm"

        await registry.remove(LOCAL_TENANT, ExtensionName("glow"))
        assert {"numpy+scipy", "numpy+tqdm"} <= set(house.environments.discarded)
        (blur,) = await registry.to_run.group_files(LOCAL_TENANT, "pictures", BLUR)
        assert blur.environment == house.environments.root / "numpy-one"


async def test_a_group_that_cannot_have_one_environment_says_so_when_a_member_starts(house: House) -> None:
    house.policies.directory.mkdir()
    for name in ("blur", "glow"):
        (house.policies.directory / f"{name}.yaml").write_text("group: pictures\n")
    async with house.open() as registry:
        for name, needs in (("blur", "numpy"), ("glow", "scipy")):
            pack = house.pack(name, f"# nodes: {name}")
            (pack / "requirements.txt").write_text(needs)
            await registry.add(LOCAL_TENANT, pack)
        house.environments.fails = GroupConflictError("'blur' and 'glow' exclude each other")
        with pytest.raises(GroupConflictError, match="exclude each other"):
            await registry.to_run.group_files(LOCAL_TENANT, "pictures", BLUR)
        house.environments.fails = None
        assert len(await registry.to_run.group_files(LOCAL_TENANT, "pictures", BLUR)) == 2
        assert house.environments.group_places == ("policies/blur.yaml", "policies/glow.yaml")


async def test_a_tenant_does_not_get_the_policy_that_another_was_granted(house: House) -> None:
    policy = house.root / "mine.yaml"
    policy.write_text("memory: 1GiB\n")
    async with house.open() as registry:
        await registry.add(LOCAL_TENANT, house.pack(), policy_file=policy)
        await registry.add(OTHER, house.pack(), by_operator=False)
        assert house.policies.effective(BLUR, LOCAL_TENANT).memory == 2**30
        assert house.policies.effective(BLUR, OTHER).memory == 2 * 2**30
        # Each has a file of its own, and takes along no other.
        await registry.remove(OTHER, BLUR)
        await registry.add(OTHER, house.pack(), policy_file=policy)
        assert house.policies.effective(BLUR, OTHER).memory == 2**30
        await registry.remove(LOCAL_TENANT, BLUR)
        assert house.policies.effective(BLUR, LOCAL_TENANT).memory == 2 * 2**30
        assert house.policies.effective(BLUR, OTHER).memory == 2**30


async def test_a_tenant_does_not_take_a_name_for_which_the_operator_left_a_policy(house: House) -> None:
    theirs = house.policies.directory / "tenants" / "other"
    theirs.mkdir(parents=True)
    (theirs / "blur.yaml").write_text("memory: 1GiB\n")
    async with house.open() as registry:
        with pytest.raises(PolicyReservedError, match=r"blur\.yaml") as caught:
            await registry.add(OTHER, house.pack(), by_operator=False)
        assert "--name" in caught.value.hint
        assert [info.name for info in await registry.list(OTHER)] == [CORE_EXTENSION]
        assert (await registry.add(OTHER, house.pack(), name="other", by_operator=False)).state == "ready"
        # What the operator adds for the tenant is meant to have it, from then on.
        await registry.add(OTHER, house.pack())
        assert (await registry.reload(OTHER, BLUR, by_operator=False)).state == "ready"


async def test_a_tenant_cannot_reload_into_a_policy_that_came_later(house: House) -> None:
    async with house.open() as registry:
        await registry.add(OTHER, house.pack(), by_operator=False)
        assert (await registry.reload(OTHER, BLUR, by_operator=False)).state == "ready"
        theirs = house.policies.directory / "tenants" / "other"
        theirs.mkdir(parents=True)
        (theirs / "blur.yaml").write_text("memory: 1GiB\n")
        with pytest.raises(PolicyReservedError):
            await registry.reload(OTHER, BLUR, by_operator=False)

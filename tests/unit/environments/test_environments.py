"""Building, reusing and failing, with a builder that is none."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from policies import LOCAL_TENANT, EffectivePolicy, ExtensionName, PolicyStore, TenantId
from sandbox.environment_errors import (
    BuildFailedError,
    BuildLimitError,
    DependencyRefusedError,
    EnvironmentChangedError,
    PackageChangedError,
)
from sandbox.environments import EnvironmentLimits, Environments
from sandbox.launcher.build_verb import (
    BuildJob,
    BuildOutcome,
    BuildSettings,
    Line,
    NodeImage,
    Step,
)

pytestmark = pytest.mark.anyio

SETTINGS = BuildSettings(image="ringfence-node:cpu", instance="test")


class ScriptedBuilder:
    """Writes the lock and the packages that a build would; each step may be told to do something else."""

    def __init__(self, image: NodeImage) -> None:
        self._image = image
        self.steps: list[Step] = []
        self.lock = "numpy==1.26.4 --hash=sha256:aa\n"
        self.instead: dict[str, Callable[[BuildJob], Any]] = {}

    async def image(self) -> NodeImage:
        return self._image

    async def run(self, job: BuildJob, step: Step, line: Line) -> BuildOutcome:
        self.steps.append(step)
        line(f"{step} begins")
        if step in self.instead:
            result = self.instead[step](job)
            if hasattr(result, "__await__"):
                result = await result
            if isinstance(result, BuildOutcome):
                return result
        elif step == "resolve":
            (job.directory / "out" / "lock.txt").write_text(self.lock)
        else:
            package = job.directory / "out" / "site" / "numpy"
            package.mkdir(parents=True)
            (package / "__init__.py").write_text("x = 1\n")
        await anyio.lowlevel.checkpoint()
        return BuildOutcome(0, (), 0.1)

    async def sweep(self) -> int:
        return 0


@pytest.fixture
def builder(image: NodeImage) -> ScriptedBuilder:
    return ScriptedBuilder(image)


@pytest.fixture
def environments(tmp_path: Path, builder: ScriptedBuilder) -> Environments:
    limits = EnvironmentLimits(nbytes=1024 * 1024, entries=100)
    return Environments(tmp_path / "environments", builder, settings=SETTINGS, limits=limits)


@pytest.fixture
def policy(tmp_path: Path) -> EffectivePolicy:
    return PolicyStore(tmp_path / "policies").effective(ExtensionName("x"))


def quiet(_line: str) -> None:
    pass


def leftovers(tmp_path: Path) -> list[Path]:
    jobs = tmp_path / "environments" / ".jobs"
    return list(jobs.iterdir()) if jobs.exists() else []


async def test_an_environment_is_built_once_and_reused(
    environments: Environments, builder: ScriptedBuilder, policy: EffectivePolicy, pack: Path, tmp_path: Path
) -> None:
    (pack / "requirements.txt").write_text("numpy<2\n")
    lines: list[str] = []
    first = await environments.ensure(LOCAL_TENANT, pack, policy, lines.append)
    assert first.site is not None
    assert first.key is not None
    assert (first.site / "numpy" / "__init__.py").read_text() == "x = 1\n"
    assert first.packages == {"numpy": "1.26.4"}
    assert not first.reused
    assert "resolve begins" in lines
    (pack / "requirements.txt").write_text("numpy < 2.0\n")
    second = await environments.ensure(LOCAL_TENANT, pack, policy, quiet)
    assert (second.key, second.site, second.reused) == (first.key, first.site, True)
    assert builder.steps == ["resolve", "install"]
    assert leftovers(tmp_path) == []
    await environments.discard(first.key)
    assert environments.site(first.key) is None


async def test_two_at_once_build_once(
    environments: Environments, builder: ScriptedBuilder, policy: EffectivePolicy, pack: Path
) -> None:
    (pack / "requirements.txt").write_text("numpy<2\n")
    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(environments.ensure, LOCAL_TENANT, pack, policy, quiet)
    assert builder.steps == ["resolve", "install"]


async def test_a_pack_the_image_satisfies_has_no_environment(
    environments: Environments, builder: ScriptedBuilder, policy: EffectivePolicy, pack: Path
) -> None:
    (pack / "requirements.txt").write_text("numpy\n")
    environment = await environments.ensure(LOCAL_TENANT, pack, policy, quiet)
    assert (environment.key, environment.site, builder.steps) == (None, None, [])


async def test_a_lock_of_the_images_own_versions_adds_no_directory(
    environments: Environments, builder: ScriptedBuilder, policy: EffectivePolicy, pack: Path
) -> None:
    builder.lock = "tqdm==4.70.1 --hash=sha256:aa\n"
    (pack / "requirements.txt").write_text("tqdm[extra]\n")
    environment = await environments.ensure(LOCAL_TENANT, pack, policy, quiet)
    assert environment.key is not None
    assert environment.site is None
    assert builder.steps == ["resolve"]
    assert (await environments.ensure(LOCAL_TENANT, pack, policy, quiet)).reused


async def test_a_refused_line_starts_no_container(
    environments: Environments, builder: ScriptedBuilder, policy: EffectivePolicy, pack: Path
) -> None:
    (pack / "requirements.txt").write_text("--index-url https://host.example/x\n")
    with pytest.raises(DependencyRefusedError):
        await environments.ensure(LOCAL_TENANT, pack, policy, quiet)
    assert builder.steps == []


async def test_what_cannot_be_had_is_left_out_and_said(
    environments: Environments, builder: ScriptedBuilder, policy: EffectivePolicy, pack: Path
) -> None:
    (pack / "requirements.txt").write_text("tqdm[extra]\nfairscale\n")

    def refuse(job: BuildJob) -> BuildOutcome | None:
        if "fairscale" in (job.directory / "in" / "requirements.in").read_text():
            words = "hint: Wheels are required for `fairscale` because building from source is disabled"
            return BuildOutcome(1, (words,), 0.1)
        (job.directory / "out" / "lock.txt").write_text(builder.lock)
        return None

    builder.instead["resolve"] = refuse
    made = await environments.ensure(LOCAL_TENANT, pack, policy, quiet)
    assert made.site is not None
    assert any(note.startswith("left out: fairscale (not in the package index") for note in made.notes)


async def test_what_is_only_implied_is_given_up_when_it_stands_in_the_way(
    environments: Environments, builder: ScriptedBuilder, policy: EffectivePolicy, pack: Path
) -> None:
    (pack / "requirements.txt").write_text("tqdm[extra]\n")
    (pack / "nodes.py").write_text("try:\n    import transformers\nexcept ImportError:\n    pass\n")

    def refuse(job: BuildJob) -> BuildOutcome | None:
        if "transformers" in (job.directory / "in" / "requirements.in").read_text():
            return BuildOutcome(1, ("error: No solution",), 0.1)
        (job.directory / "out" / "lock.txt").write_text(builder.lock)
        return None

    builder.instead["resolve"] = refuse
    lines: list[str] = []
    await environments.ensure(LOCAL_TENANT, pack, policy, lines.append)
    assert "trying again without what was only implied: transformers>=4.37.2" in lines


async def test_a_failed_build_says_what_uv_said_and_leaves_nothing(
    environments: Environments, builder: ScriptedBuilder, policy: EffectivePolicy, pack: Path, tmp_path: Path
) -> None:
    builder.instead["resolve"] = lambda job: BuildOutcome(1, ("error: No solution", "because so"), 0.1)
    (pack / "requirements.txt").write_text("nothere\n")
    with pytest.raises(BuildFailedError, match=r"exit 1\): error: No solution \| because so") as caught:
        await environments.ensure(LOCAL_TENANT, pack, policy, quiet)
    assert caught.value.lines == ("error: No solution", "because so")
    assert leftovers(tmp_path) == []
    del builder.instead["resolve"]
    assert (await environments.ensure(LOCAL_TENANT, pack, policy, quiet)).site is not None


async def test_a_missing_wheel_says_how_to_allow_source_builds(
    environments: Environments, builder: ScriptedBuilder, policy: EffectivePolicy, pack: Path
) -> None:
    builder.instead["resolve"] = lambda job: BuildOutcome(1, ("Because x==1 has no usable wheels",), 0.1)
    (pack / "requirements.txt").write_text("x\n")
    made = await environments.ensure(LOCAL_TENANT, pack, policy, quiet)
    assert made.site is None
    assert "'build: {source_builds: true}' in its policy" in made.notes[0]


async def test_a_build_that_takes_too_long_is_ended(
    environments: Environments, builder: ScriptedBuilder, policy: EffectivePolicy, pack: Path, tmp_path: Path
) -> None:
    builder.instead["resolve"] = lambda job: anyio.sleep_forever()
    (pack / "requirements.txt").write_text("x\n")
    short = policy.model_copy(update={"build": policy.build.model_copy(update={"timeout_s": 0.05})})
    with anyio.fail_after(60), pytest.raises(BuildLimitError) as caught:
        await environments.ensure(LOCAL_TENANT, pack, short, quiet)
    assert (caught.value.limit, caught.value.figure) == ("time", "0.05 s")
    assert leftovers(tmp_path) == []


async def test_a_build_that_fills_the_disk_is_ended(
    environments: Environments, builder: ScriptedBuilder, policy: EffectivePolicy, pack: Path
) -> None:
    async def fill(job: BuildJob) -> None:
        (job.directory / "out" / "big").write_bytes(b"x" * 2 * 1024 * 1024)
        await anyio.sleep_forever()

    builder.instead["resolve"] = fill
    (pack / "requirements.txt").write_text("x\n")
    with anyio.fail_after(60), pytest.raises(BuildLimitError) as caught:
        await environments.ensure(LOCAL_TENANT, pack, policy, quiet)
    assert caught.value.limit == "disk"


async def test_memory_is_named_when_the_kernel_ended_it(
    environments: Environments, builder: ScriptedBuilder, policy: EffectivePolicy, pack: Path
) -> None:
    builder.instead["resolve"] = lambda job: BuildOutcome(137, (), 0.1, "memory")
    (pack / "requirements.txt").write_text("x\n")
    with pytest.raises(BuildLimitError, match="memory cap 4096 MiB"):
        await environments.ensure(LOCAL_TENANT, pack, policy, quiet)


async def test_what_a_build_leaves_cannot_trick_whoever_reads_it(
    environments: Environments, builder: ScriptedBuilder, policy: EffectivePolicy, pack: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("secret")

    def install(job: BuildJob) -> None:
        site = job.directory / "out" / "site"
        site.mkdir()
        (site / "leak").symlink_to(tmp_path / "secret")
        (site / "inside").symlink_to("tool")
        os.mkfifo(site / "pipe")
        (site / "tool").write_text("#!/bin/sh\n")
        (site / "tool").chmod(0o6777)

    builder.instead["install"] = install
    (pack / "requirements.txt").write_text("numpy<2\n")
    environment = await environments.ensure(LOCAL_TENANT, pack, policy, quiet)
    assert environment.site is not None
    assert sorted(path.name for path in environment.site.iterdir()) == ["inside", "tool"]
    assert (environment.site / "tool").stat().st_mode & 0o7777 == 0o755


async def test_a_site_that_is_a_link_is_not_walked(
    environments: Environments, builder: ScriptedBuilder, policy: EffectivePolicy, pack: Path, tmp_path: Path
) -> None:
    (tmp_path / "theirs").mkdir(mode=0o700)
    builder.instead["install"] = lambda job: (job.directory / "out" / "site").symlink_to(tmp_path / "theirs")
    (pack / "requirements.txt").write_text("numpy<2\n")
    with pytest.raises(BuildFailedError, match="no directory of packages"):
        await environments.ensure(LOCAL_TENANT, pack, policy, quiet)
    assert (tmp_path / "theirs").stat().st_mode & 0o777 == 0o700


async def test_a_lock_that_is_a_link_is_not_followed(
    environments: Environments, builder: ScriptedBuilder, policy: EffectivePolicy, pack: Path, tmp_path: Path
) -> None:
    def resolve(job: BuildJob) -> None:
        lock = job.directory / "out" / "lock.txt"
        lock.unlink()
        lock.symlink_to(tmp_path / "secret")

    (tmp_path / "secret").write_text("numpy==1 --hash=sha256:aa\n")
    builder.instead["resolve"] = resolve
    (pack / "requirements.txt").write_text("numpy<2\n")
    with pytest.raises(BuildFailedError, match="no readable result"):
        await environments.ensure(LOCAL_TENANT, pack, policy, quiet)


async def test_the_builder_gets_the_lists(
    environments: Environments, builder: ScriptedBuilder, policy: EffectivePolicy, pack: Path
) -> None:
    seen: dict[str, str] = {}

    def resolve(job: BuildJob) -> BuildOutcome:
        for file in (job.directory / "in").iterdir():
            seen[file.name] = file.read_text()
        seen["lock"] = (job.directory / "out" / "lock.txt").read_text()
        return BuildOutcome(1, (), 0)

    builder.instead["resolve"] = resolve
    (pack / "requirements.txt").write_text("numpy<2\n-c c.txt\n")
    (pack / "c.txt").write_text("scipy<1.17\n")
    with pytest.raises(BuildFailedError):
        await environments.ensure(LOCAL_TENANT, pack, policy, quiet)
    assert seen["requirements.in"] == "numpy<2\n"
    assert seen["constraints.txt"] == "scipy<1.17\n"
    assert "scipy==1.17.1\n" in seen["lock"]


# -- locks -------------------------------------------------------------------------------------------------------------

AA, BB = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"


async def test_a_lock_is_kept_and_a_rebuild_asks_the_index_for_nothing_else(
    environments: Environments, builder: ScriptedBuilder, policy: EffectivePolicy, pack: Path
) -> None:
    builder.lock = f"numpy==1.26.4 --hash={AA}\n"
    (pack / "requirements.txt").write_text("numpy<2\n")
    first = await environments.ensure(LOCAL_TENANT, pack, policy, quiet)
    assert first.key is not None
    assert first.lock is not None
    await environments.discard(first.key)
    builder.lock = f"numpy==1.26.5 --hash={BB}\n"  # what the index would say by now
    again = await environments.ensure(LOCAL_TENANT, pack, policy, quiet, kept=first.lock)
    assert (again.key, again.packages, again.lock) == (first.key, {"numpy": "1.26.4"}, first.lock)
    assert builder.steps == ["resolve", "install", "install"]
    newer = await environments.ensure(LOCAL_TENANT, pack, policy, quiet, kept=first.lock, upgrade=True)
    assert newer.packages == {"numpy": "1.26.5"}
    assert newer.key != first.key


async def test_what_could_not_be_had_is_not_slipped_in_when_it_appears(
    environments: Environments, builder: ScriptedBuilder, policy: EffectivePolicy, pack: Path
) -> None:
    (pack / "requirements.txt").write_text("numpy<2\nfairscale\n")

    def refuse(job: BuildJob) -> BuildOutcome | None:
        if "fairscale" in (job.directory / "in" / "requirements.in").read_text():
            words = "hint: Wheels are required for `fairscale` because building from source is disabled"
            return BuildOutcome(1, (words,), 0.1)
        (job.directory / "out" / "lock.txt").write_text(builder.lock)
        return None

    builder.instead["resolve"] = refuse
    first = await environments.ensure(LOCAL_TENANT, pack, policy, quiet)
    assert first.key is not None
    assert first.lock is not None
    assert first.lock.without == ("fairscale",)
    await environments.discard(first.key)
    builder.steps.clear()
    again = await environments.ensure(LOCAL_TENANT, pack, policy, quiet, kept=first.lock)
    assert (again.key, builder.steps) == (first.key, ["install"])
    assert [note for note in again.notes if "left out: fairscale" in note]


async def test_other_requirements_are_resolved_anew_and_keep_to_the_versions_there_were(
    environments: Environments, builder: ScriptedBuilder, policy: EffectivePolicy, pack: Path
) -> None:
    builder.lock = f"piexif==1.1.3 --hash={AA}\n"
    (pack / "requirements.txt").write_text("piexif\n")
    first = await environments.ensure(LOCAL_TENANT, pack, policy, quiet)
    seen: list[str] = []

    def resolve(job: BuildJob) -> None:
        seen.append((job.directory / "out" / "lock.txt").read_text())
        (job.directory / "out" / "lock.txt").write_text(builder.lock)

    builder.instead["resolve"] = resolve
    (pack / "requirements.txt").write_text("piexif\nisodate\n")
    await environments.ensure(LOCAL_TENANT, pack, policy, quiet, kept=first.lock)
    assert "piexif==1.1.3\n" in seen[0]


async def test_a_version_whose_files_changed_at_the_index_is_refused_by_name_with_both_hashes(
    environments: Environments, builder: ScriptedBuilder, policy: EffectivePolicy, pack: Path
) -> None:
    builder.lock = f"piexif==1.1.3 --hash={AA}\n"
    (pack / "requirements.txt").write_text("piexif\n")
    first = await environments.ensure(LOCAL_TENANT, pack, policy, quiet)
    builder.lock = f"piexif==1.1.3 --hash={BB}\n"
    (pack / "requirements.txt").write_text("piexif>=1\n")
    with pytest.raises(PackageChangedError) as caught:
        await environments.ensure(LOCAL_TENANT, pack, policy, quiet, kept=first.lock)
    assert (caught.value.package, caught.value.expected, caught.value.found) == (
        "piexif==1.1.3",
        (AA,),
        (BB,),
    )
    assert "--upgrade" in caught.value.hint


async def test_what_an_installer_says_of_a_changed_file_is_understood(
    environments: Environments, builder: ScriptedBuilder, policy: EffectivePolicy, pack: Path
) -> None:
    lines = (
        "  x Failed to download `piexif==1.1.3`",
        "  `-> Hash mismatch for `piexif==1.1.3`",
        "      Expected:",
        f"        {AA}",
        "      Computed:",
        f"        {BB}",
    )
    builder.instead["install"] = lambda job: BuildOutcome(1, lines, 0.1)
    (pack / "requirements.txt").write_text("piexif\n")
    with pytest.raises(PackageChangedError) as caught:
        await environments.ensure(LOCAL_TENANT, pack, policy, quiet)
    assert f"piexif==1.1.3 than the extension's lock: locked {AA}, found {BB}" in caught.value.message


async def test_an_environment_that_was_changed_is_noticed_and_built_again(
    environments: Environments, builder: ScriptedBuilder, policy: EffectivePolicy, pack: Path
) -> None:
    (pack / "requirements.txt").write_text("numpy<2\n")
    first = await environments.ensure(LOCAL_TENANT, pack, policy, quiet)
    assert first.site is not None
    assert first.key is not None
    await environments.verify(first.key)
    (first.site / "numpy" / "__init__.py").write_text("import evil\n")
    with pytest.raises(EnvironmentChangedError, match="is not as it was built"):
        await environments.verify(first.key)
    lines: list[str] = []
    again = await environments.ensure(LOCAL_TENANT, pack, policy, lines.append, kept=first.lock)
    assert not again.reused
    assert (first.site / "numpy" / "__init__.py").read_text() == "x = 1\n"
    assert [line for line in lines if "it is built again" in line]
    (first.site / "sitecustomize.py").write_text("import evil\n")
    with pytest.raises(EnvironmentChangedError):
        await environments.verify(first.key)


async def test_environments_from_source_are_one_tenants_own(
    environments: Environments, builder: ScriptedBuilder, policy: EffectivePolicy, pack: Path
) -> None:
    (pack / "requirements.txt").write_text("numpy<2\n")
    sources = policy.model_copy(update={"build": policy.build.model_copy(update={"source_builds": True})})
    keys = {
        (await environments.ensure(tenant, pack, chosen, quiet)).key
        for tenant in (LOCAL_TENANT, TenantId("other"))
        for chosen in (policy, sources)
    }
    assert len(keys) == 3  # both tenants have the one of wheels

"""Environments that are really built: in a build container, from the package index, beside the node image."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import DockerException

from policies import LOCAL_TENANT, EffectivePolicy, ExtensionName, PolicyStore
from sandbox.environment_errors import (
    BuildFailedError,
    BuildLimitError,
    GroupConflictError,
)
from sandbox.environments import Environment, Environments
from sandbox.launcher.build import DockerBuilder
from sandbox.launcher.build_verb import BuildSettings, IndexSettings
from sandbox.launcher.staging import StagedBuilder
from sandbox.places import Places

pytestmark = [pytest.mark.docker, pytest.mark.anyio]

IMAGE = os.environ.get("RINGFENCE_NODE_IMAGE", "ringfence-node:cpu")
EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    try:
        client = docker.from_env()
        client.images.get(IMAGE)
    except DockerException as error:
        pytest.skip(f"no container engine with {IMAGE}: {error}")
    yield client
    client.close()


class Yard:
    """One data directory and a builder on the real engine."""

    def __init__(self, root: Path, engine: Any) -> None:
        self.engine = engine
        self.settings = BuildSettings(
            image=IMAGE,
            instance=f"test-builds-{secrets.token_hex(4)}",
            network_mode=os.environ.get("RINGFENCE_BUILD_NETWORK", "bridge"),
        )
        index = IndexSettings.from_environment(os.environ)
        places = Places("test-builds", root)
        self.builder = StagedBuilder(
            places, DockerBuilder(self.settings, index, connect=lambda: engine), self.settings, index
        )
        self.environments = Environments(places.environments, self.builder, settings=self.settings)
        self.policy = PolicyStore(root / "policies").effective(ExtensionName("x"))
        self.root = root
        self.lines: list[str] = []

    async def ensure(self, *lines: str, policy: EffectivePolicy | None = None) -> Environment:
        pack = self.root / "pack"
        pack.mkdir(exist_ok=True)
        (pack / "requirements.txt").write_text("\n".join(lines))
        return await self.environments.ensure(LOCAL_TENANT, pack, policy or self.policy, self.lines.append)

    def python(self, site: Path | None, code: str) -> str:
        """Run code in the node image, without a network, as a sandbox would see the environment."""
        volumes = {str(site): {"bind": "/ringfence/env", "mode": "ro"}} if site else {}
        output = self.engine.containers.run(
            IMAGE,
            ["/opt/venv/bin/python", "-c", code],
            environment={"PYTHONPATH": "/ringfence/env"},
            network_mode="none",
            user="199998:199998",
            volumes=volumes,
            remove=True,
        )
        return str(output.decode().strip())

    def containers(self) -> list[Any]:
        found = self.engine.containers.list(
            all=True, filters={"label": f"ringfence.instance={self.settings.instance}"}
        )
        return list(found)


@pytest.fixture
def yard(tmp_path: Path, engine: Any) -> Iterator[Yard]:
    yard = Yard(tmp_path.resolve(), engine)
    yield yard
    assert yard.containers() == []


async def test_the_image_says_what_it_holds(yard: Yard) -> None:
    image = await yard.builder.image()
    assert {"numpy", "torch", "pillow"} <= image.packages.keys()
    assert image.python.startswith("3.")
    assert image == await yard.builder.image()


async def test_numpy_1_and_numpy_2_live_side_by_side_and_equal_sets_are_reused(yard: Yard) -> None:
    one = await yard.ensure("numpy<2")
    assert one.site is not None
    assert not one.reused
    two = await yard.ensure("numpy>=2")
    report = "import numpy, torch; print(numpy.__version__, numpy.asarray(torch.ones(2)).sum())"
    assert yard.python(one.site, report).startswith("1.26")
    assert yard.python(two.site, report).startswith("2.")
    again = await yard.ensure("NumPy <2.0")
    assert (again.key, again.site, again.reused) == (one.key, one.site, True)
    assert again.seconds == 0
    manifest = json.loads((one.site.parent / "environment.json").read_text())
    assert list(manifest["packages"]) == ["numpy"]
    assert "--hash=sha256:" in (one.site.parent / "lock.txt").read_text()
    assert (one.site / "numpy" / "__pycache__").is_dir()
    assert one.site.stat().st_uid == os.geteuid()


async def test_the_image_keeps_its_torch_when_another_package_wants_one(yard: Yard) -> None:
    environment = await yard.ensure("kornia")
    assert "kornia" in environment.packages
    assert not {name for name in environment.packages if name == "torch" or name.startswith("nvidia-")}
    assert yard.python(environment.site, "import kornia, torch; print(torch.__file__)").startswith(
        "/opt/venv/"
    )


async def test_a_package_that_does_not_exist_is_left_out_and_the_rest_installed(yard: Yard) -> None:
    made = await yard.ensure("ringfence-no-such-package==99\npiexif")
    assert set(made.packages) == {"piexif"}
    assert any(note.startswith("left out: ringfence-no-such-package (not in") for note in made.notes)


async def test_a_package_without_wheels_needs_the_policys_word(yard: Yard) -> None:
    made = await yard.ensure("antlr4-python3-runtime==4.9.3")
    assert made.site is None
    assert any("left out: antlr4-python3-runtime" in note and "source_builds" in note for note in made.notes)
    build = yard.policy.build.model_copy(update={"source_builds": True})
    allowed = yard.policy.model_copy(update={"build": build})
    environment = await yard.ensure("antlr4-python3-runtime==4.9.3", policy=allowed)
    assert environment.packages == {"antlr4-python3-runtime": "4.9.3"}


async def test_what_no_image_has_is_left_out_and_said_before_anything_is_built(yard: Yard) -> None:
    assert (await yard.ensure("torchaudio")).site is None
    assert any("no variant of the image has torchaudio" in line for line in yard.lines)


def packs(yard: Yard, **needs: str) -> dict[ExtensionName, Path]:
    found = {}
    for name, text in needs.items():
        found[ExtensionName(name)] = yard.root / "packs" / name
        found[ExtensionName(name)].mkdir(parents=True)
        (found[ExtensionName(name)] / "requirements.txt").write_text(text)
    return found


async def test_the_members_of_a_group_get_one_environment_with_what_each_needs(yard: Yard) -> None:
    members = packs(yard, one="piexif\nnumpy<3", two="isodate>=0.6")
    built = await yard.environments.ensure_group(
        LOCAL_TENANT, "studio", members, yard.policy, yard.lines.append
    )
    assert set(built.packages) == {"piexif", "isodate"}
    assert built.site is not None
    assert {"piexif", "isodate"} <= {path.name for path in built.site.iterdir()}


async def test_members_whose_dependencies_exclude_each_other_are_told_both_names(yard: Yard) -> None:
    members = packs(yard, one="requests==2.31.0", two="urllib3==1.20")
    with pytest.raises(GroupConflictError) as caught:
        await yard.environments.ensure_group(LOCAL_TENANT, "studio", members, yard.policy, yard.lines.append)
    text = caught.value.message
    assert "sandbox group 'studio' (extensions 'one', 'two') cannot have one environment" in text
    assert "'one' wants 'requests==2.31.0'; 'two' wants 'urllib3==1.20'" in text


async def test_a_build_without_network_cannot_reach_the_index(yard: Yard) -> None:
    build = yard.policy.build.model_copy(update={"network": False})
    with pytest.raises(BuildFailedError) as caught:
        await yard.ensure("piexif", policy=yard.policy.model_copy(update={"build": build}))
    assert "build.network: false" in caught.value.hint


async def test_a_build_over_its_time_is_ended_with_its_container(yard: Yard) -> None:
    build = yard.policy.build.model_copy(update={"timeout_s": 0.2})
    with pytest.raises(BuildLimitError) as caught:
        await yard.ensure("piexif", policy=yard.policy.model_copy(update={"build": build}))
    assert caught.value.limit == "time"
    assert yard.containers() == []


async def test_a_sweep_removes_what_a_killed_host_left(yard: Yard) -> None:
    labels = {"ringfence.instance": yard.settings.instance, "ringfence.purpose": "build"}
    yard.engine.containers.create(IMAGE, ["true"], labels=labels)
    assert await yard.builder.sweep() == 1


async def test_the_numpy_examples_each_need_their_numpy(yard: Yard) -> None:
    run = (
        "import sys; sys.path.insert(0, '/pack'); import torch, {name} as pack\n"
        "node = next(iter(pack.NODE_CLASS_MAPPINGS.values()))\n"
        "image, report = getattr(node(), node.FUNCTION)(torch.rand(1, 8, 8, 3), 0.5)\n"
        "print(tuple(image.shape), report)"
    )
    for name, version in (("numpy1", "numpy 1."), ("numpy2", "numpy 2.")):
        pack = EXAMPLES / name / name
        environment = await yard.environments.ensure(LOCAL_TENANT, pack, yard.policy, yard.lines.append)
        code = f"NAME = {name!r}\n" + run.format(name=name)
        volumes = {str(pack): {"bind": f"/pack/{name}", "mode": "ro"}}
        if environment.site:
            volumes[str(environment.site)] = {"bind": "/ringfence/env", "mode": "ro"}
        output = yard.engine.containers.run(
            IMAGE,
            ["/opt/venv/bin/python", "-c", code],
            environment={"PYTHONPATH": "/ringfence/env"},
            network_mode="none",
            volumes=volumes,
            remove=True,
        )
        assert output.decode().strip().startswith(f"(1, 8, 8, 3) {version}")

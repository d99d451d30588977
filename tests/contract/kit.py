"""What tests of sandboxes share: places on a real /dev/shm, policies, test packs, and encoded values."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import numpy as np

from policies import CORE_EXTENSION, ExtensionName, PolicyStore, TenantId
from sandbox import (
    ExtensionFiles,
    ManagerLimits,
    NodeCall,
    NodeResult,
    NodeStates,
    PackEvent,
    Places,
    SandboxManager,
    Session,
    StartError,
    StoreLimits,
    TensorStore,
    Value,
)
from sandbox.egress import EgressOffice
from sandbox.launcher.settings import LaunchSettings, TestOverride
from tests.contract.fixtures import IMAGE, containers
from tests.contract.zones import LauncherZone

CHECKOUT = Path(__file__).resolve().parents[2]
PACKS = CHECKOUT / "tests" / "extensions"
TENANT = TenantId("local")


#: The smallest pack: one node that returns 42.
ANSWER = """
class Answer:
    INPUT_TYPES = classmethod(lambda cls: {"required": {}})
    RETURN_TYPES = ("INT",)
    FUNCTION = "run"
    CATEGORY = "t"
    def run(self):
        return (42,)
NODE_CLASS_MAPPINGS = {"Answer": Answer}
"""


def places(data: Path) -> Places:
    """Places of an instance that no other test shares."""
    return Places(instance=f"test-{os.getpid()}-{secrets.token_hex(4)}", data=data)


@dataclass
class Shelf:
    """An ``ExtensionSource`` over copies of test packs."""

    root: Places
    found: dict[tuple[TenantId, ExtensionName], ExtensionFiles] = field(default_factory=dict)
    groups: dict[str, tuple[ExtensionName, ...]] = field(default_factory=dict)

    def add(self, source: Path, name: str | None = None, tenant: TenantId = TENANT) -> ExtensionName:
        """Put a copy of a pack where a tenant's extensions lie."""
        extension = ExtensionName(name or source.name)
        target = self.root.tenant(tenant) / "extensions" / extension / "source"
        shutil.copytree(source, target, dirs_exist_ok=True)
        self.found[tenant, extension] = ExtensionFiles(
            extension, target, None, content_hash=secrets.token_hex(8), core=extension == CORE_EXTENSION
        )
        return extension

    def write(self, name: str, code: str, tenant: TenantId = TENANT) -> ExtensionName:
        """Make a pack of one module."""
        source = self.root.data / "packs" / name
        source.mkdir(parents=True, exist_ok=True)
        (source / "__init__.py").write_text(code)
        return self.add(source, name, tenant)

    async def files(self, tenant: TenantId, extension: ExtensionName) -> ExtensionFiles:
        """See ``ExtensionSource``."""
        try:
            return self.found[tenant, extension]
        except KeyError:
            raise StartError(f"no extension {extension}") from None

    async def group_files(
        self, tenant: TenantId, group: str, extension: ExtensionName
    ) -> tuple[ExtensionFiles, ...]:
        """See ``ExtensionSource``."""
        names = sorted({*self.groups.get(group, ()), extension})
        return tuple([await self.files(tenant, name) for name in names])


class Policies:
    """A directory of policies that a test writes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.store = PolicyStore(directory)

    def write(self, extension: str, text: str) -> None:
        """Set one extension's policy; ``tenants/NAME/EXTENSION`` for another tenant than the usual one."""
        file = self.directory / f"{extension}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def call(class_type: str, inputs: Mapping[str, Any] | None = None, **fields: Any) -> NodeCall:
    """A call whose inputs are values or lists of values."""
    given = {
        name: None if item is None else item if isinstance(item, tuple) else (value(item),)
        for name, item in (inputs or {}).items()
    }
    return NodeCall(
        prompt_id="p", node_id=fields.pop("node_id", "1"), class_type=class_type, inputs=given, **fields
    )


def value(item: Any) -> Value:
    """A constant, unless it is a value already."""
    return item if isinstance(item, Value) else Value(item)


def tensor_of(made: Value, store: TensorStore) -> np.ndarray:
    """The bytes of a tensor value as the array they stand for."""
    ((_, ref),) = made.tree.items()
    if ref["file"] is None:
        return np.empty(ref["shape"], ref["dtype"])
    data = (store._places.store / ref["file"]).read_bytes()
    return np.frombuffer(data, ref["dtype"]).reshape(ref["shape"])


def ignore(_: Any) -> None:
    """A progress sink."""


@dataclass
class World:
    """Everything a test of sandboxes needs, running."""

    places: Places
    store: TensorStore
    manager: SandboxManager
    launcher: Any
    shelf: Shelf
    policies: Policies
    events: list[tuple[TenantId, ExtensionName, PackEvent]]

    async def session(self, extension: str, tenant: TenantId = TENANT) -> Session:
        """Acquire one."""
        return await self.manager.acquire(tenant, ExtensionName(extension))

    async def run(self, extension: str, class_type: str, **inputs: Any) -> NodeResult:
        """One call of one node."""
        session = await self.session(extension)
        with anyio.fail_after(60):
            return await session.execute(call(class_type, inputs), ignore)

    async def report(self) -> str:
        """States and logs of every sandbox, for a failed test."""
        lines = [await anyio.to_thread.run_sync(containers, self.places.instance)]
        for info in self.manager.list():
            lines.append(repr(info))
            lines += [
                f"  {line.stream}: {line.text}" for line in await self.manager.logs(info.tenant, info.id)
            ]
            lines.append(await self.launcher.logs(info.id))
        return "\n".join(lines)


MakeLauncher = Callable[[Places, Policies], Any]


@asynccontextmanager
async def world(
    directory: Path,
    make_launcher: MakeLauncher,
    *,
    policies: Mapping[str, str] | None = None,
    limits: ManagerLimits | None = None,
    store_limits: StoreLimits | None = None,
    states: NodeStates | None = None,
    egress: Callable[[Places], EgressOffice] | None = None,
) -> AsyncIterator[World]:
    """A manager over a launcher of the test's choice; everything is gone afterwards."""
    ours = places(directory / "data")
    written = Policies(directory / "policies")
    for extension, text in (policies or {}).items():
        written.write(extension, text)
    shelf = Shelf(ours)
    events: list[tuple[TenantId, ExtensionName, PackEvent]] = []
    launcher = make_launcher(ours, written)
    async with launcher, TensorStore(ours, store_limits) as store:
        manager = SandboxManager(
            launcher=launcher,
            policies=written.store,
            extensions=shelf,
            store=store,
            places=ours,
            events=lambda *event: events.append(event),
            limits=limits,
            states=states,
            egress=egress(ours) if egress else None,
        )
        async with manager:
            made = World(ours, store, manager, launcher, shelf, written, events)
            try:
                yield made
            except BaseException:
                print(await made.report())
                raise
    assert not ours.shm.exists()
    assert not ours.run.exists()
    assert not ours.launcher_socket.exists()


#: What makes a policy one of gVisor. Its own threads count against the cap, so it is higher than the default.
GVISOR = "isolation: gvisor\n"


#: Until the image is built anew, containers run the checkout's own runtime.
RUNTIME = TestOverride(runtime_source=CHECKOUT / "runtime")


def in_docker(ours: Places, written: Policies) -> LauncherZone:
    """Real containers, asked for over the launcher's socket."""
    core = ours.tenant(TENANT) / "extensions" / CORE_EXTENSION / "source"
    settings = LaunchSettings(image=IMAGE, trusted_sources=(core,))
    return LauncherZone(ours, written.store, settings, override=RUNTIME)

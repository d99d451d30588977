"""Sandboxes and environments that are none, for tests of the registry."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from engine.extension_ports import Progress
from policies import EffectivePolicy, ExtensionName, SandboxId, TenantId, Where
from sandbox import Inventory, KeptLock
from sandbox.calls import LoadedExtension, NodeDescription
from sandbox.environment_errors import EnvironmentChangedError
from sandbox.errors import LoadFailedError
from sandbox.extension_source import ExtensionFiles, ExtensionSource
from sandbox.inventory import Package
from sandbox.launcher.build_verb import NodeImage


def described(class_type: str, text: str = "", **info: object) -> NodeDescription:
    return NodeDescription(
        class_type=class_type,
        info={"name": class_type, "description": text, **info},
        api="v1",
        hidden={},
        any_inputs=frozenset(),
        any_outputs=frozenset({0}),
        accepts_any_name=False,
        raw_link=frozenset(),
        lazy=frozenset(),
        output_node=False,
        not_idempotent=False,
        is_async=False,
        has_lazy=False,
        has_fingerprint=False,
        validator=None,
        dynamic=False,
        enable_expand=False,
    )


def loaded(*class_types: str, **changes: object) -> LoadedExtension:
    values: dict[str, object] = {
        "api": "v1",
        "nodes": tuple(described(name) for name in class_types),
        "skipped": {},
        "web_directory": None,
        "routes": (),
        "notes": (),
    }
    return LoadedExtension(**{**values, **changes})  # type: ignore[arg-type]


@dataclass
class FakeSession:
    sandbox: SandboxId
    extension: ExtensionName
    loaded: LoadedExtension
    live_text: str = "live"
    asked: list[Sequence[str] | None] = field(default_factory=list)

    before_describe: anyio.Event | None = None
    """Describes only after this."""

    async def describe(self, class_types: Sequence[str] | None = None) -> tuple[NodeDescription, ...]:
        self.asked.append(class_types)
        if self.before_describe is not None:
            await self.before_describe.wait()
        names = [node.class_type for node in self.loaded.nodes]
        return tuple(
            described(name, self.live_text) for name in names if not class_types or name in class_types
        )


@dataclass
class FakeView:
    id: SandboxId
    tenant: TenantId
    extensions: tuple[ExtensionName, ...]
    files: ExtensionFiles
    at_rest: int | None = 0


class FakeSandboxes:
    """Starts nothing: "loads" a pack by reading the first line of its __init__.py, ``# nodes: A B``."""

    def __init__(self) -> None:
        self.source: ExtensionSource
        self.views: dict[SandboxId, FakeView] = {}
        self.sessions: dict[SandboxId, FakeSession] = {}
        self.started: list[str] = []
        self.stopped: list[SandboxId] = []
        self.on_start: Callable[[str], None] = lambda _name: None
        self.gates: dict[str, anyio.Event] = {}
        """Extensions that start only after their event."""
        self.more: dict[str, str] = {}
        """A node that an extension has besides those of its first line."""
        self.serves: dict[str, dict[str, object]] = {}
        """What else an extension registers, by the fields of ``LoadedExtension``."""
        self.waiting: list[str] = []
        """Who came to a gate, in order."""

    async def acquire(self, tenant: TenantId, extension: ExtensionName) -> FakeSession:
        files = await self.source.files(tenant, extension)
        for view in self.views.values():
            same = (view.tenant, view.files) == (tenant, files)
            if same and extension in view.extensions:
                return self.sessions[view.id]
        if extension in self.gates:
            self.waiting.append(extension)
            await self.gates[extension].wait()
        self.on_start(extension)
        first, *_ = (files.source / "__init__.py").read_text().splitlines() or [""]
        if first.startswith("raise"):
            raise LoadFailedError(f"extension '{extension}' could not be imported: {first}")
        sandbox = SandboxId(f"{extension}-{len(self.started)}".lower())
        self.started.append(extension)
        names = first.removeprefix("# nodes:").split() if first.startswith("# nodes:") else []
        names += [self.more[extension]] if extension in self.more else []
        self.views[sandbox] = FakeView(sandbox, tenant, (extension,), files)
        self.sessions[sandbox] = FakeSession(
            sandbox, extension, loaded(*names, **self.serves.get(extension, {}))
        )
        return self.sessions[sandbox]

    def list(self, tenant: TenantId | None = None) -> list[FakeView]:
        return [view for view in self.views.values() if tenant in (None, view.tenant)]

    def holding(self, tenant: TenantId, extension: ExtensionName) -> tuple[SandboxId, ...]:
        return tuple(view.id for view in self.list(tenant) if extension in view.extensions)

    async def stop(self, tenant: TenantId, sandbox: SandboxId, why: str = "") -> bool:
        self.stopped.append(sandbox)
        return self.views.pop(sandbox, None) is not None

    def quarantined_for(self, tenant: TenantId, extension: ExtensionName) -> float:
        return 0.0


@dataclass
class FakeImage:
    id: str = "sha256:one"


@dataclass
class FakeEnvironment:
    key: str | None = None
    site: Path | None = None
    image: str = "sha256:one"
    asks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    lock: KeptLock | None = None


class FakeEnvironments:
    """Has an environment for every pack with a requirements.txt, named by its text."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.current = FakeImage()
        self.discarded: list[str] = []
        self.group_places: tuple[str, ...] = ()
        self.groups: list[tuple[str, tuple[ExtensionName, ...]]] = []
        self.fails: Exception | None = None
        self.kept: list[KeptLock | None] = []
        """What was handed in, build by build."""
        self.changed: set[str] = set()
        """Keys of environments that are not as they were built."""

    async def image(self) -> FakeImage:
        return self.current

    async def ensure(
        self,
        tenant: TenantId,
        pack: Path,
        policy: EffectivePolicy,
        progress: Progress,
        *,
        extension: ExtensionName | None = None,
        kept: KeptLock | None = None,
        upgrade: bool = False,
    ) -> FakeEnvironment:
        self.kept.append(None if upgrade else kept)
        if self.fails is not None:
            raise self.fails
        file = pack / "requirements.txt"
        if not file.exists():
            return FakeEnvironment(image=self.current.id)
        key = f"{file.read_text().strip()}-{self.current.id[7:]}"
        (self.root / key).mkdir(parents=True, exist_ok=True)
        progress(f"built {key}")
        lock = KeptLock(plan=hashlib.sha256(key.encode()).hexdigest(), text=f"{key}=={len(self.kept)}\n")
        if kept is not None and kept.plan == lock.plan and not upgrade:
            lock = kept
        return FakeEnvironment(
            key, self.root / key, self.current.id, ("asks for the moon",), ("a note",), lock
        )

    async def ensure_group(
        self,
        tenant: TenantId,
        group: str,
        members: Mapping[ExtensionName, Path],
        policy: EffectivePolicy,
        progress: Progress,
        *,
        where: Where,
    ) -> FakeEnvironment:
        self.groups.append((group, tuple(members)))
        self.group_places = tuple(where(name, tenant) for name in members)
        if self.fails is not None:
            raise self.fails
        files = [pack / "requirements.txt" for pack in members.values()]
        key = "+".join(file.read_text().strip() for file in files if file.exists())
        (self.root / key).mkdir(parents=True, exist_ok=True)
        return FakeEnvironment(key, self.root / key, self.current.id)

    def site(self, key: str) -> Path | None:
        return self.root / key if (self.root / key).is_dir() else None

    async def hint_for_module(self, module: str) -> str:
        return f"do something about {module}"

    async def discard(self, key: str) -> None:
        self.discarded.append(key)

    async def verify(self, key: str) -> None:
        if key in self.changed:
            raise EnvironmentChangedError(f"environment {key} is not as it was built")

    async def inventory(self, key: str | None) -> Inventory:
        image = NodeImage(self.current.id, "cpu", "3.11.2", "x86_64", {"numpy": "2.4.6"})
        mine = [Package("victim", "1.0", "environment", (f"sha256:{'a' * 64}",), "MIT")] if key else []
        return Inventory(key, image, (*mine, Package("numpy", "2.4.6", "image")))

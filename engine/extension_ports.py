"""What extensions need of the sandbox room: environments for their packages, and sandboxes to run in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

from policies import EffectivePolicy, ExtensionName, SandboxId, TenantId, Where
from sandbox import Inventory, KeptLock
from sandbox.calls import Session

Progress: TypeAlias = Callable[[str], None]
"""Hears a line of what is done just now."""


class BuiltEnvironment(Protocol):
    """What is needed to know of an environment (``sandbox.environments.Environment``)."""

    @property
    def key(self) -> str | None: ...
    @property
    def site(self) -> Path | None: ...
    @property
    def image(self) -> str: ...
    @property
    def asks(self) -> tuple[str, ...]: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    @property
    def lock(self) -> KeptLock | None: ...


class HasId(Protocol):
    """An image."""

    @property
    def id(self) -> str: ...


class EnvironmentKeeper(Protocol):
    """The part of ``sandbox.environments.Environments`` that is used here."""

    async def image(self) -> HasId: ...
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
    ) -> BuiltEnvironment: ...
    async def ensure_group(
        self,
        tenant: TenantId,
        group: str,
        members: Mapping[ExtensionName, Path],
        policy: EffectivePolicy,
        progress: Progress,
        *,
        where: Where,
    ) -> BuiltEnvironment: ...
    def site(self, key: str) -> Path | None: ...
    async def discard(self, key: str) -> None: ...
    async def verify(self, key: str) -> None: ...
    async def inventory(self, key: str | None) -> Inventory: ...
    async def hint_for_module(self, module: str) -> str: ...


class SandboxView(Protocol):
    """What is needed to know of a sandbox."""

    @property
    def id(self) -> SandboxId: ...
    @property
    def extensions(self) -> Sequence[ExtensionName]: ...
    @property
    def at_rest(self) -> int | None: ...


class Sandboxes(Protocol):
    """The part of ``SandboxManager`` that is used here."""

    async def acquire(self, tenant: TenantId, extension: ExtensionName) -> Session: ...
    def list(self, tenant: TenantId | None = None) -> Sequence[SandboxView]: ...
    def holding(self, tenant: TenantId, extension: ExtensionName) -> tuple[SandboxId, ...]: ...
    async def stop(self, tenant: TenantId, sandbox: SandboxId, why: str = ...) -> bool: ...
    def quarantined_for(self, tenant: TenantId, extension: ExtensionName) -> float: ...

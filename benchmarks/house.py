"""The real sandbox room, wired for a measurement: launcher, store and manager, no engine and no API above them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from policies import ExtensionName, PolicyStore, TenantId
from sandbox import (
    ExtensionFiles,
    Places,
    SandboxManager,
    Session,
    StoreLimits,
    TensorStore,
)
from sandbox.launcher.docker import DockerLauncher
from sandbox.launcher.settings import LaunchSettings

PACK = Path(__file__).resolve().parent / "pack"
TENANT = TenantId("local")
IMAGE = os.environ.get("RINGFENCE_NODE_IMAGE", "ringfence-node:cpu")


class OnePack:
    """Every extension name stands for the same benchmark pack, so two names are two sandboxes."""

    async def members(self, tenant: TenantId, group: str) -> tuple[ExtensionName, ...]:
        return ()

    async def files(self, tenant: TenantId, extension: ExtensionName) -> ExtensionFiles:
        return ExtensionFiles(
            name=extension, source=PACK, environment=None, content_hash="0" * 64, core=False
        )


@dataclass(frozen=True, slots=True)
class House:
    """What a benchmark needs."""

    launcher: DockerLauncher
    manager: SandboxManager
    store: TensorStore

    async def session(self, name: str) -> Session:
        return await self.manager.acquire(TENANT, ExtensionName(name))


def _policies(folder: Path, isolation: str) -> PolicyStore:
    """The shipped policies, with another isolation by default."""
    shipped, ours = PACK.parents[1] / "policies", folder / f"policies-{isolation}"
    ours.mkdir(exist_ok=True)
    text = (shipped / "default.yaml").read_text("utf-8")
    (ours / "default.yaml").write_text(text.replace("isolation: runc ", f"isolation: {isolation} "), "utf-8")
    store = PolicyStore(ours)
    assert store.effective(ExtensionName("bench")).isolation == isolation
    return store


@asynccontextmanager
async def house(
    folder: Path, *, isolation: str = "runc", may_adopt: bool = True, limits: StoreLimits | None = None
) -> AsyncIterator[House]:
    """Everything real; gone again at the end."""
    places = Places("bench", folder)
    policies = _policies(folder, isolation)
    async with (
        TensorStore(places, limits, may_adopt=may_adopt) as store,
        DockerLauncher(places, policies, LaunchSettings(image=IMAGE, trusted_sources=(PACK,))) as launcher,
        SandboxManager(
            launcher=launcher, policies=policies, extensions=OnePack(), store=store, places=places
        ) as manager,
    ):
        yield House(launcher, manager, store)

"""The real sandbox room, wired for a measurement: launcher, store and manager, no engine and no API above them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.policy_files import changed, isolated_by
from policies import ExtensionName, PolicyStore, TenantId
from sandbox import (
    ExtensionFiles,
    ManagerLimits,
    Places,
    SandboxManager,
    Session,
    TensorStore,
)
from sandbox.launcher.docker import DockerLauncher
from sandbox.launcher.settings import LaunchSettings

ROOT = Path(__file__).resolve().parents[1]
PACK = ROOT / "benchmarks" / "pack"
TENANT = TenantId("local")
IMAGE = os.environ.get("RINGFENCE_NODE_IMAGE", "ringfence-node:cpu")


class OnePack:
    """Every extension name stands for the same benchmark pack, so two names are two sandboxes."""

    def __init__(self, source: Path = PACK) -> None:
        self._source = source

    async def group_files(
        self, tenant: TenantId, group: str, extension: ExtensionName
    ) -> tuple[ExtensionFiles, ...]:
        return (await self.files(tenant, extension),)

    async def files(self, tenant: TenantId, extension: ExtensionName) -> ExtensionFiles:
        return ExtensionFiles(
            name=extension, source=self._source, environment=None, content_hash="0" * 64, core=False
        )


@dataclass(frozen=True, slots=True)
class House:
    """What a benchmark needs."""

    launcher: DockerLauncher
    manager: SandboxManager
    store: TensorStore

    async def session(self, name: str) -> Session:
        return await self.manager.acquire(TENANT, ExtensionName(name))


def _policies(folder: Path, isolation: str, *, models: bool) -> PolicyStore:
    """The shipped policies, with another isolation by default; ``models``: and the tenant's files of weights."""
    changes = isolated_by(isolation)
    # Starting a hundred of gVisor's takes longer than a sandbox may be idle.
    changes[r"^    idle: 300s"] = "    idle: 2h"
    # A tensor of 1 GiB and its output count against the memory of who makes it.
    changes[r"^  memory: 2GiB"] = "  memory: 4GiB"
    if models:
        changes[r"^  paths:$"] = "  paths:\n    - {tenant: models, access: ro}"
    store = PolicyStore(changed(folder / f"policies-{isolation}", changes))
    policy = store.effective(ExtensionName("bench"))
    assert (policy.isolation, policy.memory, policy.timeouts.idle_s) == (isolation, 4 << 30, 7200)
    return store


@asynccontextmanager
async def house(
    folder: Path,
    *,
    isolation: str = "runc",
    limits: ManagerLimits | None = None,
    pack: Path = PACK,
    models: bool = False,
) -> AsyncIterator[House]:
    """Everything real; gone again at the end."""
    places = Places(f"bench-{os.getpid()}", folder)
    places.launcher_data.mkdir(parents=True, exist_ok=True)
    policies = _policies(folder, isolation, models=models)
    async with (
        TensorStore(places) as store,
        DockerLauncher(places, policies, LaunchSettings(image=IMAGE, trusted_sources=(pack,))) as launcher,
        SandboxManager(
            launcher=launcher,
            policies=policies,
            extensions=OnePack(pack),
            store=store,
            places=places,
            limits=limits,
        ) as manager,
    ):
        yield House(launcher, manager, store)

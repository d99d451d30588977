"""Node types, sandboxes and their sessions in one, and an engine over them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any, cast

import anyio

from engine.cache import CacheMode
from engine.dispatcher import EngineLimits
from engine.engine import Engine
from engine.memory_storage import MemoryStorage
from engine.quotas import QuotaBook
from engine.registry import NodeType
from engine.storage import Storage
from engine.testing.fake_nodes import JSON, FakeNode
from engine.testing.fake_session import FakeSession
from engine.testing.fake_store import FakeStore
from policies import ExtensionName, SandboxId, TenantId, Where, usual_place
from sandbox.calls import Session


class FakeSessions:
    """Node types, sandboxes and their sessions of one installation, the same for every tenant."""

    def __init__(self, *nodes: FakeNode, store: FakeStore | None = None) -> None:
        self.store = store or FakeStore()
        self.nodes = {node.class_type: node for node in nodes}
        self.calls: list[str] = []  # node ids in the order in which they were executed
        self.sent: list[str] = []  # nodes whose calls were sent while the node before ran
        self.given_up: list[str] = []  # those of them that were not wanted
        self.depths: dict[str, int] = {}  # of each executed node: how many expansions it lies in
        self.asked: Counter[str] = Counter()  # validate, fingerprint, lazy, refresh
        self._live: dict[tuple[TenantId, str], FakeSession] = {}
        self._count = 0

    async def node_types(self, tenant: TenantId) -> Mapping[str, NodeType]:  # noqa: ARG002
        return {name: node.describe() for name, node in self.nodes.items()}

    async def refresh(self, tenant: TenantId, class_types: Collection[str] | None) -> Mapping[str, NodeType]:  # noqa: ARG002
        self.asked["refresh"] += 1
        return await self.node_types(tenant)

    def is_current(self, tenant: TenantId, class_types: Collection[str]) -> bool:  # noqa: ARG002
        return True

    async def make_current(self, tenant: TenantId, class_types: Collection[str]) -> None:
        """Nothing of it changes."""

    async def acquire(self, tenant: TenantId, extension: ExtensionName) -> Session:
        group = next((node.group for node in self.nodes.values() if node.extension == extension), None)
        key = (tenant, group or extension)
        session = self._live.get(key)
        if session is None:
            self._count += 1
            session = self._live[key] = FakeSession(self, SandboxId(f"sandbox-{self._count}"), extension)
        return session

    def replace(self) -> None:
        """From now on others are acquired, as after a change of code or policies."""
        self._live.clear()

    def is_alive(self, sandbox: SandboxId) -> bool:
        return any(session.sandbox == sandbox for session in self._live.values())

    def kill(self, extension: str) -> None:
        """End the sandboxes of an extension, as a memory cap would."""
        for key in [key for key in self._live if key[1] == extension]:
            self._live.pop(key).is_alive = False

    def engine(
        self,
        *,
        storage: Storage | None = None,
        cache_mode: CacheMode | None = None,
        limits: EngineLimits | None = None,
        now_ms: Callable[[], int] = lambda: 0,
        quotas: QuotaBook | None = None,
        where: Where = usual_place,
    ) -> Engine:
        """An engine over these sandboxes."""
        return Engine(
            manager=cast("Any", self),
            store=self.store,
            extensions=cast("Any", self),
            storage=storage or MemoryStorage(),
            cache_mode=cache_mode,
            limits=limits,
            now_ms=now_ms,
            quotas=quotas,
            where=where,
        )


async def until_ended(engine: Engine, tenant: TenantId, prompt_id: str, *, timeout_s: float = 60.0) -> JSON:
    """Wait for a prompt's history entry; for tests that do not read events."""
    with anyio.fail_after(timeout_s):
        async with engine.subscribe(tenant) as events:
            entry = await engine.history_entry(tenant, prompt_id)
            while entry is None:
                if await anext(events, None) is None:
                    await anyio.sleep(
                        0.02
                    )  # dropped, for it lags behind a long prompt: ask again now and then
                entry = await engine.history_entry(tenant, prompt_id)
            return entry

"""A small studio for state machines: the real engine, registry, quotas and database, with nodes that wait to be let go.

A life ends as a host does that is stopped, or killed; the next one begins from the database alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio

from engine import (
    Database,
    EngineLimits,
    PromptRequest,
    QueueFullError,
    QuotaBook,
    SqlStorage,
    TenantRegistry,
    remove_tenant,
)
from engine.events import PromptEnded, PromptStarted
from engine.testing import FakeNode
from policies import PolicyStore, TenantId
from tests.unit.engine.scene import Stage, prompt

CONCURRENCY, RESERVE = 2, 2
QUEUED = 3
#: Prompts at once, by tenant; the third's is the installation's.
PROMPTS = {"ta": 1, "tb": 2}
WEIGHTS = {"ta": 1, "tb": 2, "tc": 1}
NAMES = tuple(TenantId(name) for name in WEIGHTS)


def write_quotas(directory: Path) -> PolicyStore:
    directory.mkdir(parents=True, exist_ok=True)
    lines = ["quotas:", f"  queued: {QUEUED}", "tenants:"]
    for name, weight in WEIGHTS.items():
        lines += [f"  {name}:", "    quotas:", f"      weight: {weight}"]
        lines += [f"      prompts: {PROMPTS[name]}"] if name in PROMPTS else []
    (directory / "default.yaml").write_text("\n".join(lines) + "\n")
    return PolicyStore(directory)


class Life:
    """One run of a host."""

    def __init__(self, database: Database, stage: Stage, tenants: TenantRegistry, book: Book) -> None:
        self._database, self.stage, self.tenants, self._book = database, stage, tenants, book
        self.engine = stage.engine

    async def submit(self, tenant: TenantId, name: str) -> str | None:
        """The prompt's id, or None when the queue is full."""
        graph = prompt(g=("Wait", {"name": name}), s=("Show", {"x": ["g", 0]}))
        try:
            submitted = await self.engine.submit(tenant, PromptRequest(prompt=graph))
        except QueueFullError:
            return None
        return submitted.prompt_id

    async def remove(self, tenant: TenantId) -> None:
        none = SimpleNamespace(list=_nothing)
        without = SimpleNamespace(list=lambda _tenant: [], forget=lambda _tenant: None)
        engine: Any = SimpleNamespace(
            clear_pending=self.engine.clear_pending, subscribe=self.engine.subscribe, queue=self.engine.queue,
            cancel=self.engine.cancel, free=self.engine.free, extensions=none, sandboxes=without,
        )  # fmt: skip
        removal = await remove_tenant(engine, self._database, self.tenants, (), tenant)
        assert removal.problems == ()

    async def seen(self, tenant: TenantId) -> tuple[list[str], list[str], list[str]]:
        """Ids that run, wait and have ended, as a tenant is told of them."""
        queue = await self.engine.queue(tenant)
        running = {item.prompt_id for item in queue.running}
        pending = [item.prompt_id for item in queue.pending if item.prompt_id not in running]
        return sorted(running), pending, list(await self.engine.history(tenant))

    async def settled(self, live: list[TenantId]) -> None:
        """Wait until the dispatcher has nothing that it could start, and every end is told."""
        with anyio.fail_after(60):
            while not await self._is_settled(live):
                await self._book.changed.wait()
                self._book.changed = anyio.Event()

    async def _is_settled(self, live: list[TenantId]) -> bool:
        self._book.changed = anyio.Event()
        seen = {tenant: await self.seen(tenant) for tenant in live}
        total = sum(len(running) for running, _, _ in seen.values())
        for tenant, (running, pending, _) in seen.items():
            if set(running) != self._book.inside(tenant):
                return False
            most = min(PROMPTS.get(tenant, CONCURRENCY), CONCURRENCY)
            has_room = total < CONCURRENCY or (not running and total < CONCURRENCY + RESERVE)
            if pending and len(running) < most and has_room:
                return False
        return True


class Book:
    """What nodes and events said, over all lives."""

    def __init__(self) -> None:
        self.changed = anyio.Event()
        self.gates: dict[str, anyio.Event] = {}
        self.waiting: set[str] = set()
        """Names of prompts whose node is at its gate."""
        self.prompt_of: dict[str, tuple[TenantId, str]] = {}
        self.starts: list[tuple[TenantId, str]] = []
        self.ends: Counter[tuple[TenantId, str]] = Counter()
        self.strays: list[Any] = []

    def inside(self, tenant: TenantId) -> set[str]:
        return {self.prompt_of[name][1] for name in self.waiting if self.prompt_of[name][0] == tenant}

    async def wait(self, name: str) -> tuple[str]:
        """The node's own work."""
        self.waiting.add(name)
        self.changed.set()
        try:
            await self.gates.setdefault(name, anyio.Event()).wait()
        finally:
            self.waiting.discard(name)
        return (name,)

    async def hear(self, life: Life, tenant: TenantId, ready: anyio.Event) -> None:
        """Take down what one tenant is told."""
        async with life.engine.subscribe(tenant) as events:
            ready.set()
            async for event in events:
                if event.tenant != tenant:
                    self.strays.append(event)
                if isinstance(event, PromptStarted):
                    self.starts.append((tenant, event.prompt_id))
                if isinstance(event, PromptEnded):
                    self.ends[tenant, event.prompt_id] += 1
                self.changed.set()


@asynccontextmanager
async def life(directory: Path, book: Book) -> AsyncIterator[Life]:
    """One run, from what lies on the disk."""
    policies = write_quotas(directory / "policies")
    async with Database(f"sqlite+aiosqlite:///{directory}/ringfence.db") as database:
        node = FakeNode("Wait", book.wait, {"name": ["STRING", {}]}, not_idempotent=True)
        limits = EngineLimits(concurrency=CONCURRENCY, reserve=RESERVE)
        quotas = QuotaBook(policies, directory)
        async with Stage(node, storage=SqlStorage(database), limits=limits, quotas=quotas) as stage:
            made = Life(database, stage, TenantRegistry(database), book)
            async with anyio.create_task_group() as ears:
                for tenant in NAMES:
                    ready = anyio.Event()
                    ears.start_soon(book.hear, made, tenant, ready)
                    await ready.wait()
                yield made
                ears.cancel_scope.cancel()


async def _nothing(_tenant: TenantId) -> list[Any]:
    return []

"""Where running jobs are: the engine's events of a tenant, summed up per prompt, for whoever looks between two events.

One task per tenant that ever used the Comfy API v2; what it keeps of a prompt goes when the prompt ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.abc

from engine import Engine
from engine.events import (
    Event,
    NodeExecuted,
    NodeProgress,
    NodesCached,
    ProgressChanged,
    PromptEnded,
    PromptEvent,
    PromptStarted,
)
from policies import TenantId

_PROMPTS = 1024  # of one tenant; more than run at a time


@dataclass(slots=True)
class Live:
    """A running prompt."""

    started_ms: int | None = None
    cached: frozenset[str] = frozenset()
    nodes: Mapping[str, NodeProgress] = field(default_factory=dict)
    changed: str | None = None
    preview: tuple[str, str, bytes] | None = None  # node id, format, image
    outputs: dict[str, Any] = field(default_factory=dict)
    canceling: bool = False

    def hear(self, event: PromptEvent) -> None:
        """Take in what happened."""
        match event:
            case PromptStarted():
                self.started_ms = event.timestamp
            case NodesCached():
                self.cached = frozenset(event.nodes)
            case ProgressChanged():
                self.nodes, self.changed = event.nodes, event.changed
                if event.preview is not None:
                    node = event.nodes[event.changed]
                    self.preview = (node.node_id, *event.preview)
            case NodeExecuted(output=output) if output is not None:
                self.outputs[event.node_id] = output
            case _:
                pass


class Board:
    """The running prompts of tenants that asked. Enter with ``async with``."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._live: dict[TenantId, dict[str, Live]] = {}
        self._tasks: anyio.abc.TaskGroup = anyio.create_task_group()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tasks.cancel_scope.cancel()
        await self._tasks.__aexit__(kind, value, trace)

    async def watch(self, tenant: TenantId) -> None:
        """Hear the tenant's events from now on."""
        if tenant not in self._live:
            self._live[tenant] = {}
            await self._tasks.start(self._follow, tenant)

    def of(self, tenant: TenantId, prompt_id: str) -> Live | None:
        """What is known of a running prompt."""
        return self._live.get(tenant, {}).get(prompt_id)

    def all_of(self, tenant: TenantId) -> dict[str, Live]:
        """What is known of each running prompt at this moment, by id."""
        return dict(self._live.get(tenant, {}))

    def canceling(self, tenant: TenantId, prompt_id: str) -> None:
        """A running prompt was told to stop."""
        self._prompt(tenant, prompt_id).canceling = True

    async def _follow(self, tenant: TenantId, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        is_first = True
        while True:
            async with self._engine.subscribe(tenant) as events:
                if is_first:
                    task_status.started()
                    is_first = False
                async for event in events:
                    self._hear(tenant, event)
                if not events.is_dropped:
                    return  # the engine is going
            self._live[tenant].clear()  # behind by thousands of events: what was known may be wrong

    def _hear(self, tenant: TenantId, event: Event) -> None:
        if isinstance(event, PromptEnded):
            self._live[tenant].pop(event.prompt_id, None)
        elif isinstance(event, PromptEvent):
            self._prompt(tenant, event.prompt_id).hear(event)

    def _prompt(self, tenant: TenantId, prompt_id: str) -> Live:
        prompts = self._live.setdefault(tenant, {})
        known = prompts.get(prompt_id)
        if known is None:
            while len(prompts) >= _PROMPTS:
                prompts.pop(next(iter(prompts)))
            known = prompts[prompt_id] = Live()
        return known

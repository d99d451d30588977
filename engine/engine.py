"""``Engine``: the front of this room, and nothing but that: takes prompts, shows queue and history, passes wishes on.

Whose turn it is and the life of a prompt: ``dispatcher.py``. What a run does: ``executor.py``. What survives a restart:
``Storage``.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from engine import replacements
from engine.cache import CacheMode
from engine.dispatcher import Dispatcher, EngineLimits
from engine.errors import EngineClosedError, QueueFullError
from engine.events import PackMessage
from engine.live_types import LiveTypes
from engine.node_calls import Workbench
from engine.prompt import PromptRequest, Submitted, split_secrets
from engine.prompt_hooks import pass_through
from engine.quotas import QuotaBook
from engine.registry import NodeType, object_info
from engine.storage import NewPrompt, QueuedPrompt, Storage
from engine.streams import EventHub, EventStream, Witnesses
from engine.validators import validate
from engine.values import Ledger, ValueStore
from policies import ExtensionName, TenantId, Where, usual_place
from sandbox.calls import HttpRequest, HttpResponse, PackEvent, PackSocket, SocketRequest

if TYPE_CHECKING:  # tests build engines without these
    from engine.extensions import ExtensionRegistry
    from sandbox import SandboxManager

JSON = Any

_log = logging.getLogger(__name__)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class QueueItem:
    """A prompt in the queue as its tenant may see it."""

    number: float
    prompt_id: str
    prompt: Mapping[str, JSON]
    extra_data: Mapping[str, JSON]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class QueueSnapshot:
    """A tenant's queue at one moment."""

    running: tuple[QueueItem, ...]
    pending: tuple[QueueItem, ...]

    @property
    def remaining(self) -> int:
        """Pending plus running."""
        return len(self.running) + len(self.pending)


@dataclass(frozen=True, slots=True)
class Counts:
    """A tenant's prompts in figures."""

    running: int
    pending: int
    history_entries: int
    history_bytes: int


class Engine:
    """Runs prompts of all tenants. Enter with ``async with``; leaving stops all runs, which start over next time."""

    def __init__(
        self,
        *,
        manager: SandboxManager,
        store: ValueStore,
        extensions: ExtensionRegistry,
        storage: Storage,
        cache_mode: CacheMode | None = None,
        limits: EngineLimits | None = None,
        quotas: QuotaBook | None = None,
        now_ms: Callable[[], int] = _now_ms,
        witnesses: Witnesses | None = None,
        where: Where = usual_place,
    ) -> None:
        """``where`` says in which file an extension's policy is written, for errors."""
        self.extensions = extensions
        self.sandboxes = manager
        self._store = store
        self._storage = storage
        self._limits = limits or EngineLimits()
        self._now_ms = now_ms
        self._hub = EventHub(witnesses=witnesses)
        self._live = LiveTypes(where)
        bench = Workbench(
            manager,
            store,
            Ledger(store, where),
            self._hub.publish,
            now_ms,
            self._limits.prompt.expansion_nodes,
            live=self._live,
        )
        self._quotas = quotas or QuotaBook()
        self._dispatcher = Dispatcher(
            bench, extensions, storage, cache_mode or CacheMode(), self._limits, self._quotas
        )
        store.on_pressure = self._dispatcher.give_way
        self._is_open = False

    async def __aenter__(self) -> Self:
        await self._dispatcher.__aenter__()
        self._is_open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_open = False
        self._hub.close()
        await self._dispatcher.__aexit__(kind, value, trace)

    # -- prompts -----------------------------------------------------------------------------------------------------

    async def submit(self, tenant: TenantId, request: PromptRequest) -> Submitted:
        """Validate and queue a prompt; when this returns, the prompt survives a crash.

        Raises:
            PromptInvalidError, QueueFullError, DuplicatePromptError, EngineClosedError, QuotaExceededError
        """
        if not self._is_open:
            raise EngineClosedError
        quotas = await self._quotas.check_prompt(tenant)
        pending = min(self._limits.pending, quotas.queued or self._limits.pending)
        if await self._storage.pending_count(tenant) >= pending:
            # Before it is validated, which costs more than this: a flood is turned away cheaply.
            self._quotas.note_refusal(tenant, "queued")
            raise QueueFullError(pending, source=quotas.source("queued"))
        limits = self._limits.prompt
        valid = await validate(
            tenant, request, self.extensions, self.sandboxes, self._store, limits, self._live
        )
        shown, secrets = split_secrets(request.extra_data)
        if request.client_id is not None:
            shown["client_id"] = request.client_id
        shown["create_time"] = self._now_ms()
        row = await self._storage.enqueue(
            NewPrompt(
                tenant,
                request.prompt_id or str(uuid.uuid4()),
                valid.prompt,
                shown,
                valid.report.outputs,
                request.number,
                request.front,
                secrets,
            ),
            limit=pending,
        )
        await self._dispatcher.queue_changed(tenant)
        self._dispatcher.wake()
        return Submitted(row.prompt_id, row.number, valid.report.node_errors)

    async def queue(self, tenant: TenantId) -> QueueSnapshot:
        """The tenant's pending and running prompts. One that is in neither has ended: its history entry is there."""
        # In the direction in which prompts move: one that is claimed between the two reads is seen in the second.
        pending = await self._storage.pending(tenant)
        running = await self._storage.running(tenant)
        claimed = {row.prompt_id for row in running}
        waiting = [row for row in pending if row.prompt_id not in claimed]
        return QueueSnapshot(tuple(map(_item, running)), tuple(map(_item, waiting)))

    async def remaining(self, tenant: TenantId) -> int:
        """How many prompts wait or run; reads none of them, for whoever asks once a second."""
        return await self._storage.remaining(tenant)

    async def counts(self, tenant: TenantId) -> Counts:
        """How many prompts wait and run, and how large the history is; reads no prompt."""
        pending = await self._storage.pending_count(tenant)
        entries, nbytes = await self._storage.history_size(tenant)
        return Counts(self._dispatcher.running_count(tenant), pending, entries, nbytes)

    async def delete_pending(self, tenant: TenantId, prompt_ids: Collection[str]) -> int:
        """Remove pending prompts; returns how many there were."""
        return await self._remove(tenant, prompt_ids)

    async def clear_pending(self, tenant: TenantId) -> int:
        """Remove all pending prompts of the tenant."""
        return await self._remove(tenant, None)

    async def _remove(self, tenant: TenantId, prompt_ids: Collection[str] | None) -> int:
        removed = await self._storage.remove(tenant, prompt_ids)
        if removed:
            await self._dispatcher.queue_changed(tenant)
        return len(removed) + self._dispatcher.interrupt_unheard(tenant, prompt_ids)

    async def interrupt(self, tenant: TenantId, prompt_id: str | None = None) -> bool:
        """Signal the tenant's running prompts (or the one named) to stop; False when there is none."""
        return self._dispatcher.interrupt(tenant, prompt_id)

    async def cancel(self, tenant: TenantId, prompt_id: str) -> bool:
        """Remove the prompt if it is pending, interrupt it if it runs; False when it does neither."""
        if await self._remove(tenant, [prompt_id]):
            return True
        if await self.interrupt(tenant, prompt_id):
            return True
        if any(row.prompt_id == prompt_id for row in await self._storage.running(tenant)):
            # Claimed this instant, not registered yet.
            self._dispatcher.interrupt_early(tenant, prompt_id)
            return True
        return False

    # -- history -----------------------------------------------------------------------------------------------------

    async def history(
        self, tenant: TenantId, *, max_items: int | None = None, offset: int | None = None
    ) -> dict[str, JSON]:
        """ComfyUI's history object, oldest first."""
        return await self._storage.history(tenant, max_items=max_items, offset=offset)

    async def history_entry(self, tenant: TenantId, prompt_id: str) -> JSON | None:
        """One entry, or None."""
        return await self._storage.history_entry(tenant, prompt_id)

    async def delete_history(self, tenant: TenantId, prompt_ids: Collection[str]) -> int:
        """Delete entries; unknown ids are ignored."""
        return await self._storage.delete_history(tenant, prompt_ids)

    async def clear_history(self, tenant: TenantId) -> int:
        """Delete all of the tenant's entries."""
        return await self._storage.delete_history(tenant, None)

    # -- what packs serve --------------------------------------------------------------------------------------------

    async def hook_prompt(self, tenant: TenantId, body: JSON) -> JSON:
        """The body of a prompt as the prompt handlers of the tenant's packs leave it."""
        return await pass_through(self.extensions.sites, self.sandboxes, tenant, body)

    @asynccontextmanager
    async def ask_route(
        self, tenant: TenantId, extension: ExtensionName, request: HttpRequest, body: AsyncIterator[bytes]
    ) -> AsyncIterator[HttpResponse]:
        """Ask a route of an extension; its sandbox is started when it does not run.

        Raises:
            SandboxError, NodeRaisedError: see ``Session.http``.
        """
        session = await self.sandboxes.acquire(tenant, extension)
        async with session.http(request, body) as response:
            yield response

    @asynccontextmanager
    async def open_socket(
        self, tenant: TenantId, extension: ExtensionName, request: SocketRequest
    ) -> AsyncIterator[PackSocket]:
        """Open a WebSocket on a route of an extension; its sandbox is started when it does not run.

        Raises:
            SandboxError, NodeRaisedError: see ``Session.socket``.
        """
        session = await self.sandboxes.acquire(tenant, extension)
        async with session.socket(request) as socket:
            yield socket

    # -- nodes, memory, events ---------------------------------------------------------------------------------------

    async def object_info(self, tenant: TenantId, class_type: str | None = None) -> dict[str, JSON]:
        """The node catalogue (or one class of it), with declarations read anew."""
        wanted = None if class_type is None else {class_type}
        return object_info(await self.extensions.refresh(tenant, wanted), class_type)

    async def catalogue(self, tenant: TenantId) -> Mapping[str, NodeType]:
        """All node types with their declarations as they are now; the same object while nothing of it changes."""
        return await self.extensions.refresh(tenant, None)

    async def node_replacements(self, tenant: TenantId) -> dict[str, JSON]:
        """Old node classes and what packs say can take their place."""
        return replacements.shown(await self.extensions.node_types(tenant))

    async def free(self, tenant: TenantId, *, unload_models: bool, free_memory: bool) -> None:
        """Let go of cached results (``free_memory``) and of the node objects in workers (either)."""
        if unload_models or free_memory:
            await self._dispatcher.free(tenant, results=free_memory)

    def subscribe(self, tenant: TenantId) -> EventStream:
        """The tenant's events from ``async with`` on; a reader that falls behind is dropped."""
        return self._hub.subscribe(tenant)

    def running_node(self, tenant: TenantId, client_id: str) -> str | None:
        """Display id of the node that this client's prompt is at, if it runs one."""
        return self._dispatcher.running_node(tenant, client_id)

    def hear_pack(self, tenant: TenantId, extension: ExtensionName, event: PackEvent) -> None:
        """The ``EventSink`` for the sandbox manager: a pack's message goes to its own tenant's clients only."""
        _log.debug("extension %s sends event %s", extension, event.event)
        self._dispatcher.pass_on(PackMessage(tenant, event.sid, event.event, event.data, event.node_id))


def _item(row: QueuedPrompt) -> QueueItem:
    return QueueItem(row.number, row.prompt_id, row.prompt, row.extra_data, row.outputs)

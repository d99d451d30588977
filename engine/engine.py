"""``Engine``: the front of this room. Takes prompts, decides whose turn it is, and lets runs run.

It owns every task: a dispatcher that claims prompts (fair between tenants, first come first within one) and one task
per running prompt. What survives a restart is in ``Storage``; what a run does is ``executor.py``.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import anyio
import anyio.abc
import anyio.to_thread

from engine.cache import CacheMode, Result, ResultCache
from engine.errors import EngineClosedError
from engine.events import Event, PackMessage, PromptEnded, PromptFailed, QueueChanged
from engine.executor import PromptRun, Workbench
from engine.instances import Instances
from engine.prompt import PromptLimits, PromptRequest, Submitted, split_secrets
from engine.registry import NodeType, object_info
from engine.reports import refused_entry
from engine.storage import NewPrompt, QueuedPrompt, Storage
from engine.streams import EventHub, EventStream
from engine.validators import THREAD_NODES, validate
from engine.values import Ledger, ValueStore
from policies import ExtensionName, RingfenceError, TenantId
from sandbox.calls import PackEvent

if TYPE_CHECKING:  # tests build engines without these
    from engine.extensions import ExtensionRegistry
    from sandbox import SandboxManager

JSON = Any

CLEANUP_S: Final = 10.0
RETRY_S: Final = 1.0  # after the storage failed
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
class EngineLimits:
    """What the engine bounds by itself."""

    concurrency: int = 4  # prompts running at the same time
    tenant_concurrency: int | None = None  # of one tenant; None: as many as there may be at all
    pending: int = 1_000  # prompts waiting, of one tenant
    cache_bytes: int = 4 * 1024**3  # in the store, of one tenant
    prompt: PromptLimits = field(default_factory=PromptLimits)


@dataclass(slots=True)
class _Running:
    row: QueuedPrompt
    run: PromptRun | None = None
    is_interrupted: bool = False

    def interrupt(self) -> None:
        self.is_interrupted = True
        if self.run is not None:
            self.run.interrupt()


@dataclass(slots=True)
class _Tenant:
    cache: ResultCache
    instances: Instances = field(default_factory=Instances)
    last_turn: int = 0


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
        now_ms: Callable[[], int] = _now_ms,
    ) -> None:
        self.extensions = extensions
        self.sandboxes = manager
        self._store = store
        self._storage = storage
        self._mode = cache_mode or CacheMode()
        self._limits = limits or EngineLimits()
        self._now_ms = now_ms
        self._hub = EventHub()
        self._ledger = Ledger(store)
        self._bench = Workbench(
            manager, store, self._ledger, self._hub.publish, now_ms, self._limits.prompt.expansion_nodes
        )
        self._tenants: dict[TenantId, _Tenant] = {}
        self._running: dict[tuple[TenantId, str], _Running] = {}
        self._cancelled_early: set[tuple[TenantId, str]] = set()
        self._turns = 0
        self._wake = anyio.Event()
        self._is_open = False
        self._exit = AsyncExitStack()
        self._tasks: anyio.abc.TaskGroup

    async def __aenter__(self) -> Self:
        again = await self._storage.requeue_running()
        if again:
            _log.info("%d prompts were running when the host stopped; they run again", again)
        self._tasks = await self._exit.enter_async_context(anyio.create_task_group())
        self._is_open = True
        self._tasks.start_soon(self._dispatch)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_open = False
        self._hub.close()
        self._tasks.cancel_scope.cancel()
        await self._exit.aclose()
        for tenant in self._tenants.values():
            tenant.cache.clear()

    # -- prompts -----------------------------------------------------------------------------------------------------

    async def submit(self, tenant: TenantId, request: PromptRequest) -> Submitted:
        """Validate and queue a prompt; when this returns, the prompt survives a crash.

        Raises:
            PromptInvalidError, QueueFullError, DuplicatePromptError, EngineClosedError
        """
        if not self._is_open:
            raise EngineClosedError
        limits = self._limits.prompt
        valid = await validate(tenant, request, self.extensions, self.sandboxes, self._store, limits)
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
            limit=self._limits.pending,
        )
        await self._queue_changed(tenant)
        self._wake.set()
        return Submitted(row.prompt_id, row.number, valid.report.node_errors)

    async def queue(self, tenant: TenantId) -> QueueSnapshot:
        """The tenant's pending and running prompts."""
        running = await self._storage.running(tenant)
        pending = await self._storage.pending(tenant)
        return QueueSnapshot(tuple(map(_item, running)), tuple(map(_item, pending)))

    async def delete_pending(self, tenant: TenantId, prompt_ids: Collection[str]) -> int:
        """Remove pending prompts; returns how many there were."""
        return await self._remove(tenant, prompt_ids)

    async def clear_pending(self, tenant: TenantId) -> int:
        """Remove all pending prompts of the tenant."""
        return await self._remove(tenant, None)

    async def _remove(self, tenant: TenantId, prompt_ids: Collection[str] | None) -> int:
        removed = await self._storage.remove(tenant, prompt_ids)
        if removed:
            await self._queue_changed(tenant)
        return len(removed)

    async def interrupt(self, tenant: TenantId, prompt_id: str | None = None) -> bool:
        """Signal the tenant's running prompts (or the one named) to stop; False when there is none."""
        found = [
            running
            for (owner, running_id), running in self._running.items()
            if owner == tenant and prompt_id in (None, running_id)
        ]
        for running in found:
            running.interrupt()
        return bool(found)

    async def cancel(self, tenant: TenantId, prompt_id: str) -> bool:
        """Remove the prompt if it is pending, interrupt it if it runs; False when it does neither."""
        if await self._remove(tenant, [prompt_id]):
            return True
        if await self.interrupt(tenant, prompt_id):
            return True
        if any(row.prompt_id == prompt_id for row in await self._storage.running(tenant)):
            # Claimed this instant, not registered yet.
            if not await self.interrupt(tenant, prompt_id):
                self._cancelled_early.add((tenant, prompt_id))
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

    # -- nodes, memory, events ---------------------------------------------------------------------------------------

    async def object_info(self, tenant: TenantId, class_type: str | None = None) -> dict[str, JSON]:
        """The node catalogue (or one class of it), with declarations read anew."""
        wanted = None if class_type is None else {class_type}
        return object_info(await self.extensions.refresh(tenant, wanted), class_type)

    async def free(self, tenant: TenantId, *, unload_models: bool, free_memory: bool) -> None:
        """Let go of cached results (``free_memory``) and of the node objects in workers (either)."""
        known = self._tenants.get(tenant)
        if known is None or not (unload_models or free_memory):
            return
        if free_memory:
            known.cache.clear()
        for session in known.instances.take_all():
            await _quietly(session.drop_instances, ())
        await self._release_handles()

    def subscribe(self, tenant: TenantId) -> EventStream:
        """The tenant's events from ``async with`` on; a reader that falls behind is dropped."""
        return self._hub.subscribe(tenant)

    def running_node(self, tenant: TenantId, client_id: str) -> str | None:
        """Display id of the node that this client's prompt is at, if it runs one."""
        for (owner, _), running in self._running.items():
            if owner == tenant and running.run is not None and running.run.client_id == client_id:
                return running.run.running_node
        return None

    def hear_pack(self, tenant: TenantId, extension: ExtensionName, event: PackEvent) -> None:
        """The ``EventSink`` for the sandbox manager: a pack's message goes to its own tenant's clients only."""
        _log.debug("extension %s sends event %s", extension, event.event)
        self._hub.publish(PackMessage(tenant, event.sid, event.event, event.data, event.node_id))

    # -- whose turn it is --------------------------------------------------------------------------------------------

    async def _dispatch(self) -> None:
        while True:
            self._wake = wake = anyio.Event()
            try:
                while len(self._running) < self._limits.concurrency:
                    row = await self._claim()
                    if row is None:
                        break
                    running = self._running[row.tenant, row.prompt_id] = _Running(row)
                    if (row.tenant, row.prompt_id) in self._cancelled_early:
                        self._cancelled_early.discard((row.tenant, row.prompt_id))
                        running.interrupt()
                    self._tasks.start_soon(self._execute, running)
            except RingfenceError:
                _log.exception("the queue cannot be read; trying again in %s s", RETRY_S)
                await anyio.sleep(RETRY_S)
                continue
            await wake.wait()

    async def _claim(self) -> QueuedPrompt | None:
        busy: dict[TenantId, int] = {}
        for tenant, _ in self._running:
            busy[tenant] = busy.get(tenant, 0) + 1
        most = self._limits.tenant_concurrency or self._limits.concurrency
        waiting = [tenant for tenant in await self._storage.waiting_tenants() if busy.get(tenant, 0) < most]
        # Who runs least goes first; among equals, who has waited longest for a turn.
        waiting.sort(key=lambda tenant: (busy.get(tenant, 0), self._tenant(tenant).last_turn))
        for tenant in waiting:
            row = await self._storage.claim_next(tenant)
            if row is not None:
                self._turns += 1
                self._tenant(tenant).last_turn = self._turns
                return row
        return None

    def _tenant(self, tenant: TenantId) -> _Tenant:
        known = self._tenants.get(tenant)
        if known is None:
            cache = ResultCache(self._mode, self._limits.cache_bytes, self._is_usable)
            known = self._tenants[tenant] = _Tenant(cache)
        return known

    def _is_usable(self, result: Result) -> bool:
        return all(self.sandboxes.is_alive(sandbox) for sandbox in result.sandboxes)

    # -- one prompt --------------------------------------------------------------------------------------------------

    async def _execute(self, running: _Running) -> None:
        row = running.row
        key = (row.tenant, row.prompt_id)
        try:
            await self._queue_changed(row.tenant)
            try:
                entry = await self._run(running)
            except Exception as error:  # noqa: BLE001 - a defect of ours ends this prompt and no other
                _log.exception("prompt %s: internal error", row.prompt_id)
                entry = self._refuse(
                    row, "ringfence.InternalError", f"internal error of the engine: {type(error).__name__}"
                )
            del self._running[key]
            await self._finish(row, entry)
        finally:
            self._running.pop(key, None)
            self._wake.set()

    async def _run(self, running: _Running) -> dict[str, JSON]:
        row = running.row
        types = await self.extensions.node_types(row.tenant)
        gone = sorted({entry["class_type"] for entry in row.prompt.values()} - types.keys())
        if gone:
            text = f"no extension provides these node classes any more: {', '.join(gone[:20])}"
            return self._refuse(row, "ringfence.NodeTypeGoneError", text)
        tenant = self._tenant(row.tenant)
        run = await self._build(row, types, tenant)
        running.run = run
        if running.is_interrupted:
            run.interrupt()
        await self._drop_stale_instances(row.tenant, tenant)
        started = time.monotonic()
        try:
            entry = await run.run()
        finally:
            with anyio.move_on_after(CLEANUP_S, shield=True):
                await self._release_handles()
                if self._mode.kind == "none" and not self._others(row):
                    for session in tenant.instances.take_all():
                        await _quietly(session.drop_instances, ())
        _log.info(
            "prompt %s of tenant %s: %s, %d nodes run, %.3f s",
            row.prompt_id,
            row.tenant,
            entry["status"]["status_str"],
            run.nodes_run,
            time.monotonic() - started,
        )
        return entry

    async def _build(self, row: QueuedPrompt, types: Mapping[str, NodeType], tenant: _Tenant) -> PromptRun:
        def build() -> PromptRun:
            return PromptRun(self._bench, row, types, tenant.cache, tenant.instances)

        return build() if len(row.prompt) < THREAD_NODES else await anyio.to_thread.run_sync(build)

    def _others(self, row: QueuedPrompt) -> bool:
        return any(tenant == row.tenant and other != row.prompt_id for tenant, other in self._running)

    async def _drop_stale_instances(self, name: TenantId, tenant: _Tenant) -> None:
        roots = {
            (node_id, entry["class_type"])
            for (owner, _), running in self._running.items()
            if owner == name
            for node_id, entry in running.row.prompt.items()
        }
        for session, instances in tenant.instances.take_stale(roots):
            await _quietly(session.drop_instances, instances)

    async def _release_handles(self) -> None:
        for session, handles in self._ledger.take_dead_handles():
            await _quietly(session.release_handles, handles)

    def _refuse(self, row: QueuedPrompt, kind: str, text: str) -> dict[str, JSON]:
        details, entry = refused_entry(row, kind, text, self._now_ms())
        client_id = row.extra_data.get("client_id")
        self._publish(PromptFailed(row.tenant, client_id, row.prompt_id, self._now_ms(), details))
        return entry

    async def _finish(self, row: QueuedPrompt, entry: Mapping[str, JSON]) -> None:
        while True:
            try:
                await self._storage.finish(row.tenant, row.prompt_id, entry)
                break
            except RingfenceError:
                _log.exception(
                    "prompt %s: its end cannot be stored; trying again in %s s", row.prompt_id, RETRY_S
                )
                await anyio.sleep(RETRY_S)
        await self._queue_changed(row.tenant)
        # After the history can be read: clients wait for this and then ask for the entry.
        client_id = row.extra_data.get("client_id")
        self._publish(PromptEnded(row.tenant, client_id, row.prompt_id, self._now_ms()))

    async def _queue_changed(self, tenant: TenantId) -> None:
        self._publish(QueueChanged(tenant, None, await self._storage.remaining(tenant)))

    def _publish(self, event: Event) -> None:
        self._hub.publish(event)


def _item(row: QueuedPrompt) -> QueueItem:
    return QueueItem(row.number, row.prompt_id, row.prompt, row.extra_data, row.outputs)


async def _quietly(call: Callable[[Any], Any], argument: Any) -> None:
    """Tell a worker to let go of something; one that is gone has done so."""
    try:
        await call(argument)
    except RingfenceError as error:
        _log.debug("a worker could not be told to let go: %s", error)

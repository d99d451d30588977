"""Whose turn it is, and the life of one prompt around its run: claim, build, run, store, say so.

Owns every task of the engine: one that claims prompts (fair between tenants, first come first within one, one at a
time of one client) and those that run them, each one prompt after the other. What a run does is ``executor.py``; what
clients may ask is ``engine.py``.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

import anyio
import anyio.abc
import anyio.to_thread

from engine.cache import CacheMode, Result, ResultCache
from engine.events import Event, PromptEnded, PromptFailed, QueueChanged
from engine.executor import THREAD_NODES, PromptRun
from engine.fairness import Turns
from engine.instances import Instances
from engine.node_calls import Workbench
from engine.prompt import PromptLimits
from engine.quotas import QuotaBook
from engine.registry import NodeType, NodeTypes
from engine.reports import refused_entry
from engine.storage import QueuedPrompt, Storage
from policies import RingfenceError, SandboxId, TenantId

JSON = Any

CLEANUP_S: Final = 10.0
RETRY_S: Final = 1.0  # after the storage failed
STORE_TRIES: Final = 5
LOOK_AGAIN_S: Final = 10.0  # at least so often, while somebody waits for CPU time: quotas can be raised
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What the engine bounds by itself."""

    concurrency: int = 4  # prompts running at the same time
    reserve: int = 0
    """Beyond ``concurrency``: so many first prompts of tenants that run nothing, so that no flood keeps others out."""
    tenant_concurrency: int | None = None  # of one tenant; None: as many as there may be at all
    pending: int = 1_000  # prompts waiting, of one tenant
    cache_bytes: int = 4 * 1024**3  # in the store, of one tenant
    prompt: PromptLimits = field(default_factory=PromptLimits)


@dataclass(slots=True)
class _Running:
    row: QueuedPrompt
    run: PromptRun | None = None
    is_interrupted: bool = False
    before: anyio.CancelScope | None = None
    """What it waits for before it has a run."""

    def interrupt(self) -> None:
        self.is_interrupted = True
        if self.before is not None:
            self.before.cancel()
        if self.run is not None:
            self.run.interrupt()


@dataclass(slots=True)
class _Tenant:
    cache: ResultCache
    instances: Instances = field(default_factory=Instances)


class Dispatcher:
    """Runs what is queued. Enter with ``async with``; leaving stops all runs, which start over next time."""

    def __init__(
        self,
        bench: Workbench,
        extensions: NodeTypes,
        storage: Storage,
        mode: CacheMode,
        limits: EngineLimits,
        quotas: QuotaBook,
    ) -> None:
        self._bench = bench
        self._extensions = extensions
        self._storage = storage
        self._mode = mode
        self._limits = limits
        self._tenants: dict[TenantId, _Tenant] = {}
        self._running: dict[tuple[TenantId, str], _Running] = {}
        self._cancelled_early: set[tuple[TenantId, str]] = set()
        self._quotas = quotas
        self._turns = Turns(quotas.weight)
        self._look_again_s: float = math.inf
        """When a tenant that waits for its CPU or GPU time may have some again."""
        self._wake = asyncio.Event()
        self._resting: list[asyncio.Future[_Running]] = []
        """Tasks that have run a prompt and wait for their next."""
        self._shelters: set[anyio.CancelScope] = set()
        self._exit = AsyncExitStack()
        self._tasks: anyio.abc.TaskGroup

    async def __aenter__(self) -> Self:
        again = await self._storage.requeue_running()
        if again:
            _log.info("%d prompts were running when the host stopped; they run again", again)
        self._tasks = await self._exit.enter_async_context(anyio.create_task_group())
        self._tasks.start_soon(self._dispatch)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tasks.cancel_scope.cancel()
        for shelter in self._shelters:
            shelter.deadline = anyio.current_time() + CLEANUP_S  # for those that are storing an end
        try:
            await self._exit.__aexit__(kind, value, trace)
        finally:
            for tenant in self._tenants.values():
                tenant.cache.clear()

    # -- for the engine ----------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something was queued."""
        self._wake.set()

    def running_count(self, tenant: TenantId) -> int:
        """How many prompts of a tenant run."""
        return sum(1 for _ in self._of(tenant))

    def interrupt(self, tenant: TenantId, prompt_id: str | None) -> bool:
        """Signal the tenant's running prompts (or the one named) to stop; False when there is none."""
        found = [running for running in self._of(tenant) if prompt_id in (None, running.row.prompt_id)]
        for running in found:
            running.interrupt()
        return bool(found)

    def interrupt_early(self, tenant: TenantId, prompt_id: str) -> None:
        """Stop a prompt that was claimed this instant, as soon as it is known here."""
        if not self.interrupt(tenant, prompt_id):
            self._cancelled_early.add((tenant, prompt_id))

    def running_node(self, tenant: TenantId, client_id: str) -> str | None:
        """Display id of the node that this client's prompt is at, if it runs one."""
        for running in self._of(tenant):
            if running.run is not None and running.run.client_id == client_id:
                return running.run.running_node
        return None

    async def free(self, tenant: TenantId, *, results: bool) -> None:
        """Drop the tenant's node objects in workers and, when asked, its cached results and the memory they were in."""
        known = self._tenants.get(tenant)
        if known is not None:
            if results:
                known.cache.clear()
            for session in known.instances.take_all():
                await _quietly(session.drop_instances, ())
            await self._release_handles()
        if results:  # last: what the cache let go of is what waits to be filled again
            await self._bench.store.give_back(tenant)

    def give_way(self, tenant: TenantId, sandbox: SandboxId | None, nbytes: int) -> None:
        """Memory is short: let the tenant's cache give back ``nbytes``. What running prompts hold stays.

        Where one sandbox's own cap is in the way the whole cache goes, since it does not know who made what.
        """
        known = self._tenants.get(tenant)
        if known is not None and sandbox is None:
            known.cache.shrink(nbytes)
        elif known is not None:
            known.cache.clear()

    async def queue_changed(self, tenant: TenantId) -> None:
        """Tell the tenant's clients how many prompts are left."""
        try:
            self._publish(QueueChanged(tenant, None, await self._storage.remaining(tenant)))
        except RingfenceError as error:
            _log.warning("the length of the queue is not known: %s", error)

    def _of(self, tenant: TenantId) -> Iterator[_Running]:
        return (running for (owner, _), running in self._running.items() if owner == tenant)

    # -- whose turn it is --------------------------------------------------------------------------------------------

    async def _dispatch(self) -> None:
        while True:
            self._wake.clear()
            try:
                while (row := await self._claim()) is not None:
                    running = self._running[row.tenant, row.prompt_id] = _Running(row)
                    if (row.tenant, row.prompt_id) in self._cancelled_early:
                        self._cancelled_early.discard((row.tenant, row.prompt_id))
                        running.interrupt()
                    self._start(running)
            except Exception:  # noqa: BLE001 - whatever it is: without this task no prompt of anybody runs again
                _log.exception("the queue cannot be read; trying again in %s s", RETRY_S)
                await anyio.sleep(RETRY_S)
                continue
            if self._look_again_s == math.inf:
                await self._wake.wait()
            else:
                with anyio.move_on_after(self._look_again_s):
                    await self._wake.wait()

    def _start(self, running: _Running) -> None:
        """A task that has ended a prompt runs the next: there are never more of them than ran at once."""
        while self._resting:
            task = self._resting.pop()
            if not task.done():
                task.set_result(running)
                return
        self._tasks.start_soon(self._run_on, running)

    async def _claim(self) -> QueuedPrompt | None:
        room = self._limits.concurrency - len(self._running)
        if room + self._limits.reserve <= 0:
            return None
        waiting = await self._storage.waiting_tenants()
        self._look_again_s = math.inf
        if not waiting:
            return None
        busy: dict[TenantId, int] = {}
        for tenant, _ in self._running:
            busy[tenant] = busy.get(tenant, 0) + 1
        for tenant in self._turns.order(waiting, busy):
            count = busy.get(tenant, 0)
            if (room <= 0 and count) or not await self._may_run_one_more(tenant, count):
                continue
            row = await self._storage.claim_next(tenant, self._busy_clients(tenant))
            if row is not None:
                self._turns.took(tenant, waiting)
                return row
        return None

    async def _may_run_one_more(self, tenant: TenantId, running: int) -> bool:
        quotas = await self._quotas.of(tenant)
        most = self._limits.tenant_concurrency or self._limits.concurrency
        if running >= min(most, quotas.prompts or most):
            return False
        late = self._quotas.over_time(tenant)
        if late is not None:
            self._look_again_s = min(self._look_again_s, late.retry_after_s or 1.0, LOOK_AGAIN_S)
        return late is None

    def _busy_clients(self, tenant: TenantId) -> set[str]:
        # ComfyUI runs one prompt at a time, and its clients rely on that: messages without a prompt's id, their order.
        return {
            running.row.client_id
            for (owner, _), running in self._running.items()
            if owner == tenant and running.row.client_id is not None
        }

    def _tenant(self, tenant: TenantId) -> _Tenant:
        known = self._tenants.get(tenant)
        if known is None:
            cache = ResultCache(self._mode, self._limits.cache_bytes, self._is_usable)
            known = self._tenants[tenant] = _Tenant(cache)
        return known

    def _is_usable(self, result: Result) -> bool:
        return all(map(self._bench.sessions.is_alive, result.sandboxes)) and all(
            self._bench.ledger.is_intact(value) for slot in result.slots for value in slot
        )

    # -- one prompt --------------------------------------------------------------------------------------------------

    async def _run_on(self, running: _Running) -> None:
        with anyio.CancelScope() as shelter:
            self._shelters.add(shelter)
            try:
                while True:
                    await self._execute(running, shelter)
                    del running  # a prompt can be large, and the wait for the next long
                    rest: asyncio.Future[_Running] = asyncio.get_running_loop().create_future()
                    self._resting.append(rest)
                    running = await rest
            finally:
                self._shelters.discard(shelter)

    async def _execute(self, running: _Running, shelter: anyio.CancelScope) -> None:
        row = running.row
        key = (row.tenant, row.prompt_id)
        try:
            await self.queue_changed(row.tenant)
            try:
                entry = await self._run(running)
            except Exception as error:  # noqa: BLE001 - a defect of ours ends this prompt and no other
                _log.exception("prompt %s: internal error", row.prompt_id)
                entry = self._refuse(
                    row, "ringfence.InternalError", f"internal error of the engine: {type(error).__name__}"
                )
            await self._store_end(row, entry, shelter)
            del self._running[key]
            await self.queue_changed(row.tenant)
            # After the history can be read: clients wait for this and then ask for the entry.
            client_id = row.extra_data.get("client_id")
            self._publish(PromptEnded(row.tenant, client_id, row.prompt_id, self._bench.now_ms()))
        finally:
            self._running.pop(key, None)
            self._cancelled_early.discard(key)
            self._wake.set()

    async def _run(self, running: _Running) -> dict[str, JSON]:
        row = running.row
        used = {entry["class_type"] for entry in row.prompt.values()}
        try:
            await self._make_current(running, used)
        except RingfenceError as error:
            return self._refuse(row, f"ringfence.{type(error).__name__}", str(error))
        types = await self._extensions.node_types(row.tenant)
        gone = sorted(used - types.keys())
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
            await self._clean_up(row, tenant)
        _log.info(
            "prompt %s of tenant %s: %s, %d nodes run, %.3f s",
            row.prompt_id,
            row.tenant,
            entry["status"]["status_str"],
            run.nodes_run,
            time.monotonic() - started,
        )
        return entry

    async def _make_current(self, running: _Running, used: Collection[str]) -> None:
        tenant = running.row.tenant
        if running.is_interrupted or self._extensions.is_current(tenant, used):
            return
        with anyio.CancelScope() as running.before:
            await self._extensions.make_current(tenant, used)
        running.before = None

    async def _clean_up(self, row: QueuedPrompt, tenant: _Tenant) -> None:
        """Tell workers what they need no longer hold; shielded, where there is something to tell."""
        dead = self._bench.ledger.take_dead_handles()
        owned = tenant.instances.take_owned(row.prompt_id) if self._mode.kind == "none" else []
        if not dead and not owned:
            return
        with anyio.move_on_after(CLEANUP_S, shield=True):
            for session, handles in dead:
                await _quietly(session.release_handles, handles)
            for session, instances in owned:
                await _quietly(session.drop_instances, instances)

    async def _build(self, row: QueuedPrompt, types: Mapping[str, NodeType], tenant: _Tenant) -> PromptRun:
        def build() -> PromptRun:
            return PromptRun(self._bench, row, types, tenant.cache, tenant.instances)

        return build() if len(row.prompt) < THREAD_NODES else await anyio.to_thread.run_sync(build)

    async def _drop_stale_instances(self, name: TenantId, tenant: _Tenant) -> None:
        if self._mode.kind == "none":
            return  # each prompt drops its own
        roots = {
            (node_id, entry["class_type"])
            for running in self._of(name)
            for node_id, entry in running.row.prompt.items()
        }
        for session, instances in tenant.instances.take_stale(roots):
            await _quietly(session.drop_instances, instances)

    async def _release_handles(self) -> None:
        for session, handles in self._bench.ledger.take_dead_handles():
            await _quietly(session.release_handles, handles)

    def _refuse(self, row: QueuedPrompt, kind: str, text: str) -> dict[str, JSON]:
        details, entry = refused_entry(row, kind, text, self._bench.now_ms())
        client_id = row.extra_data.get("client_id")
        self._publish(PromptFailed(row.tenant, client_id, row.prompt_id, self._bench.now_ms(), details))
        return entry

    async def _store_end(
        self, row: QueuedPrompt, entry: Mapping[str, JSON], shelter: anyio.CancelScope
    ) -> None:
        """Store an entry; when that keeps failing, a short one that says so, so that the prompt has an end."""
        for attempt in range(2 * STORE_TRIES):
            kept = entry if attempt < STORE_TRIES else self._not_stored(row)
            # Shielded: a prompt that ended while the host stops should not run a second time.
            shelter.shield = True
            try:
                await self._storage.finish(row.tenant, row.prompt_id, kept)
                return
            except Exception:  # noqa: BLE001 - the storage's defect must not end other tenants' prompts
                _log.exception("prompt %s: its end cannot be stored", row.prompt_id)
            finally:
                shelter.shield = False
            await anyio.sleep(RETRY_S)
        _log.error("prompt %s is left in the queue; it runs again at the next start", row.prompt_id)

    def _not_stored(self, row: QueuedPrompt) -> dict[str, JSON]:
        text = "the prompt ended, but its result could not be stored; see the host's log"
        return refused_entry(row, "ringfence.NotStoredError", text, self._bench.now_ms())[1]

    def _publish(self, event: Event) -> None:
        self._bench.publish(event)


async def _quietly(call: Callable[[Any], Any], argument: Any) -> None:
    """Tell a worker to let go of something; one that is gone has done so."""
    try:
        await call(argument)
    except RingfenceError as error:
        _log.debug("a worker could not be told to let go: %s", error)

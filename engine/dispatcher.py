"""Whose turn it is, and the life of one prompt around its run: claim, build, run, store, say so.

Owns every task of the engine: one that claims prompts (fair between tenants, first come first within one, one at a
time of one client) and those that run them, each one prompt after the other. What a run does is ``executor.py``; what
clients may ask is ``engine.py``.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

import anyio
import anyio.abc

from engine.belongings import Belongings
from engine.cache import CacheMode
from engine.claimed import Claimed, Runner
from engine.early_starts import EarlyStarts, Ending
from engine.events import Event, PackMessage, PromptEnded, QueueChanged
from engine.fairness import Turns
from engine.node_calls import Workbench
from engine.prompt import PromptLimits
from engine.quotas import QuotaBook
from engine.registry import NodeTypes
from engine.reports import refused_entry
from engine.storage import QueuedPrompt, Storage
from policies import RingfenceError, SandboxId, TenantId
from sandbox import TAKEN, FastPath

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
        self._storage = storage
        self._limits = limits
        self._belongings = Belongings(bench, mode, limits.cache_bytes)
        self._runner = Runner(
            bench, extensions, self._belongings, lambda tenant: (claimed.row for claimed in self._of(tenant))
        )
        self._running: dict[tuple[TenantId, str], Claimed] = {}
        self._ending: dict[tuple[TenantId, str], Claimed] = {}
        """Those that have run, and gave their place to others while their end is stored."""
        self._early = EarlyStarts(bench.publish, limits.concurrency)
        self._cancelled_early: set[tuple[TenantId, str]] = set()
        self._quotas = quotas
        self._turns = Turns(quotas.weight)
        self._look_again_s: float = math.inf
        """When a tenant that waits for its CPU or GPU time may have some again."""
        self._wake = asyncio.Event()
        self._resting: list[asyncio.Future[Claimed]] = []
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
            self._belongings.clear()

    # -- for the engine ----------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something was queued."""
        self._wake.set()

    def running_count(self, tenant: TenantId) -> int:
        """How many prompts of a tenant run, or have run and are not stored yet."""
        return sum(1 for _ in self._of(tenant)) + sum(1 for _ in self._ending_of(tenant))

    def interrupt(self, tenant: TenantId, prompt_id: str | None) -> bool:
        """Signal the tenant's running prompts (or the one named) to stop; False when there is none.

        Without a name it means those that somebody can have heard of, as it does in ComfyUI, where an interrupt between
        two prompts does not stop the second. One that has run is as it is.
        """
        found = [
            running
            for running in self._of(tenant)
            if (not running.voice.must_wait if prompt_id is None else running.row.prompt_id == prompt_id)
        ]
        for running in found:
            running.interrupt()
        return bool(found) or any(
            prompt_id in (None, ending.row.prompt_id) for ending in self._ending_of(tenant)
        )

    def interrupt_unheard(self, tenant: TenantId, prompt_ids: Collection[str] | None) -> int:
        """Stop those that nobody has heard of yet (of these ids; None: all), which clients take for pending; how many.

        They end as interrupted, when it is their turn to say so.
        """
        found = [
            running
            for running in self._of(tenant)
            if running.voice.must_wait and (prompt_ids is None or running.row.prompt_id in prompt_ids)
        ]
        for running in found:
            running.interrupt()
        return len(found)

    def interrupt_early(self, tenant: TenantId, prompt_id: str) -> None:
        """Stop a prompt that was claimed this instant, as soon as it is known here."""
        if not self.interrupt(tenant, prompt_id):
            self._cancelled_early.add((tenant, prompt_id))

    def running_node(self, tenant: TenantId, client_id: str) -> str | None:
        """Display id of the node that this client's prompt is at, if it runs one."""
        # One that has run first: its client has not heard of its end.
        for running in (*self._ending_of(tenant), *self._of(tenant)):
            if running.run is not None and running.run.client_id == client_id:
                return running.run.running_node
        return None

    async def free(self, tenant: TenantId, *, results: bool) -> None:
        """Drop the tenant's node objects in workers and, when asked, its cached results and the memory they were in."""
        await self._belongings.free(tenant, results=results)

    def give_way(self, tenant: TenantId, sandbox: SandboxId | None, nbytes: int) -> None:
        """Memory is short: let the tenant's cache give back ``nbytes``. What running prompts hold stays."""
        self._belongings.give_way(tenant, sandbox, nbytes)

    async def queue_changed(self, tenant: TenantId) -> None:
        """Tell the tenant's clients how many prompts are left."""
        try:
            self._publish(QueueChanged(tenant, None, await self._storage.remaining(tenant)))
        except RingfenceError as error:
            _log.warning("the length of the queue is not known: %s", error)

    def pass_on(self, message: PackMessage) -> None:
        """Tell what a pack sent: in its turn where a prompt that it may be of has not been heard of yet."""
        running = list(self._of(message.tenant))
        if message.client_id is not None:
            running = [each for each in running if each.row.client_id == message.client_id]
        # One for everybody may be of a prompt that is heard of, too, and is not kept from those who hear that one.
        is_of_early = all(each.voice.must_wait for each in running)
        if not (is_of_early and any(each.voice.takes(message) for each in running)):
            self._publish(message)

    def _of(self, tenant: TenantId) -> Iterator[Claimed]:
        return (running for (owner, _), running in self._running.items() if owner == tenant)

    def _ending_of(self, tenant: TenantId) -> Iterator[Claimed]:
        return (ending for (owner, _), ending in self._ending.items() if owner == tenant)

    # -- whose turn it is --------------------------------------------------------------------------------------------

    async def _dispatch(self) -> None:
        while True:
            self._wake.clear()
            try:
                while (row := await self._claim()) is not None:
                    running = Claimed(row, self._early.voice(row))
                    self._running[row.tenant, row.prompt_id] = running
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

    def _start(self, running: Claimed) -> None:
        """A task that has ended a prompt runs the next: there are never more of them than ran, or ended, at once."""
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

    # -- one prompt --------------------------------------------------------------------------------------------------

    async def _run_on(self, running: Claimed) -> None:
        with anyio.CancelScope() as shelter:
            self._shelters.add(shelter)
            try:
                while True:
                    await self._execute(running, shelter)
                    del running  # a prompt can be large, and the wait for the next long
                    rest: asyncio.Future[Claimed] = asyncio.get_running_loop().create_future()
                    self._resting.append(rest)
                    running = await rest
            finally:
                self._shelters.discard(shelter)

    async def _execute(self, running: Claimed, shelter: anyio.CancelScope) -> None:
        row, voice, ending = running.row, running.voice, None
        try:
            if not voice.must_wait:
                await self.queue_changed(row.tenant)
            entry = await self._runner.run(running)
            if voice.must_wait:  # so that of one client one end is on its way at a time
                shelter.shield = True  # as in _store_end: somebody may have interrupted it
                await voice.turn()
            ending = self._give_place(running)
            await self._store_end(row, entry, shelter)
            self._forget(running)
            await self.queue_changed(row.tenant)
            # After the history can be read: clients wait for this and then ask for the entry.
            client_id = row.extra_data.get("client_id")
            self._publish(PromptEnded(row.tenant, client_id, row.prompt_id, self._bench.now_ms()))
            if ending is not None and ending.next is not None:
                await self.queue_changed(row.tenant)  # what the next would have said when it was claimed
        finally:
            self._forget(running)
            self._cancelled_early.discard((row.tenant, row.prompt_id))
            if ending is None:
                self._wake.set()
            else:
                self._early.told(ending)

    def _give_place(self, running: Claimed) -> Ending | None:
        """A prompt works no more, and only its end is to be stored: its place is free, where that may be."""
        key = (running.row.tenant, running.row.prompt_id)
        if FastPath.EARLY_STARTS not in TAKEN or self._running.get(key) is not running:
            # The place may be another's by now, of a tenant that was removed meanwhile and is there again.
            return None
        ending = self._early.begin(running.row)
        if ending is not None:
            self._ending[key] = self._running.pop(key)
            self._wake.set()
        return ending

    def _forget(self, running: Claimed) -> None:
        key = (running.row.tenant, running.row.prompt_id)
        for known in (self._running, self._ending):
            if known.get(key) is running:  # and not one that was given its id since it was stored
                del known[key]

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

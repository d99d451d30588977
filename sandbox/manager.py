"""Which sandbox serves whom: starts one on demand, shares it, replaces it, holds back what keeps dying.

There is one sandbox for each key (``planning.py``), once there is a place for it (``admission.py``). Nothing but spares
is started before it is needed; a dead one is replaced by the next ``acquire``. Every sandbox's life is a task of the
manager, so a caller that goes away takes nothing down with it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Final, Self

import anyio
import anyio.abc
import anyio.lowlevel

from policies import ExtensionName, PolicyStore, SandboxId, TenantId
from sandbox.admission import Admission
from sandbox.audit import Entry
from sandbox.audit.record import nowhere
from sandbox.calls import EventSink, Session
from sandbox.egress import EgressOffice
from sandbox.errors import ProtocolViolationError, SandboxError, StartError
from sandbox.extension_source import ExtensionSource
from sandbox.health import Health
from sandbox.launcher import failure
from sandbox.launcher.verbs import Launcher
from sandbox.lifecycle import Sandbox, ended_copy
from sandbox.logbook import LogLine
from sandbox.metering import Metering
from sandbox.node_state import NodeStates
from sandbox.overview import Overview, SandboxInfo, SandboxState, state_of
from sandbox.places import Places
from sandbox.planning import Key, Plan, Planner
from sandbox.resources import ResourceShelf
from sandbox.shares import Share, ShareOf
from sandbox.spare_keeper import Hands, PoolState, SpareKeeper
from sandbox.spares import SETTLE_S, NoSpareError, Owner, SparePlan
from sandbox.surroundings import Surroundings
from sandbox.tenancy import Tenancy
from sandbox.tensors import TensorStore
from sandbox.watches import Watches
from sandbox.watching import Watch

log = logging.getLogger(__name__)

METER_S: Final = 1.0
"""How often the counters of the sandboxes are read."""
_SHUTDOWN_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class ManagerLimits:
    """How much the manager itself may do."""

    max_sandboxes: int = 32
    quarantine_after: int = 3
    wait_for_room_s: float = 60.0
    spares: int = 0
    """Sandboxes started ahead of need, at most."""
    spare_settle_s: float = SETTLE_S
    """From the start of a sandbox to the start of its spare."""
    metering: Metering | None = None
    """Who counts CPU time, GPU time and disk of each tenant."""
    share_of: ShareOf = lambda _tenant: Share()
    """What each tenant may have of the sandboxes."""


class SandboxManager:
    """Owns every sandbox of this host; enter once with ``async with``."""

    def __init__(
        self,
        *,
        launcher: Launcher,
        policies: PolicyStore,
        extensions: ExtensionSource,
        store: TensorStore,
        places: Places,
        events: EventSink | None = None,
        states: NodeStates | None = None,
        limits: ManagerLimits | None = None,
        egress: EgressOffice | None = None,
        audit: Callable[[Entry], None] | None = None,
    ) -> None:
        self._launcher = launcher
        self._planner = Planner(policies, extensions)
        self._store = store
        self._limits = limits or ManagerLimits()
        self._around = Surroundings(
            launcher,
            store,
            places,
            events,
            states,
            ResourceShelf(store, places),
            egress,
            self._limits.metering,
            audit or nowhere,
        )
        self._health = Health(self._limits.quarantine_after)
        self._current: dict[Key, Tenancy] = {}
        self._all: dict[SandboxId, Tenancy] = {}
        """Those that live or wait for a place, in the order of their beginning."""
        self._overview = Overview(self._all, launcher)
        self._watches = Watches(self._planner, self._of, self._make_way)
        self._spares: SpareKeeper[Tenancy] = SpareKeeper(
            SparePlan(self._limits.spares, self._limits.spare_settle_s),
            Hands(self._key, self._begin_spare, self._in_use, self._spare_places),
        )
        self._admission = Admission(
            self._all,
            self._spares,
            most=self._limits.max_sandboxes,
            share_of=self._limits.share_of,
            wait_s=self._limits.wait_for_room_s,
        )
        self._stack = AsyncExitStack()
        self._is_closing = False

    async def __aenter__(self) -> Self:
        """Begin; sandboxes start on demand."""
        self._group = await self._stack.enter_async_context(anyio.create_task_group())
        await self._group.start(self._follow_launcher)
        self._store.on_lease_break = self._on_lease_break
        self._group.start_soon(self._meter)
        self._group.start_soon(self._spares.run)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_closing = True
        with anyio.move_on_after(_SHUTDOWN_S, shield=True) as limit:
            for tenancy in list(self._all.values()):
                reason = failure.stopped(tenancy.sandbox.names, "Ringfence is shutting down")
                tenancy.sandbox.end(reason, deliberate=True)
            for tenancy in list(self._all.values()):
                await tenancy.sandbox.gone()
        if limit.cancelled_caught:
            log.error("some sandboxes did not end within %.0f s", _SHUTDOWN_S)
        self._group.cancel_scope.cancel()
        # Not told of the body's exception: a task group would wrap it into a group.
        await self._stack.__aexit__(None, None, None)

    # -- sessions ----------------------------------------------------------------------------------------------------

    async def acquire(self, tenant: TenantId, extension: ExtensionName) -> Session:
        """A session with ``extension`` loaded: the running one, or one that is started now.

        Raises:
            StartError: it cannot be started (LoadFailedError: its import failed).
            QuarantinedError: it keeps dying.
            EndedError, ProtocolViolationError: it ended while it started.
            PolicyError: its policy on disk is wrong.
        """
        plan = await self._planner.plan(tenant, extension)
        tenancy = self._current.get(plan.key)
        if tenancy is None or tenancy.sandbox.is_ending:
            self._health.check(plan.key.owner, plan.who)
            tenancy = self._begin(plan, extension)
        sandbox = tenancy.sandbox
        session = tenancy.loaded(extension)
        if session is not None and session.is_alive:
            sandbox.touch()
            return session
        with sandbox.busy():
            try:
                await sandbox.ready()
                return await tenancy.session(extension, self._group)
            except SandboxError as error:
                raise ended_copy(error, call_started=False) from error

    def _begin(self, plan: Plan, extension: ExtensionName) -> Tenancy:
        if self._is_closing:
            raise StartError("Ringfence is shutting down")
        key = plan.key
        for other in list(self._all.values()):
            if (other.key.tenant, other.key.unit) == (key.tenant, key.unit) and other.key != key:
                self._group.start_soon(self._retire, other)
        # A watched sandbox is watched from its start on; a spare has that behind it.
        tenancy = None if self._watches.of(key.whose) is not None else self._from_spare(key)
        self._spares.started(key.whose, extension, from_spare=tenancy is not None)
        if tenancy is None:
            tenancy = self._make(plan)
            self._group.start_soon(self._live, tenancy)
        self._current[key] = tenancy
        return tenancy

    def _from_spare(self, key: Key) -> Tenancy | None:
        """The spare that waits for this, when a place may be taken at once; it has one already."""
        tenancy = self._spares.peek(key.whose, key)
        if tenancy is None or not self._admission.may_enter(tenancy):
            return None
        self._spares.take(key.whose)
        self._admission.admit(tenancy)
        tenancy.sandbox.put_to_use()
        return tenancy

    def _make(self, plan: Plan, *, ahead: Sequence[str] | None = None) -> Tenancy:
        tenancy = Tenancy(
            plan,
            self._around,
            watch=self._watches.of(plan.key.whose) if ahead is None else None,
            ahead=ahead,
            on_success=partial(self._health.worked, plan.key.owner),
        )
        tenancy.sandbox.on_quiet = self._admission.look_again
        self._all[tenancy.sandbox.id] = tenancy
        return tenancy

    # -- spares, which ``spare_keeper.py`` keeps -----------------------------------------------------------------------

    async def _key(self, tenant: TenantId, extension: ExtensionName) -> Key:
        return (await self._planner.plan(tenant, extension)).key

    async def _begin_spare(
        self, tenant: TenantId, extension: ExtensionName, ahead: tuple[str, ...]
    ) -> Tenancy:
        plan = await self._planner.plan(tenant, extension)
        if self._is_closing:
            raise StartError("Ringfence is shutting down")
        if not self._spares.wants(tenant):
            raise StartError(f"tenant '{tenant}' was removed just now")
        self._health.check(plan.key.owner, plan.who)
        if plan.policy.gpus:
            raise NoSpareError(f"a spare would hold a GPU that nobody uses ({plan.policy.source('gpus')})")
        tenancy = self._make(plan, ahead=ahead)
        self._group.start_soon(self._live, tenancy)
        return tenancy

    def _in_use(self, owner: Owner) -> Sandbox | None:
        for tenancy in self._current.values():
            if tenancy.key.whose == owner:
                return tenancy.sandbox
        return None

    def _spare_places(self) -> int | None:
        """How many spares would be in nobody's way; None while a sandbox starts or waits."""
        used = [tenancy for tenancy in self._all.values() if not tenancy.sandbox.is_spare]
        if any(tenancy.sandbox.is_starting or tenancy.is_loading for tenancy in used):
            return None
        return max(0, self._limits.max_sandboxes - len(used))

    def forget(self, tenant: TenantId) -> None:
        """Start nothing more of a tenant that was removed; what runs is the caller's to stop."""
        self._spares.forget(tenant)

    @property
    def pool(self) -> PoolState:
        """The spares as operators see them."""
        return self._spares.state()

    async def pool_filled(self, count: int) -> None:
        """Wait until ``count`` spares are ready for their first call."""
        await self._spares.filled(count)

    async def _live(self, tenancy: Tenancy) -> None:
        sandbox = tenancy.sandbox
        try:
            refusal = None if sandbox.is_spare else await self._admission.enter(tenancy)
            if refusal is None:
                await sandbox.live()
            else:
                sandbox.never_started(refusal)
        finally:
            if sandbox.is_spare:
                self._spares.gone(tenancy)
            self._admission.leave(sandbox.id)
            self._all.pop(sandbox.id, None)
            if self._current.get(tenancy.key) is tenancy:
                del self._current[tenancy.key]
            self._overview.ended(sandbox)
            if not sandbox.is_deliberate and not sandbox.is_spare and sandbox.ended_by is not None:
                self._health.died(tenancy.key.owner, sandbox.ended_by.message)
            self._admission.look_again()

    async def _retire(self, tenancy: Tenancy, why: str = "its code or policy has changed") -> None:
        """End a sandbox that is no longer the current one, once its calls are done."""
        sandbox = tenancy.sandbox
        if self._current.get(tenancy.key) is tenancy:
            del self._current[tenancy.key]
        sandbox.leaving.set()
        await sandbox.quiet()
        sandbox.end(failure.stopped(sandbox.names, why), deliberate=True)

    # -- watching ----------------------------------------------------------------------------------------------------

    def watch(self, tenant: TenantId, extension: ExtensionName) -> AbstractAsyncContextManager[Watch]:
        """Watch the sandboxes of an extension (its group's, if it has one) that start from now on.

        The one that runs makes way as for a new policy, and so does the watched one in the end.

        Raises:
            WatchedError: somebody watches it already.
            StartError, PolicyError: as ``acquire``.
        """
        return self._watches.watch(tenant, extension)

    async def observe(self, watch: Watch) -> None:
        """Let the watch see what its sandboxes have used so far."""
        for tenancy in list(self._all.values()):
            if tenancy.sandbox.watch is watch:
                await tenancy.sandbox.observe()

    def _make_way(self, tenancy: Tenancy, why: str) -> None:
        self._group.start_soon(self._retire, tenancy, why)

    def _of(self, owner: Owner) -> Sequence[Tenancy]:
        """Its sandboxes that take new calls."""
        current = [tenancy for tenancy in self._all.values() if self._current.get(tenancy.key) is tenancy]
        return [tenancy for tenancy in current if tenancy.key.whose == owner]

    # -- what happens by itself ----------------------------------------------------------------------------------------

    async def _follow_launcher(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        async with self._launcher.events() as events:
            task_status.started()
            async for event in events:
                tenancy = self._all.get(event.sandbox)
                if tenancy is None:
                    continue
                if event.kind == "died":
                    tenancy.sandbox.note_death()
                else:
                    tenancy.sandbox.note_oom()

    async def _meter(self) -> None:
        """What each sandbox uses up, told to whoever counts it; over its tenant's quota, those that work are ended."""
        metering = self._limits.metering
        if metering is None:
            return
        while True:
            await anyio.sleep(METER_S)
            now = time.monotonic()
            for tenancy in list(self._all.values()):
                sandbox = tenancy.sandbox
                if sandbox.launched is None or sandbox.is_ending:
                    continue
                if not sandbox.is_to_be_metered(metering, now):
                    continue
                over = await sandbox.meter(metering)
                if over and sandbox.is_working and not sandbox.is_ending:
                    sandbox.end(failure.over_quota(sandbox.names, over), deliberate=True)

    def _on_lease_break(self, sandbox: SandboxId) -> None:
        tenancy = self._all.get(sandbox)
        if tenancy is not None:
            tenancy.sandbox.end(
                ProtocolViolationError("it opened an output for writing after it had been taken over")
            )

    # -- for operators -------------------------------------------------------------------------------------------------

    def is_alive(self, sandbox: SandboxId) -> bool:
        """Whether object handles of this sandbox still mean something."""
        tenancy = self._all.get(sandbox)
        return tenancy is not None and not tenancy.sandbox.is_ending

    def warm(self, tenant: TenantId, extension: ExtensionName) -> SandboxState | None:
        """The state of the extension's current sandbox; None when it has none."""
        for tenancy in self._current.values():
            if tenancy.key.tenant == tenant and extension in tenancy.files:
                return state_of(tenancy.sandbox)
        return None

    def quarantined_for(self, tenant: TenantId, extension: ExtensionName) -> float:
        """Seconds until an extension that keeps dying may start again; 0 when it may."""
        return self._health.longest(f"{tenant}/{self._planner.last_unit(tenant, extension)}/")

    def list(self, tenant: TenantId | None = None) -> list[SandboxInfo]:
        """The sandboxes of a tenant, or all, oldest first."""
        return self._overview.list(tenant)

    def holding(self, tenant: TenantId, extension: ExtensionName) -> tuple[SandboxId, ...]:
        """The tenant's sandboxes that are there for an extension, oldest first."""
        return tuple(
            tenancy.sandbox.id
            for tenancy in self._all.values()
            if tenancy.key.tenant == tenant and extension in tenancy.files
        )

    async def refresh(self) -> None:
        """Read what each sandbox uses now, for the next ``list``."""
        await self._overview.refresh()

    async def logs(self, tenant: TenantId, sandbox: SandboxId, limit: int = 1000) -> Sequence[LogLine]:
        """What was printed in a sandbox, of the last ones that ended too; empty for one that the tenant has not."""
        return self._overview.logs(tenant, sandbox, limit)

    async def stop(self, tenant: TenantId, sandbox: SandboxId, why: str = "it was stopped by hand") -> bool:
        """End a sandbox of the tenant now; False when it has none of that id. Returns when it is gone."""
        tenancy = self._all.get(sandbox)
        if tenancy is None or tenancy.sandbox.tenant != tenant:
            return False
        tenancy.sandbox.end(failure.stopped(tenancy.sandbox.names, why), deliberate=True)
        await tenancy.sandbox.gone()
        return True

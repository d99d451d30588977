"""Which sandbox serves whom: starts one on demand, shares it, replaces it, holds back what keeps dying.

There is one sandbox per tenant, extension (or sandbox group), policy digest, content and environment. Nothing is
started before it is needed; a dead one is replaced by the next ``acquire``. Every sandbox's life is a task of the
manager, so a caller that goes away takes nothing down with it.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import TracebackType
from typing import Final, Self

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread

from policies import EffectivePolicy, ExtensionName, PolicyStore, SandboxGroup, SandboxId, TenantId
from sandbox.audit import Entry
from sandbox.audit.record import nowhere
from sandbox.call_book import CallBook
from sandbox.calls import EventSink, Session
from sandbox.egress import EgressOffice
from sandbox.errors import LoadFailedError, ProtocolViolationError, SandboxError, StartError, WatchedError
from sandbox.extension_source import ExtensionFiles, ExtensionSource
from sandbox.health import Health
from sandbox.launcher import failure
from sandbox.launcher.verbs import Launcher, SandboxRequest, Usage
from sandbox.lifecycle import Sandbox, Surroundings, ended_copy
from sandbox.logbook import Logbook, LogLine
from sandbox.metering import Metering
from sandbox.node_state import NodeStates
from sandbox.places import Places
from sandbox.resources import ResourceShelf
from sandbox.session import ExtensionSession
from sandbox.shares import Decision, Place, Share, ShareOf, decide
from sandbox.spare_keeper import Hands, PoolState, SpareKeeper
from sandbox.spares import SETTLE_S, NoSpareError, Owner, SparePlan
from sandbox.tensors import TensorStore
from sandbox.watching import Watch

log = logging.getLogger(__name__)

POLICY_FRESH_S: Final = 1.0
"""How old a reading of the policy files may be; an edit holds from the next start after that."""
METER_S: Final = 1.0
"""How often the counters of the sandboxes are read."""
_LOGS_KEPT: Final = 64
_SHUTDOWN_S: Final = 60.0


class SandboxState(StrEnum):
    """Where a sandbox is in its life."""

    SPARE = "spare"
    STARTING = "starting"
    WARM = "warm"
    BUSY = "busy"
    ENDING = "ending"


@dataclass(frozen=True, slots=True)
class SandboxInfo:
    """One sandbox as operators see it."""

    id: SandboxId
    tenant: TenantId
    extensions: tuple[ExtensionName, ...]
    state: SandboxState
    started: datetime
    policy_digest: str
    container: str | None
    memory_used: int | None
    """As of the last ``refresh``; None when it cannot be read."""
    memory_limit: int
    pids_used: int | None
    pids_limit: int
    group: str | None = None
    """The sandbox group whose members the extensions are."""
    at_rest: int | None = None
    """How much its packs have done so far: the same number again, and nothing was. None: they do something now."""


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


@dataclass(frozen=True, slots=True)
class _Key:
    tenant: TenantId
    unit: str
    """``extension:<name>`` or ``group:<name>``."""
    policy_digest: str
    content: str

    @property
    def whose(self) -> Owner:
        """A tenant and its extension or group, whatever their content and policy."""
        return (self.tenant, self.unit)

    @property
    def owner(self) -> str:
        """Who is held back when it keeps dying: another content or policy is another matter."""
        return "/".join((self.tenant, self.unit, self.policy_digest, self.content))


@dataclass(frozen=True, slots=True)
class _Plan:
    key: _Key
    policy: EffectivePolicy
    files: tuple[ExtensionFiles, ...]


@dataclass(slots=True)
class _Tenancy:
    """A sandbox and the sessions in it."""

    sandbox: Sandbox
    key: _Key
    sessions: dict[ExtensionName, ExtensionSession]
    files: dict[ExtensionName, ExtensionFiles]
    calls: CallBook
    loads: dict[ExtensionName, _Load] = field(default_factory=dict)
    """Extensions that are being loaded."""


@dataclass(slots=True, eq=False)
class _Load:
    """An extension's import: a task of the manager that any number of callers may wait for."""

    done: anyio.Event = field(default_factory=anyio.Event)
    error: Exception | None = None


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
        self._policies = policies
        self._extensions = extensions
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
        self._current: dict[_Key, _Tenancy] = {}
        self._all: dict[SandboxId, _Tenancy] = {}
        self._read: dict[tuple[TenantId, ExtensionName], tuple[float, EffectivePolicy]] = {}
        self._usage: dict[SandboxId, Usage] = {}
        self._old_logs: OrderedDict[SandboxId, tuple[TenantId, Logbook]] = OrderedDict()
        self._admitted: dict[SandboxId, None] = {}
        """Who has a place; all others of ``_all`` wait for one, in the order of their beginning."""
        self._places_changed = anyio.Event()
        self._watches: dict[tuple[TenantId, str], Watch] = {}
        self._spares: SpareKeeper[_Tenancy] = SpareKeeper(
            SparePlan(self._limits.spares, self._limits.spare_settle_s),
            Hands(self._key, self._begin_spare, self._in_use, self._spare_places),
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
        plan = await self._plan(tenant, extension)
        tenancy = self._current.get(plan.key)
        if tenancy is None or tenancy.sandbox.is_ending:
            names = [files.name for files in plan.files]
            self._health.check(plan.key.owner, failure.whose(names, plan.policy.group))
            tenancy = self._begin(plan, extension)
        sandbox = tenancy.sandbox
        with sandbox.busy():
            try:
                await sandbox.ready()
                return await self._session(tenancy, extension)
            except SandboxError as error:
                raise ended_copy(error, call_started=False) from error

    async def _session(self, tenancy: _Tenancy, extension: ExtensionName) -> ExtensionSession:
        session = tenancy.sessions.get(extension)
        if session is None:
            session = ExtensionSession(
                tenancy.sandbox,
                extension,
                tenancy.calls,
                self._store,
                self._launcher,
                on_success=lambda: self._health.worked(tenancy.key.owner),
            )
            tenancy.sessions[extension] = session
        if not session.is_loaded:
            load = tenancy.loads.get(extension)
            if load is None:
                load = tenancy.loads[extension] = _Load()
                self._group.start_soon(self._load, tenancy, session, load)
            await load.done.wait()
            if load.error is not None:
                raise load.error
        return session

    async def _load(self, tenancy: _Tenancy, session: ExtensionSession, load: _Load) -> None:
        """Load an extension. A caller that goes away does not end this: others may wait, and it is of use later."""
        files = tenancy.files[session.extension]
        try:
            with tenancy.sandbox.busy():
                name = "nodes" if files.core else f"custom_nodes.{files.name}"
                await session.load(name, core=files.core)
        except LoadFailedError as error:
            load.error = error
            # The worker holds half a pack now; the next try gets a fresh one. In a group the others go on.
            del tenancy.sessions[session.extension]
            if not tenancy.sessions:
                tenancy.sandbox.end(error, deliberate=True)
                await tenancy.sandbox.gone()
        except Exception as error:  # noqa: BLE001 - whoever waits for it gets it
            load.error = error
        except BaseException:
            load.error = StartError("Ringfence is shutting down")
            raise
        finally:
            del tenancy.loads[session.extension]
            load.done.set()

    async def _plan(self, tenant: TenantId, extension: ExtensionName) -> _Plan:
        policy = await self._policy(tenant, extension)
        unit = f"extension:{extension}"
        if policy.group:
            files = await self._extensions.group_files(tenant, policy.group, extension)
            unit = f"group:{policy.group}"
        else:
            files = (await self._extensions.files(tenant, extension),)
        content = hashlib.sha256()
        for item in files:
            content.update(f"{item.name}\0{item.content_hash}\0{item.environment}\0".encode())
        return _Plan(_Key(tenant, unit, policy.digest(), content.hexdigest()), policy, files)

    async def _policy(self, tenant: TenantId, extension: ExtensionName) -> EffectivePolicy:
        known = self._read.get((tenant, extension))
        if known is not None and time.monotonic() - known[0] < POLICY_FRESH_S:
            return known[1]
        policy = await anyio.to_thread.run_sync(self._policies.effective, extension, tenant)
        if policy.group:  # members that differ are an error of the files: say it before anything is started
            group = SandboxGroup(policy.group)
            policy = await anyio.to_thread.run_sync(self._policies.effective_group, group, tenant)
        self._read[tenant, extension] = (time.monotonic(), policy)
        return policy

    def _begin(self, plan: _Plan, extension: ExtensionName) -> _Tenancy:
        if self._is_closing:
            raise StartError("Ringfence is shutting down")
        key = plan.key
        for other in list(self._all.values()):
            if (other.key.tenant, other.key.unit) == (key.tenant, key.unit) and other.key != key:
                self._group.start_soon(self._retire, other)
        # A watched sandbox is watched from its start on; a spare has that behind it.
        tenancy = None if key.whose in self._watches else self._from_spare(key)
        self._spares.started(key.whose, extension, from_spare=tenancy is not None)
        if tenancy is None:
            tenancy = self._make(plan)
            self._group.start_soon(self._live, tenancy)
        self._current[key] = tenancy
        return tenancy

    def _from_spare(self, key: _Key) -> _Tenancy | None:
        """The spare that waits for this, when a place may be taken at once; it has one already."""
        tenancy = self._spares.peek(key.whose, key)
        if tenancy is None or not self._decide(tenancy).may_enter:
            return None
        self._spares.take(key.whose)
        self._admitted[tenancy.sandbox.id] = None
        tenancy.sandbox.put_to_use()
        return tenancy

    def _make(self, plan: _Plan, *, ahead: Sequence[str] | None = None) -> _Tenancy:
        key = plan.key
        group = key.unit.removeprefix("group:") if key.unit.startswith("group:") else None
        names = tuple(item.name for item in plan.files)
        request = SandboxRequest(
            sandbox=_new_id(key.tenant, group or names[0]),
            tenant=key.tenant,
            extensions=plan.files,
            policy_digest=key.policy_digest,
            group=group,
        )
        calls = CallBook()
        sandbox = Sandbox(
            request,
            plan.policy,
            self._around,
            extension_of_call=calls.extension_of,
            node_of_call=calls.node_of,
            watch=self._watches.get(key.whose) if ahead is None else None,
            ahead=ahead,
        )
        sandbox.on_quiet = self._change_places
        tenancy = _Tenancy(sandbox, key, {}, {item.name: item for item in plan.files}, calls)
        self._all[sandbox.id] = tenancy
        return tenancy

    # -- spares, which ``spare_keeper.py`` keeps -----------------------------------------------------------------------

    async def _key(self, tenant: TenantId, extension: ExtensionName) -> _Key:
        return (await self._plan(tenant, extension)).key

    async def _begin_spare(
        self, tenant: TenantId, extension: ExtensionName, ahead: tuple[str, ...]
    ) -> _Tenancy:
        plan = await self._plan(tenant, extension)
        if self._is_closing:
            raise StartError("Ringfence is shutting down")
        self._health.check(
            plan.key.owner, failure.whose([item.name for item in plan.files], plan.policy.group)
        )
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
        if any(tenancy.sandbox.is_starting or tenancy.loads for tenancy in used):
            return None
        return max(0, self._limits.max_sandboxes - len(used))

    @property
    def pool(self) -> PoolState:
        """The spares as operators see them."""
        return self._spares.state()

    async def pool_filled(self, count: int) -> None:
        """Wait until ``count`` spares are ready for their first call."""
        await self._spares.filled(count)

    async def _live(self, tenancy: _Tenancy) -> None:
        sandbox = tenancy.sandbox
        try:
            refusal = "" if sandbox.is_spare else await self._make_room(tenancy)
            if not refusal:
                await sandbox.live()
            else:
                advice = "try again, or raise the host's number of sandboxes (RINGFENCE_MAX_SANDBOXES)"
                if refusal.startswith("tenant"):
                    advice = "run fewer packs at once, or have the quota in default.yaml raised"
                sandbox.never_started(StartError(refusal, advice))
        finally:
            if sandbox.is_spare:
                self._spares.gone(tenancy)
            self._admitted.pop(sandbox.id, None)
            self._all.pop(sandbox.id, None)
            self._usage.pop(sandbox.id, None)
            if self._current.get(tenancy.key) is tenancy:
                del self._current[tenancy.key]
            self._old_logs[sandbox.id] = (sandbox.tenant, sandbox.logbook)
            if len(self._old_logs) > _LOGS_KEPT:
                self._old_logs.popitem(last=False)
            if not sandbox.is_deliberate and not sandbox.is_spare and sandbox.ended_by is not None:
                self._health.died(tenancy.key.owner, sandbox.ended_by.message)
            self._change_places()

    async def _make_room(self, tenancy: _Tenancy) -> str:
        """Wait for a place, ending an idle sandbox if need be (``shares.py`` says whose); else why there is none."""
        because = ""
        with anyio.move_on_after(self._limits.wait_for_room_s):
            while True:
                changed = self._places_changed
                decision = self._decide(tenancy)
                waits_for_spare = (
                    decision.may_enter
                    and len(self._admitted) + self._spares.count >= self._limits.max_sandboxes
                    and self._spares.give_way()
                )
                if decision.may_enter and not waits_for_spare:
                    self._admitted[tenancy.sandbox.id] = None
                    self._change_places()
                    return ""
                because = decision.because
                if decision.is_final:
                    break
                ending = sum(
                    self._all[each].sandbox.is_ending for each in self._admitted if each in self._all
                )
                if decision.ends is not None and ending < len(self._waiting()):
                    idle = self._all[decision.ends].sandbox
                    idle.end(failure.stopped(idle.names, "another sandbox needed its place"), deliberate=True)
                await changed.wait()
        return because

    def _waiting(self) -> list[_Tenancy]:
        return [
            other
            for other in self._all.values()
            if other.sandbox.id not in self._admitted and not other.sandbox.is_spare
        ]

    def _decide(self, tenancy: _Tenancy) -> Decision:
        held = [_place(self._all[sandbox]) for sandbox in self._admitted if sandbox in self._all]
        waiting = [_place(other) for other in self._waiting()]
        return decide(_place(tenancy), held, waiting, self._limits.max_sandboxes, self._limits.share_of)

    def _change_places(self) -> None:
        """A place became free, or a sandbox idle: whoever waits looks again."""
        if len(self._admitted) + self._spares.count == len(self._all):
            return  # nobody waits
        self._places_changed.set()
        self._places_changed = anyio.Event()

    async def _retire(self, tenancy: _Tenancy, why: str = "its code or policy has changed") -> None:
        """End a sandbox that is no longer the current one, once its calls are done."""
        sandbox = tenancy.sandbox
        if self._current.get(tenancy.key) is tenancy:
            del self._current[tenancy.key]
        sandbox.leaving.set()
        await sandbox.quiet()
        reason = failure.stopped(sandbox.names, why)
        sandbox.end(reason, deliberate=True)

    # -- watching ----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def watch(self, tenant: TenantId, extension: ExtensionName) -> AsyncIterator[Watch]:
        """Watch the sandboxes of an extension (its group's, if it has one) that start from now on.

        The one that runs makes way as for a new policy, and so does the watched one in the end.

        Raises:
            WatchedError: somebody watches it already.
            StartError, PolicyError: as ``acquire``.
        """
        plan = await self._plan(tenant, extension)
        unit = (tenant, plan.key.unit)
        if unit in self._watches:
            raise WatchedError(
                f"extension '{extension}' is being watched already", "wait until that has ended"
            )
        watch = self._watches[unit] = Watch(tenant, [files.name for files in plan.files])
        try:
            for tenancy in self._of(unit):
                self._group.start_soon(self._retire, tenancy, "a watched one takes its place")
            await anyio.lowlevel.checkpoint()
            yield watch
        finally:
            del self._watches[unit]
            watched = self._of(unit)
            for tenancy in watched:
                self._group.start_soon(self._retire, tenancy, "the watch over it has ended")
            with anyio.move_on_after(
                _SHUTDOWN_S, shield=True
            ):  # longer only while somebody else's call runs in it
                for tenancy in watched:
                    await tenancy.sandbox.gone()

    async def observe(self, watch: Watch) -> None:
        """Let the watch see what its sandboxes have used so far."""
        for tenancy in list(self._all.values()):
            if tenancy.sandbox.watch is watch:
                await tenancy.sandbox.observe()

    def _of(self, unit: tuple[TenantId, str]) -> Sequence[_Tenancy]:
        """The sandboxes of a unit that take new calls."""
        current = [tenancy for tenancy in self._all.values() if self._current.get(tenancy.key) is tenancy]
        return [tenancy for tenancy in current if (tenancy.key.tenant, tenancy.key.unit) == unit]

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
            before = time.monotonic()
            await anyio.sleep(METER_S)
            for tenancy in list(self._all.values()):
                sandbox = tenancy.sandbox
                if sandbox.launched is None or sandbox.is_ending:
                    continue
                over = await sandbox.meter(metering, time.monotonic() - before)
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
                return _state(tenancy.sandbox)
        return None

    def quarantined_for(self, tenant: TenantId, extension: ExtensionName) -> float:
        """Seconds until an extension that keeps dying may start again; 0 when it may."""
        known = self._read.get((tenant, extension))
        group = known[1].group if known else None
        unit = f"group:{group}" if group else f"extension:{extension}"
        return self._health.longest(f"{tenant}/{unit}/")

    def list(self, tenant: TenantId | None = None) -> list[SandboxInfo]:
        """The sandboxes of a tenant, or all, oldest first."""
        return [
            self._info(tenancy) for tenancy in self._all.values() if tenant in (None, tenancy.sandbox.tenant)
        ]

    def holding(self, tenant: TenantId, extension: ExtensionName) -> tuple[SandboxId, ...]:
        """The tenant's sandboxes that are there for an extension, oldest first."""
        return tuple(
            tenancy.sandbox.id
            for tenancy in self._all.values()
            if tenancy.sandbox.tenant == tenant and extension in tenancy.sandbox.request.names
        )

    async def refresh(self) -> None:
        """Read what each sandbox uses now, for the next ``list``."""
        for sandbox in list(self._all):
            self._usage[sandbox] = await self._launcher.stats(sandbox)

    async def logs(self, tenant: TenantId, sandbox: SandboxId, limit: int = 1000) -> Sequence[LogLine]:
        """What was printed in a sandbox, of the last ones that ended too; empty for one that the tenant has not."""
        tenancy = self._all.get(sandbox)
        if tenancy is not None and tenancy.sandbox.tenant == tenant:
            return tenancy.sandbox.logbook.lines(limit)
        owner, logbook = self._old_logs.get(sandbox, (None, None))
        return logbook.lines(limit) if logbook is not None and owner == tenant else []

    async def stop(self, tenant: TenantId, sandbox: SandboxId, why: str = "it was stopped by hand") -> bool:
        """End a sandbox of the tenant now; False when it has none of that id. Returns when it is gone."""
        tenancy = self._all.get(sandbox)
        if tenancy is None or tenancy.sandbox.tenant != tenant:
            return False
        reason = failure.stopped(tenancy.sandbox.names, why)
        tenancy.sandbox.end(reason, deliberate=True)
        await tenancy.sandbox.gone()
        return True

    def _info(self, tenancy: _Tenancy) -> SandboxInfo:
        sandbox = tenancy.sandbox
        used = self._usage.get(sandbox.id, Usage())
        return SandboxInfo(
            id=sandbox.id,
            tenant=sandbox.tenant,
            extensions=sandbox.request.names,
            group=sandbox.request.group,
            state=_state(sandbox),
            started=sandbox.started_at,
            policy_digest=tenancy.key.policy_digest,
            container=sandbox.launched.container if sandbox.launched else None,
            memory_used=used.memory,
            memory_limit=sandbox.policy.memory,
            pids_used=used.pids,
            pids_limit=sandbox.policy.pids,
            at_rest=sandbox.at_rest,
        )


def _place(tenancy: _Tenancy) -> Place:
    sandbox = tenancy.sandbox
    is_idle = not (sandbox.in_use or sandbox.is_starting or sandbox.is_ending)
    return Place(sandbox.id, sandbox.tenant, sandbox.policy.memory, is_idle, sandbox.used_at)


def _state(sandbox: Sandbox) -> SandboxState:
    if sandbox.is_ending:
        return SandboxState.ENDING
    if sandbox.is_spare:
        return SandboxState.SPARE
    if sandbox.is_starting:
        return SandboxState.STARTING
    return SandboxState.BUSY if sandbox.in_use else SandboxState.WARM


def _new_id(tenant: TenantId, name: str) -> SandboxId:
    """Readable in ``docker ps``, and never the same twice."""
    words = re.sub(r"[^a-z0-9]+", "-", f"{tenant}-{name}".lower()).strip("-")[:40].rstrip("-")
    return SandboxId(f"{words}-{secrets.token_hex(4)}")

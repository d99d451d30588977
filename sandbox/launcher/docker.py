"""Sandboxes as containers of an engine: started, ended, looked at, each under a record of what it was started for.

What is asked of the engine stands in ``container_engine.py``; a thread follows its events. What a container is made of
stands in ``spec.py``, what may be mounted in ``mounts.py``, what ended it in ``failure.py``.
"""

from __future__ import annotations

import logging
import os
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import anyio
import anyio.to_thread
from anyio.abc import ObjectReceiveStream

from policies import EffectivePolicy, ExtensionName, PolicyStore, SandboxGroup, SandboxId, TenantId
from sandbox.errors import StartError
from sandbox.launcher.attachment import Tail, read_tail
from sandbox.launcher.cgroups import ROOT, Cgroup, find
from sandbox.launcher.container_engine import DOCTOR, ContainerEngine
from sandbox.launcher.engine_events import EventThread
from sandbox.launcher.holding import Holder
from sandbox.launcher.listeners import Listeners
from sandbox.launcher.mounts import sandbox_mounts
from sandbox.launcher.parents import ENGINES_OWN, parent_for, remove_empty
from sandbox.launcher.refusals import Refusals
from sandbox.launcher.self_test import SelfTest
from sandbox.launcher.self_test_record import KEPT_AS
from sandbox.launcher.settings import LaunchSettings, TestOverride
from sandbox.launcher.spec import LABEL, RUNTIMES, Identity, Mount, container_spec
from sandbox.launcher.uids import UidBook
from sandbox.launcher.verbs import Ending, LaunchedSandbox, LauncherEvent, SandboxRequest, Usage
from sandbox.places import Places

log = logging.getLogger(__name__)

T = TypeVar("T")
DEATH_WAIT_S: Final = 15.0
"""From our kill to the engine's word that it is dead."""
SHUTDOWN_S: Final = 60.0
_ENDINGS_KEPT: Final = 256


@dataclass(slots=True)
class _Record:
    launched: LaunchedSandbox
    tail: Tail
    ended: anyio.Event = field(default_factory=anyio.Event)
    lock: anyio.Lock = field(default_factory=anyio.Lock)
    exit_code: int | None = None
    ooms: int = 0
    cgroup: Cgroup | None = None
    pids_refused: int = 0

    def refused(self, count: int) -> None:
        """The kernel's count of processes that it refused."""
        self.pids_refused = count


class DockerLauncher:
    """The ``Launcher`` over a Docker engine; enter once with ``async with``."""

    def __init__(
        self,
        places: Places,
        policies: PolicyStore,
        settings: LaunchSettings | None = None,
        *,
        engine_url: str | None = None,
        override: TestOverride | None = None,
    ) -> None:
        self._places = places
        self._policies = policies
        self._settings = settings or LaunchSettings()
        self._override = override
        self._uids = UidBook(
            places.launcher_data / "uids.json", self._settings.first_uid, self._settings.uids
        )
        self._uids_taken: dict[SandboxId, tuple[int, SandboxRequest]] = {}
        self._assigning = anyio.Lock()
        """From the look at what is taken until it is known that one more is."""
        self._holder = Holder(places, self._settings.holding_uid, self._settings.trusted_sources)
        self._refusals = Refusals()
        self._records: dict[SandboxId, _Record] = {}
        self._endings: OrderedDict[SandboxId, Ending] = OrderedDict()
        self._listeners = Listeners()
        self._starting = anyio.CapacityLimiter(self._settings.concurrent_starts or os.cpu_count() or 1)
        self._stack = AsyncExitStack()
        self._filters = {"label": [f"{LABEL}.instance={places.instance}", f"{LABEL}.purpose=sandbox"]}
        self._engine = ContainerEngine(engine_url, self._settings.image, self._filters)

    # -- life ----------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Reach the engine, remove what an earlier run of this instance left in it, and follow its events.

        Raises:
            StartError: the engine does not answer.
        """
        engine = self._engine
        await engine.open()
        self._self_test = SelfTest(
            engine.api, self._settings.image, self._places.instance, self._places.launcher_data / KEPT_AS
        )
        await engine.ask("list self-tests", self._self_test.sweep)
        held = await self._engine.in_thread(self._holder.release_all)
        if held:
            log.warning("giving back %d directories that an earlier run held", held)
        for container in await engine.containers():
            log.warning("removing leftover sandbox container %s", container["Id"][:12])
            await engine.remove(container["Id"])
        self._group = await self._stack.enter_async_context(anyio.create_task_group())
        self._events = EventThread(engine.connect, self._filters, self._on_event, self._recheck)
        await self._group.start(self._events.run)
        self._group.start_soon(self._refusals.run)
        if self._settings.self_test_at_start:
            self._group.start_soon(self._test_runtimes)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._self_test.close()
        with anyio.move_on_after(SHUTDOWN_S, shield=True):
            async with anyio.create_task_group() as group:
                for sandbox in list(self._records):
                    group.start_soon(self._stop_quietly, sandbox)
            await self._events.close()
            await self._engine.in_thread(lambda: remove_empty(self._places.instance, ROOT))
            await self._engine.close()
        self._group.cancel_scope.cancel()
        await self._stack.__aexit__(None, None, None)
        self._refusals.close()

    # -- verbs ---------------------------------------------------------------------------------------------------

    async def ensure(self, request: SandboxRequest) -> LaunchedSandbox:
        """See ``Launcher.ensure``."""
        known = self._records.get(request.sandbox)
        if known is not None and not known.ended.is_set():
            if self._uids_taken[request.sandbox][1] != request:
                # It has what it was started with, mounts and all; whoever asks for something else gets nothing.
                raise StartError(f"sandbox '{request.sandbox}' runs already, for another request")
            return known.launched
        async with self._starting:
            with anyio.move_on_after(self._settings.start_timeout_s):
                return await self._start(request)
        raise StartError(
            f"the container engine did not start a sandbox within {self._settings.start_timeout_s:.0f} s",
            DOCTOR,
        )

    async def _start(self, request: SandboxRequest) -> LaunchedSandbox:
        clock = _Clock()
        policy = await self._engine.in_thread(lambda: self._policy(request))
        if policy.digest() != request.policy_digest:
            raise StartError(f"the policy of {', '.join(request.names)} has just changed", "try again")
        mounts = await self._engine.in_thread(
            lambda: sandbox_mounts(request, policy, self._places, self._settings, self._override)
        )
        # Nobody's code runs in a runtime that has not proved its walls here.
        await self._engine.ask("test a runtime", lambda: self._self_test.require(policy.isolation))
        uid = await self._uid_for(request)
        container, attached = "", None
        try:
            identity = Identity(
                self._places.instance,
                request.sandbox,
                request.tenant,
                request.names,
                request.policy_digest,
                uid,
            )
            settings = self._settings
            image = settings.gpu_image if policy.gpus and settings.gpu_image else settings.image
            parent = self._parent(request.tenant)
            spec = await self._engine.in_thread(
                lambda: container_spec(identity, policy, mounts, image=image, cgroup_parent=parent)
            )
            clock.step("prepare")
            stdio = policy.transport == "stdio"
            # From before the engine hears of a path until it has mounted it.
            async with self._held(mounts):
                clock.step("hold")
                container = await self._engine.create(spec)
                clock.step("create")
                attached = await self._engine.attach(container, stdin=stdio)
                clock.step("attach")
                record = _Record(
                    LaunchedSandbox(request.sandbox, request.tenant, request.names, container, uid), Tail()
                )
                # Known before it runs: its death may be reported before the start call returns.
                self._records[request.sandbox] = record
                await self._engine.start(container)
                clock.step("start")
            self._refusals.watch(await self._cgroup(record), record.refused)
            record.launched = replace(
                record.launched,
                stdio=attached if stdio else None,
                multiplexed=stdio,
                seconds=tuple(clock.steps),
            )
            if not stdio:
                self._group.start_soon(read_tail, attached, record.tail)
            return record.launched
        except BaseException:
            self._records.pop(request.sandbox, None)
            self._uids_taken.pop(request.sandbox, None)
            if attached is not None:
                attached.close()
            if container:
                with anyio.move_on_after(DEATH_WAIT_S, shield=True):
                    await self._engine.remove(container)
            raise

    @asynccontextmanager
    async def _held(self, mounts: Sequence[Mount]) -> AsyncIterator[None]:
        sources = [self._settings.own_path(mount.source) for mount in mounts]
        stack = ExitStack()
        try:
            await self._engine.in_thread(lambda: stack.enter_context(self._holder.held(sources)))
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await self._engine.in_thread(stack.close)

    async def _uid_for(self, request: SandboxRequest) -> int:
        owner = f"{request.tenant}/{request.group or request.names[0]}"
        async with self._assigning:
            live = self._live_under_others(request)
            uid = await self._engine.in_thread(lambda: self._uids.assign(owner, live))
            self._uids_taken[request.sandbox] = (uid, request)
        return uid

    def _live_under_others(self, request: SandboxRequest) -> frozenset[int]:
        """The uids that ``request`` may not have.

        A sandbox and its spare are one and the same request but for the id: same tenant, code, environment and policy.
        They share the uid, so that the files of the one are the other's when it takes its place.
        """
        return frozenset(
            uid
            for uid, other in self._uids_taken.values()
            if replace(other, sandbox=request.sandbox) != request
        )

    async def _test_runtimes(self) -> None:
        """Before anybody asks, so that the first sandbox need not wait."""
        for isolation in RUNTIMES:
            try:
                await self._engine.ask("test a runtime", partial(self._self_test.require, isolation))
            except StartError as error:
                log.warning("%s", error)

    async def stop(self, sandbox: SandboxId, *, grace_s: float = 0.0) -> Ending:
        """See ``Launcher.stop``."""
        record = self._records.get(sandbox)
        if record is None:
            return self._endings.get(sandbox, Ending())
        async with record.lock:
            if sandbox in self._endings:
                return self._endings[sandbox]
            with anyio.move_on_after(grace_s):
                await record.ended.wait()
            container, killed = record.launched.container, False
            if not record.ended.is_set():
                killed = await self._engine.kill(container)
                with anyio.move_on_after(DEATH_WAIT_S):
                    await record.ended.wait()
            state = await self._engine.inspect(container)
            await self._engine.remove(container)
            ending = Ending(
                exit_code=state.get("ExitCode") if state else record.exit_code,
                oom_killed=bool(state.get("OOMKilled")),
                oom_events=record.ooms,
                killed_by_us=killed,
                pids_refused=record.pids_refused,
                last_words=record.tail.text(),
            )
            self._endings[sandbox] = ending
            if len(self._endings) > _ENDINGS_KEPT:
                self._endings.popitem(last=False)
            del self._records[sandbox]
            self._uids_taken.pop(sandbox, None)
            self._refusals.look()
            return ending

    async def list(self) -> tuple[LaunchedSandbox, ...]:
        """See ``Launcher.list``."""
        return tuple(_from_engine(container) for container in await self._engine.containers())

    async def stats(self, sandbox: SandboxId) -> Usage:
        """See ``Launcher.stats``."""
        record = self._records.get(sandbox)
        if record is None or record.ended.is_set():
            return Usage()
        cgroup = await self._cgroup(record)
        return await self._engine.in_thread(cgroup.usage)

    async def _cgroup(self, record: _Record) -> Cgroup:
        if record.cgroup is None:
            container = record.launched.container
            state = await self._engine.inspect(container)
            parent = self._parent(record.launched.tenant)
            record.cgroup = await self._engine.in_thread(
                lambda: find(container, int(state.get("Pid") or 0), parent=parent)
            )
        return record.cgroup

    async def logs(self, sandbox: SandboxId, *, limit: int = 64 * 1024) -> str:
        """See ``Launcher.logs``."""
        record = self._records.get(sandbox)
        text = record.tail.text() if record else self._endings.get(sandbox, Ending()).last_words
        return text[-limit:]

    def events(self) -> AbstractAsyncContextManager[ObjectReceiveStream[LauncherEvent]]:
        """See ``Launcher.events``."""
        return self._listeners.listen()

    # -- events ----------------------------------------------------------------------------------------------------

    def _on_event(self, event: dict[str, Any]) -> None:
        container, action = event.get("id", ""), event.get("status", "")
        found = [item for item in self._records.items() if item[1].launched.container == container]
        if not found:
            return
        sandbox, record = found[0]
        if action == "oom":
            record.ooms += 1
            self._listeners.tell(LauncherEvent(sandbox, "oom"))
        elif action == "die" and not record.ended.is_set():
            code = event.get("Actor", {}).get("Attributes", {}).get("exitCode")
            record.exit_code = int(code) if code is not None else None
            record.ended.set()
            self._listeners.tell(LauncherEvent(sandbox, "died"))

    async def _recheck(self) -> None:
        """After a reconnect: who died while nobody listened."""
        for sandbox, record in list(self._records.items()):
            container = record.launched.container
            state = await self._engine.inspect(container)
            if not state.get("Running") and state.get("Status") != "created" and not record.ended.is_set():
                record.ended.set()
                self._listeners.tell(LauncherEvent(sandbox, "died"))

    # -- what it knows ---------------------------------------------------------------------------------------------

    def _parent(self, tenant: TenantId) -> str:
        if not self._settings.tenant_cgroups:
            return ENGINES_OWN
        return parent_for(self._engine.info, self._places.instance, tenant)

    def _policy(self, request: SandboxRequest) -> EffectivePolicy:
        if request.group:
            return self._policies.effective_group(SandboxGroup(request.group), request.tenant)
        return self._policies.effective(request.names[0], request.tenant)

    async def _stop_quietly(self, sandbox: SandboxId) -> None:
        try:
            await self.stop(sandbox)
        except StartError as error:
            log.error("sandbox %s may still run: %s", sandbox, error)  # noqa: TRY400


def _from_engine(container: dict[str, Any]) -> LaunchedSandbox:
    labels: dict[str, str] = container.get("Labels") or {}
    names = labels.get(f"{LABEL}.extensions", "")
    return LaunchedSandbox(
        sandbox=SandboxId(labels.get(f"{LABEL}.sandbox", "")),
        tenant=TenantId(labels.get(f"{LABEL}.tenant", "")),
        extensions=tuple(ExtensionName(name) for name in names.split(",") if name),
        container=container["Id"],
        uid=int(labels.get(f"{LABEL}.uid", "-1")),
        running=container.get("State") == "running",
    )


class _Clock:
    def __init__(self) -> None:
        self.steps: list[tuple[str, float]] = []
        self._last = time.perf_counter()

    def step(self, name: str) -> None:
        now = time.perf_counter()
        self.steps.append((name, now - self._last))
        self._last = now

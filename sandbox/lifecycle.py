"""One sandbox from its start to its end, whoever or whatever ends it.

starting ─▶ running ─▶ ending ─▶ gone
    └───────────────────▲ (a failed start ends like everything else)

``live`` is the one task that owns it: what the host opens for it (``openings.py``), container, conversation are made
there and taken down there. Everybody else calls ``end`` with a reason and waits for ``gone``; the first reason counts,
unless the kernel knows better (a worker that hung up because it was killed over its memory cap).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final

import anyio

from policies import EffectivePolicy, ExtensionName, SandboxId, TenantId, own_folder
from sandbox import messages
from sandbox.audit import Entry
from sandbox.cpu_use import CpuUse
from sandbox.disk_patrol import DiskPatrol
from sandbox.endings import ended_copy, final_error, lost, name_those_at_work
from sandbox.errors import ProtocolViolationError, SandboxError, StartError
from sandbox.following import SentAhead
from sandbox.introduction import greet, slow_modules
from sandbox.launcher import failure
from sandbox.launcher.verbs import Ending, LaunchedSandbox, SandboxRequest, Usage
from sandbox.logbook import Logbook
from sandbox.metering import Metering
from sandbox.observation import Observation
from sandbox.occupancy import Occupancy
from sandbox.openings import Openings
from sandbox.peer import ConversationEndedError, Peer, PendingCall
from sandbox.rates import Allowance
from sandbox.services import Services
from sandbox.streams import EndOfStreamError
from sandbox.surroundings import Surroundings
from sandbox.watching import Watch

__all__ = ["Sandbox", "ended_copy"]

from sandbox.turns import Turn

log = logging.getLogger(__name__)

TEAR_DOWN_S: Final = 40.0
"""Bounds everything after the decision to end a sandbox."""
_OWN_EXIT_S: Final = 2.0
"""For a worker that hung up: from there to its exit, so that its own exit code is seen."""


class Sandbox(Occupancy):
    """One sandbox. ``live`` runs its life; ``ended_by`` is set when it is gone."""

    def __init__(
        self,
        request: SandboxRequest,
        policy: EffectivePolicy,
        around: Surroundings,
        *,
        extension_of_call: Callable[[int], ExtensionName | None],
        node_of_call: Callable[[int], tuple[ExtensionName, str, str] | None] = lambda _: None,
        watch: Watch | None = None,
        ahead: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.request = request
        self.watch = watch
        self.policy = policy
        self.started_at = datetime.now(UTC)
        self.logbook = Logbook(max_bytes=policy.limits.log_bytes, lines_per_s=policy.limits.log_rate)
        self.names = failure.Names(request.names, policy)
        self.launched: LaunchedSandbox | None = None
        self.hello: messages.Hello | None = None
        self.usage = Usage()
        self.id: SandboxId = request.sandbox
        self.is_ending = False
        """Whether it has ended or is about to: no new call may begin."""
        self.at_work: dict[PendingCall, tuple[object, ExtensionName]] = {}
        """What its worker was asked, of which extension, and has not answered yet."""
        self.leaving = anyio.Event()
        """Set when it shall end as soon as its calls are done; what stays open for long does not wait for its end."""
        self.turn = Turn()
        """Held by the one synchronous node function that runs."""
        self.following: SentAhead | None = None
        """The call that its worker has, and that comes after the one whose turn it is."""
        self.ended_by: SandboxError | None = None
        self.is_deliberate = False
        """Ended by our own decision, not by anything it did."""
        self.seconds: dict[str, float] = {}
        self._around = around
        self._ahead = ahead
        self._in_use = anyio.Event()
        self._prepared = anyio.Event()
        if ahead is None:
            self._in_use.set()
        self._died = anyio.Event()
        self._ready = anyio.Event()
        self._gone = anyio.Event()
        self._closing = anyio.Event()
        self._notes_allowed = Allowance(rate=0.2, burst=20.0)
        self._starting = anyio.CancelScope()
        self._reason: SandboxError | None = None
        self._peer: Peer | None = None
        self._openings = Openings(request, policy, around, told=self._tell, watch=watch)
        self._disk = DiskPatrol(request, policy, around, watch)
        self.on_busy = self._disk.begin_call
        self._seen = Observation(request.sandbox, watch, around.launcher, self._disk)
        self._cpu = CpuUse()
        self.services = Services(
            request.sandbox,
            request.tenant,
            policy,
            around.store,
            self.logbook,
            around.events,
            extension_of_call,
            own_folder=own_folder(request.names[0], request.group),
            node_of_call=node_of_call,
            states=around.states,
            resources=around.resources,
            watch=watch,
        )

    # -- seen from outside -----------------------------------------------------------------------------------------

    @property
    def tenant(self) -> TenantId:
        """Whose it is."""
        return self.request.tenant

    @property
    def is_starting(self) -> bool:
        """Whether its worker has not said hello yet."""
        return not self._ready.is_set()

    @property
    def is_spare(self) -> bool:
        """Whether it waits for its first use: nothing of its extension has been loaded."""
        return not self._in_use.is_set()

    def put_to_use(self) -> None:
        """A spare becomes a sandbox like every other."""
        self.used_at = self._cpu.read_at = time.monotonic()  # until now its GPUs were held for nobody
        self._in_use.set()

    async def prepared(self) -> None:
        """Wait until a spare has imported what it was told to, or has ended."""
        await self._prepared.wait()

    @property
    def is_prepared(self) -> bool:
        """Whether nothing is left to do before its first use."""
        return self._prepared.is_set()

    @property
    def peer(self) -> Peer:
        """The conversation with its worker."""
        if self._peer is None:
            raise RuntimeError("the sandbox has not started")
        return self._peer

    async def ready(self) -> None:
        """Wait until the worker has said hello.

        Raises:
            SandboxError: it ended before.
        """
        await self._ready.wait()
        if self.is_ending:
            raise await self.final_error()

    def end(self, reason: SandboxError, *, deliberate: bool = False) -> None:
        """Begin its end; returns at once. Later reasons are ignored."""
        if self.is_ending:
            return
        self._reason = reason
        self.is_deliberate = deliberate
        self._close()
        self._starting.cancel()
        if self._peer is not None:
            self._peer.hang_up()

    def _close(self) -> None:
        self.is_ending = True
        self._closing.set()
        self.leaving.set()

    async def gone(self) -> None:
        """Wait until no process of it is left. Bounded: tearing down is."""
        await self._gone.wait()

    async def final_error(self) -> SandboxError:
        """Wait for the end and say why it came."""
        await self._gone.wait()
        return self.ended_by or failure.stopped(self.names, "it ended")

    @property
    def is_working(self) -> bool:
        """Whether it is in use, or a process that a call left behind works on while nobody waits for anything."""
        return self.in_use or self._cpu.is_restless

    def never_started(self, error: SandboxError) -> None:
        """There was no room for it."""
        self.end(error, deliberate=True)
        self.ended_by = error
        self._ready.set()
        self._prepared.set()
        self._gone.set()

    def note_death(self) -> None:
        """The engine says that it is dead."""
        self._died.set()
        if self._peer is not None:
            self._peer.hang_up()

    def note_oom(self) -> None:
        """The kernel killed a process in it, perhaps not the worker."""
        error = failure.out_of_memory(self.names)
        self._tell(str(error))
        if self.policy.isolation == "gvisor":
            # What was killed is a process of gVisor's, not of the pack's; its kernel may wait for that one for ever.
            self.end(error)

    # -- its life ----------------------------------------------------------------------------------------------------

    async def live(self) -> None:
        """Start it, serve it until something ends it, and take everything down. Never raises for the sandbox's sake."""
        hung_up = False
        try:
            try:
                with self._starting:
                    await self._start()
                if not self.is_ending:
                    hung_up = await self._serve()
            except SandboxError as error:
                self.end(error)
            except (EndOfStreamError, ConversationEndedError):
                hung_up = True
        except anyio.get_cancelled_exc_class():
            self.end(failure.stopped(self.names, "Ringfence is shutting down"), deliberate=True)
            raise
        except Exception as error:
            log.exception("sandbox %s failed unexpectedly", self.id)
            self.end(SandboxError(f"the sandbox of {self.names.who} failed: {type(error).__name__}"))
        finally:
            self._close()
            with anyio.CancelScope(shield=True):
                await self._tear_down(hung_up=hung_up)

    async def _start(self) -> None:
        began = time.perf_counter()
        await self._openings.open()
        self.launched = await self._around.launcher.ensure(self.request)
        self._cpu.read_at = time.monotonic()
        self._openings.admit(self.launched)
        self.seconds.update(self.launched.seconds)
        connecting = time.perf_counter()
        self._peer = await self._openings.connect(self.launched, self._died, self.services)
        self.seconds["connect"] = time.perf_counter() - connecting
        self.seconds["total"] = time.perf_counter() - began

    async def _serve(self) -> bool:
        """Serve until the end; True when the worker hung up by itself."""
        hung_up = False
        async with anyio.create_task_group() as group:

            async def read() -> None:
                nonlocal hung_up
                try:
                    await self.peer.run()
                except EndOfStreamError:
                    hung_up = True
                except ProtocolViolationError as error:
                    self.end(error)
                self.is_ending = True
                self._closing.set()
                group.cancel_scope.cancel()

            group.start_soon(read)
            group.start_soon(self._openings.serve)
            self._seen.began()
            group.start_soon(self._seen.follow)
            try:
                await self._greet()
            except ConversationEndedError:
                pass  # the reader knows why
            except SandboxError as error:
                self.end(error)
            group.start_soon(self._prepare, self._ahead or ())
            group.start_soon(self._while_in_use)
            await self._closing.wait()
            group.cancel_scope.cancel()
        return hung_up and self._reason is None

    async def _greet(self) -> None:
        began = time.perf_counter()
        self.hello = await greet(
            self.peer, self.id, self.policy, self.names, is_watched=self.watch is not None
        )
        self.seconds["hello"] = time.perf_counter() - began
        self._ready.set()

    async def observe(self) -> None:
        """Let the watch over it see what it has used so far."""
        await self._seen.look(self._peer)

    async def _prepare(self, modules: Sequence[str]) -> None:
        """Import ahead of need what its extension will want."""
        if modules:
            began = time.perf_counter()
            await self.slow_modules(modules, self.policy.timeouts.import_s)
            self.seconds["prepare"] = time.perf_counter() - began
        self._prepared.set()

    async def slow_modules(self, wanted: Sequence[str], limit_s: float) -> frozenset[str] | None:
        """Have ``wanted`` imported; which slow modules are imported then. None: it does not say, or too late."""
        try:
            return await slow_modules(self.peer, wanted, limit_s, self._tell)
        except ProtocolViolationError as error:
            self.end(error)
            return None

    async def _while_in_use(self) -> None:
        await self._in_use.wait()
        async with anyio.create_task_group() as group:
            group.start_soon(self._watch_disk)
            idle_s = self.policy.timeouts.idle_s
            await self.idle_for(idle_s)
            self.end(failure.stopped(self.names, f"it was idle for {idle_s:.0f} s"), deliberate=True)

    def is_to_be_metered(self, metering: Metering, now: float) -> bool:
        """Whether it may have used what nobody was told of: one in which nothing works is asked less often, where its
        time has no limit."""
        return (
            self.in_use
            or self.is_starting
            or self._cpu.is_due(now, self.used_at)
            or metering.is_timed(self.tenant)
        )

    async def meter(self, metering: Metering) -> str | None:
        """Tell who counts it what was used since the last time; why its tenant may use no more, when that is so."""
        usage = await self._around.launcher.stats(self.id)
        before, now = self._cpu.read_at, time.monotonic()
        used = self._cpu.read(usage.cpu_s, now)
        if self.is_spare:
            return None  # ours to have started, not the tenant's
        self._cpu.used(used, is_idle=not (self.in_use or self.is_starting))
        return metering.charge_time(self.tenant, used, (now - before) * len(self.policy.gpus))

    async def _watch_disk(self) -> None:
        if self.launched is not None:
            reason = await self._disk.walk(self.launched.uid, lambda: self.in_use)
            if reason is not None:
                self.end(reason)

    async def _tear_down(self, *, hung_up: bool) -> None:
        ending = Ending()
        with anyio.move_on_after(TEAR_DOWN_S) as limit:
            # To a healthy worker the end of the stream is the bye: it leaves, within the policy's grace.
            if self._peer is not None:
                self._peer.hang_up()
            ending = await self._stop_container(hung_up=hung_up)
            self.services.close()
            await self._openings.close()
        if limit.cancelled_caught:
            log.error("sandbox %s could not be taken down within %.0f s", self.id, TEAR_DOWN_S)
        self.ended_by = final_error(self._reason, ending, self.names)
        if self.request.group and self.at_work and not self.is_deliberate:
            name_those_at_work(self.ended_by, list(self.at_work.values()))
        self._seen.ended(self._peer, None if self.is_deliberate else self.ended_by)
        self._ready.set()
        self._prepared.set()
        self._gone.set()
        seconds = (datetime.now(UTC) - self.started_at).total_seconds()
        deliberate = self.is_deliberate
        self.note(lost(self.request, self.policy, self.ended_by, is_deliberate=deliberate, seconds=seconds))
        log.info(
            "sandbox %s of tenant %s ended after %.1f s: %s", self.id, self.tenant, seconds, self.ended_by
        )

    def may_note(self) -> bool:
        """False when its pack makes so many records that they would drown others."""
        return self._notes_allowed.take()

    def _tell(self, text: str) -> None:
        """Say something to whoever reads its log."""
        self.logbook.add("ringfence", text)

    def note(self, entry: Entry) -> None:
        """Have it recorded in the audit log."""
        self._around.audit(entry)

    async def _stop_container(self, *, hung_up: bool) -> Ending:
        if self.launched is None:
            return Ending()
        grace_s = self.policy.timeouts.grace_s if self.is_deliberate else _OWN_EXIT_S if hung_up else 0.0
        try:
            ending = await self._around.launcher.stop(self.id, grace_s=grace_s)
        except StartError as error:
            log.error("sandbox %s may still run: %s", self.id, error)  # noqa: TRY400
            return Ending()
        if words := ending.last_words or self._openings.last_words():
            self.logbook.add("stderr", words)
        return ending

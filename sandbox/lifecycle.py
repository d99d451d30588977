"""One sandbox from its start to its end, whoever or whatever ends it.

starting ─▶ running ─▶ ending ─▶ gone
    └───────────────────▲ (a failed start ends like everything else)

``live`` is the one task that owns it: directories, socket, container, conversation are made there and taken down
there. Everybody else calls ``end`` with a reason and waits for ``gone``; the first reason counts, unless the kernel
knows better (a worker that hung up because it was killed over its memory cap).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import anyio
import anyio.to_thread

from policies import EffectivePolicy, ExtensionName, SandboxId, TenantId, own_folder, safe_text
from runtime import wire
from sandbox import messages
from sandbox.audit import AuditEvent, Entry, Outcome
from sandbox.audit.denial import at_limit
from sandbox.audit.record import nowhere
from sandbox.calls import EventSink
from sandbox.disk_watch import (
    BUSY_LOOK_S,
    IDLE_LOOK_S,
    LOOK_SHARE,
    DiskWatch,
    Found,
    disk_threads,
    writable_directories,
)
from sandbox.egress import EgressGate, EgressOffice, unwatched
from sandbox.errors import EndedError, ProtocolViolationError, SandboxError, StartError
from sandbox.figures import human_bytes
from sandbox.launcher import failure
from sandbox.launcher.attachment import Tail
from sandbox.launcher.verbs import Ending, LaunchedSandbox, Launcher, SandboxRequest, Usage
from sandbox.logbook import Logbook
from sandbox.metering import Metering
from sandbox.node_state import NodeStates
from sandbox.peer import ConversationEndedError, Peer, RemoteCallError
from sandbox.places import Places
from sandbox.rates import Allowance
from sandbox.resources import ResourceShelf
from sandbox.services import Services
from sandbox.streams import AttachedStream, ByteStream, Door, EndOfStreamError, SocketStream
from sandbox.tensors import TensorStore
from sandbox.watching import LOOK_S, Watch

log = logging.getLogger(__name__)

TEAR_DOWN_S: Final = 40.0
"""Bounds everything after the decision to end a sandbox."""
_GOFER_UID: Final = 0
_OWN_EXIT_S: Final = 2.0
"""For a worker that hung up: from there to its exit, so that its own exit code is seen."""
_RESTLESS_S: Final = 1.0
"""CPU time that an idle worker does not use."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every sandbox of a manager works with."""

    launcher: Launcher
    store: TensorStore
    places: Places
    events: EventSink | None
    states: NodeStates | None = None
    resources: ResourceShelf | None = None
    egress: EgressOffice | None = None
    metering: Metering | None = None
    audit: Callable[[Entry], None] = nowhere


class Sandbox:
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
        self.request = request
        self.watch = watch
        self.policy = policy
        self.started_at = datetime.now(UTC)
        self.logbook = Logbook(max_bytes=policy.limits.log_bytes, lines_per_s=policy.limits.log_rate)
        self.names = failure.Names(request.names, policy)
        self.launched: LaunchedSandbox | None = None
        self.hello: messages.Hello | None = None
        self.usage = Usage()
        self.at_work: list[tuple[object, ExtensionName]] = []
        """What its worker was asked, of which extension, and has not answered yet."""
        self.calls = 0
        """Calls that run or wait for their turn; not idle while there are any."""
        self.kept = 0
        """WebSockets on which something is said: not idle either, but no call whose disk is counted."""
        self.asks = 0
        """Things that its packs were asked to do and have not done yet; describing their nodes is none."""
        self.asked = 0
        """Those that they have done."""
        self.used_at = time.monotonic()
        self._quiet: anyio.Event | None = None
        """Set when no call runs any more; there while somebody waits for that."""
        self.on_quiet: Callable[[], None] = lambda: None
        """Called when its last call has ended."""
        self.leaving = anyio.Event()
        """Set when it shall end as soon as its calls are done; what stays open for long does not wait for its end."""
        self.turn = asyncio.Lock()
        """Held by the one synchronous node function that runs."""
        self.ended_by: SandboxError | None = None
        self.is_deliberate = False
        """Ended by our own decision, not by anything it did."""
        self.seconds: dict[str, float] = {}
        self._around = around
        self._store = around.store
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
        self._stderr = Tail()
        self._gate: EgressGate | None = None
        self._disk: DiskWatch | None = None
        self._cpu_s = 0.0
        self._idle_cpu_s = 0.0
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
    def id(self) -> SandboxId:
        """Its id."""
        return self.request.sandbox

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
        self.used_at = time.monotonic()
        self._in_use.set()

    async def prepared(self) -> None:
        """Wait until a spare has imported what it was told to, or has ended."""
        await self._prepared.wait()

    @property
    def is_prepared(self) -> bool:
        """Whether nothing is left to do before its first use."""
        return self._prepared.is_set()

    @property
    def is_ending(self) -> bool:
        """Whether it has ended or is about to: no new call may begin."""
        return self._closing.is_set()

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
        if self._closing.is_set():
            return
        self._reason = reason
        self.is_deliberate = deliberate
        self._closing.set()
        self.leaving.set()
        self._starting.cancel()
        if self._peer is not None:
            self._peer.hang_up()

    async def gone(self) -> None:
        """Wait until no process of it is left. Bounded: tearing down is."""
        await self._gone.wait()

    async def final_error(self) -> SandboxError:
        """Wait for the end and say why it came."""
        await self._gone.wait()
        return self.ended_by or failure.stopped(self.names, "it ended")

    @property
    def in_use(self) -> bool:
        """Whether anybody works with it: neither idle nor retired then."""
        return self.calls > 0 or self.kept > 0

    @property
    def at_rest(self) -> int | None:
        """How much its packs have done; the same number again: nothing since. None while they do something."""
        return None if self.asks else self.asked

    @contextmanager
    def asking(self) -> Iterator[None]:
        """A pack does something that may change what it says of its nodes."""
        self.asks += 1
        try:
            yield
        finally:
            self.asks -= 1
            self.asked += 1

    @property
    def is_working(self) -> bool:
        """Whether it is in use, or a process that a call left behind works on while nobody waits for anything."""
        return self.in_use or self._idle_cpu_s > _RESTLESS_S

    @contextmanager
    def busy(self) -> Iterator[None]:
        """A call: in use meanwhile."""
        self.begin()
        try:
            yield
        finally:
            self.done()

    def begin(self) -> None:
        """It is in use until ``done``, which whoever calls this calls once."""
        self.calls += 1
        if self.calls == 1 and self._disk is not None:
            self._disk.begin_call()

    def done(self) -> None:
        """One call less."""
        self.calls -= 1
        self._used()

    @contextmanager
    def keep(self) -> Iterator[None]:
        """In use meanwhile, for however long; each call beside it is still counted by itself."""
        self.kept += 1
        try:
            with self.asking():
                yield
        finally:
            self.kept -= 1
            self._used()

    def _used(self) -> None:
        self.used_at = time.monotonic()
        if not self.in_use:
            if self._quiet is not None:
                self._quiet.set()
                self._quiet = None
            self.on_quiet()

    async def quiet(self) -> None:
        """Wait until it is not in use."""
        while self.in_use:
            if self._quiet is None:
                self._quiet = anyio.Event()
            await self._quiet.wait()

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
        self.logbook.add("ringfence", str(error))
        if self.policy.isolation == "gvisor":
            # What was killed is a process of gVisor's, not of the pack's; its kernel may wait for that one for ever.
            self.end(error)

    # -- its life ----------------------------------------------------------------------------------------------------

    async def live(self) -> None:
        """Start it, serve it until something ends it, and take everything down. Never raises for the sandbox's sake."""
        door = Door(self._around.places.socket_directory(self.id))
        hung_up = False
        try:
            try:
                with self._starting:
                    await self._start(door)
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
            self._closing.set()
            self.leaving.set()
            with anyio.CancelScope(shield=True):
                await self._tear_down(door, hung_up=hung_up)

    async def _start(self, door: Door) -> None:
        began = time.perf_counter()
        policy = self.policy
        # GPU: a driver can pin pages, which a lease does not see. gVisor keeps files open: the lease is never granted.
        zero_copy = policy.isolation == "runc" and not policy.gpus
        await self._store.register(
            self.id,
            self.tenant,
            quota=policy.shared_memory,
            quota_name=str(policy.source("shared_memory")),
            zero_copy=zero_copy,
        )
        if policy.transport == "socket":
            await anyio.to_thread.run_sync(door.open)
        self._gate = self._egress_gate()
        if self._gate is not None:
            await self._gate.open()
        self.launched = await self._around.launcher.ensure(self.request)
        if self._gate is not None:
            self._gate.uid = _who_connects(policy, self.launched)
        self.seconds.update(self.launched.seconds)
        connecting = time.perf_counter()
        with anyio.move_on_after(policy.timeouts.import_s) as limit:
            stream = await self._connect(door, self.launched)
            self.seconds["connect"] = time.perf_counter() - connecting
            self._peer = Peer(
                stream,
                on_request=self.services.request,
                on_notification=self.services.notification,
                frame_limit=policy.limits.message_bytes,
            )
        if limit.cancelled_caught:
            raise failure.too_slow(
                self.names, "its worker's start", "timeouts.import", policy.timeouts.import_s
            )
        self.seconds["total"] = time.perf_counter() - began

    def _egress_gate(self) -> EgressGate | None:
        if self._around.egress is not None:
            return self._around.egress.gate(
                self.request,
                self.policy,
                lambda text: self.logbook.add("ringfence", text),
                unwatched if self.watch is None else self.watch.reached,
            )
        if self.policy.network:
            raise StartError(
                f"the policy of {self.names.who} allows a network, and this host has no proxy for it",
                f"write 'network: none' ({self.policy.source('network')})",
            )
        return None

    async def _connect(self, door: Door, launched: LaunchedSandbox) -> ByteStream:
        if launched.stdio is not None:
            stream = await SocketStream.of(launched.stdio)
            return AttachedStream(stream, self._stderr.add) if launched.multiplexed else stream
        admitted: SocketStream | None = None
        refused: ProtocolViolationError | None = None
        try:
            async with anyio.create_task_group() as group:

                async def give_up() -> None:
                    await self._died.wait()
                    group.cancel_scope.cancel()

                group.start_soon(give_up)
                try:
                    admitted = await door.admit(_who_connects(self.policy, launched))
                except ProtocolViolationError as error:
                    refused = error
                group.cancel_scope.cancel()
        except BaseException:
            if admitted is not None:
                admitted.close()
            raise
        if refused is not None:
            raise refused
        if admitted is None:
            raise EndOfStreamError
        return admitted

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
                self._closing.set()
                group.cancel_scope.cancel()

            group.start_soon(read)
            if self._gate is not None:
                group.start_soon(self._gate.serve)
            if self.watch is not None:
                self.watch.began(self.id)
                group.start_soon(self._watched, self.watch)
            try:
                await self._greet()
            except ConversationEndedError:
                pass  # the reader knows why
            group.start_soon(self._prepare, self._ahead or ())
            group.start_soon(self._while_in_use)
            await self._closing.wait()
            group.cancel_scope.cancel()
        return hung_up and self._reason is None

    async def _greet(self) -> None:
        began = time.perf_counter()
        limit_s = self.policy.timeouts.import_s
        params = {
            "protocol": wire.PROTOCOL_VERSION,
            "sandbox": self.id,
            "out_limit": self.policy.shared_memory,
            **({"watch": True} if self.watch is not None else {}),
        }
        try:
            with anyio.fail_after(limit_s):
                self.hello = messages.hello(await self.peer.call(wire.HELLO, params))
        except TimeoutError:
            self.end(failure.too_slow(self.names, "its worker's hello", "timeouts.import", limit_s))
            return
        except ProtocolViolationError as error:
            self.end(error)
            return
        except RemoteCallError as error:
            said = safe_text(error.error.message, 500)
            self.end(ProtocolViolationError(f"it refused hello: {said}", "rebuild the node image (make up)"))
            return
        self.seconds["hello"] = time.perf_counter() - began
        self._ready.set()

    async def _watched(self, watch: Watch) -> None:
        while True:
            watch.used(self.id, await self._around.launcher.stats(self.id))
            await anyio.sleep(LOOK_S)

    async def observe(self) -> None:
        """Look once more, for the watch over it: what the last call used is not known otherwise."""
        watch, disk = self.watch, self._disk
        if watch is None or self._peer is None:
            return
        watch.used(self.id, await self._around.launcher.stats(self.id))
        watch.sent(self._peer.longest)
        if disk is not None:
            self._note_disk(disk, await anyio.to_thread.run_sync(disk.look, limiter=disk_threads()))

    def _note_disk(self, disk: DiskWatch, found: Found) -> None:
        if self.watch is not None and disk.base is not None:
            self.watch.grew(found.bytes - disk.base.bytes, found.files - disk.base.files)
            self.watch.wrote(self.policy, disk.added(found))

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
            with anyio.fail_after(limit_s):
                return messages.prepared(await self.peer.call(wire.PREPARE, {"modules": list(wanted)}))
        except ProtocolViolationError as error:
            self.end(error)
        except (TimeoutError, ConversationEndedError):
            pass  # a load that comes waits for its turn, under its own limit
        except RemoteCallError as error:
            self.logbook.add("ringfence", f"not prepared: {safe_text(error.error.message, 500)}")
        return None

    async def _while_in_use(self) -> None:
        await self._in_use.wait()
        async with anyio.create_task_group() as group:
            group.start_soon(self._end_when_idle)
            group.start_soon(self._watch_disk)

    async def meter(self, metering: Metering, elapsed_s: float) -> str | None:
        """Tell who counts it what was used since the last time; why its tenant may use no more, when that is so."""
        usage = await self._around.launcher.stats(self.id)
        cpu_s = self._cpu_s if usage.cpu_s is None else usage.cpu_s
        used, self._cpu_s = max(0.0, cpu_s - self._cpu_s), cpu_s
        if self.is_spare:
            return None  # ours to have started, not the tenant's
        self._idle_cpu_s = 0.0 if self.in_use or self.is_starting else self._idle_cpu_s + used
        return metering.charge_time(self.tenant, used, elapsed_s * len(self.policy.gpus))

    async def _watch_disk(self) -> None:
        launched = self.launched
        if launched is None:
            return
        roots = writable_directories(self._around.places.tenant(self.tenant), self.policy, self.request)
        if not roots:
            return
        watch = self._disk = DiskWatch(roots, launched.uid, self.policy.disk_files)
        while True:
            began = time.monotonic()
            found = await anyio.to_thread.run_sync(watch.look, limiter=disk_threads())
            took = time.monotonic() - began
            reason = self._disk_reason(watch, found)
            if reason is not None:
                self.end(reason)
                return
            now = time.monotonic()
            soonest = now + max(BUSY_LOOK_S, LOOK_SHARE * took)
            # A call after a pause: look from its beginning on.
            await watch.pause(soonest, soonest if self.in_use else max(soonest, now + IDLE_LOOK_S))

    def _disk_reason(self, watch: DiskWatch, found: Found) -> EndedError | None:
        if found.hidden:
            return failure.hides_files(self.names, found.hidden)
        nbytes, files, since_last = watch.grown(found)
        self._note_disk(watch, found)
        if nbytes > self.policy.disk:
            return failure.over_disk(
                self.names, "disk", human_bytes(self.policy.disk), f"{human_bytes(nbytes)} in one call"
            )
        if files > self.policy.disk_files:
            limit = str(self.policy.disk_files)
            return failure.over_disk(
                self.names, "disk_files", limit, f"{files} files and directories in one call"
            )
        metering = self._around.metering
        over = metering.charge_disk(self.tenant, since_last) if metering and since_last else None
        return failure.over_quota(self.names, over) if over and since_last > 0 else None

    async def _end_when_idle(self) -> None:
        idle_s = self.policy.timeouts.idle_s
        while True:
            left = self.used_at + idle_s - time.monotonic() if not self.in_use else idle_s
            if left <= 0:
                self.end(failure.stopped(self.names, f"it was idle for {idle_s:.0f} s"), deliberate=True)
                return
            await anyio.sleep(left)

    async def _tear_down(self, door: Door, *, hung_up: bool) -> None:
        ending = Ending()
        with anyio.move_on_after(TEAR_DOWN_S) as limit:
            # To a healthy worker the end of the stream is the bye: it leaves, within the policy's grace.
            if self._peer is not None:
                self._peer.hang_up()
            ending = await self._stop_container(hung_up=hung_up)
            self.services.close()
            await self._store.unregister(self.id)
            await door.remove()
            if self._gate is not None:
                await self._gate.remove()
        if limit.cancelled_caught:
            log.error("sandbox %s could not be taken down within %.0f s", self.id, TEAR_DOWN_S)
        self.ended_by = self._final(ending)
        if self.request.group and self.at_work and not self.is_deliberate:
            # The members share one process: whose node ran is the first thing to look at.
            running = [f"{what} of extension '{extension}'" for what, extension in self.at_work[:4]]
            self.ended_by.message += f"; {', '.join(running)} ran at that time"
        if self.watch is not None:
            if self._peer is not None:
                self.watch.sent(self._peer.longest)
            if not self.is_deliberate:
                self.watch.ended(self.ended_by)
        self._ready.set()
        self._prepared.set()
        self._gone.set()
        self._note_end(self.ended_by)
        log.info(
            "sandbox %s of tenant %s ended after %.1f s: %s",
            self.id,
            self.tenant,
            (datetime.now(UTC) - self.started_at).total_seconds(),
            self.ended_by,
        )

    def may_note(self) -> bool:
        """False when its pack makes so many records that they would drown others."""
        return self._notes_allowed.take()

    def note(self, entry: Entry) -> None:
        """Have it recorded in the audit log."""
        self._around.audit(entry)

    def _note_end(self, error: SandboxError) -> None:
        limit = error.limit if isinstance(error, EndedError) else error.code
        denied = at_limit(limit, error.message, self.policy, self.request.names)
        self.note(
            Entry(
                AuditEvent.SANDBOX_LOST,
                Outcome.DENIED if denied else Outcome.OK if self.is_deliberate else Outcome.FAILED,
                tenant=self.tenant,
                extensions=self.request.names,
                sandbox=self.id,
                policy=self.policy.digest(),
                text=error.message,
                **denied,
                details={
                    "limit": limit,
                    "figure": error.figure if isinstance(error, EndedError) else "",
                    "seconds": round((datetime.now(UTC) - self.started_at).total_seconds(), 3),
                },
            )
        )

    async def _stop_container(self, *, hung_up: bool) -> Ending:
        if self.launched is None:
            return Ending()
        grace_s = self.policy.timeouts.grace_s if self.is_deliberate else _OWN_EXIT_S if hung_up else 0.0
        try:
            ending = await self._around.launcher.stop(self.id, grace_s=grace_s)
        except StartError as error:
            log.error("sandbox %s may still run: %s", self.id, error)  # noqa: TRY400
            return Ending()
        words = self._stderr.text()
        if ending.last_words or words:
            self.logbook.add("stderr", ending.last_words or words)
        return ending

    def _final(self, ending: Ending) -> SandboxError:
        reason = self._reason
        if reason is None:
            return failure.explain(ending, self.names)
        if isinstance(reason, ProtocolViolationError):
            if ending.oom_killed:
                return failure.out_of_memory(self.names)
            return ProtocolViolationError(
                f"{self.names.who} broke the protocol and was ended: {reason.message}", reason.hint
            )
        return reason


def _who_connects(policy: EffectivePolicy, launched: LaunchedSandbox) -> int:
    """The uid that the kernel names for connections of the sandbox: its worker's, and those to its proxy.

    Under gVisor ``connect`` is made by its gofer, which is the engine's root; that the connection comes
    from this sandbox then rests on its directory, which is mounted into no other.
    """
    return _GOFER_UID if policy.isolation == "gvisor" else launched.uid


def ended_copy(error: SandboxError, *, call_started: bool) -> SandboxError:
    """The same error for one more caller.

    Exceptions collect tracebacks, so tasks do not share one; and the timeout of one call is to all others only the
    end of their sandbox.
    """
    if isinstance(error, EndedError):
        return EndedError(
            error.message, error.hint, limit=error.limit, figure=error.figure, call_started=call_started
        )
    copy = type(error).__new__(type(error), *error.args)
    copy.__dict__.update(error.__dict__)
    return copy

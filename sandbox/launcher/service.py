"""The launcher's server: a Unix socket, one host, and nothing that the policies on disk do not allow.

Whoever connects must be the host's uid. A host says ``attach`` first and keeps that connection: it gets events there,
and the sandboxes are its own. They end when another host attaches (the one before is dead), when nobody has come back
for ``orphan_s``, or when the launcher ends. Every request has a connection of its own; hanging up takes it back.
Whatever a host sends is bounded: bytes, connections, time to say what it wants, sandboxes and builds at once.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio
import anyio.abc
import anyio.to_thread
from anyio.abc import TaskStatus, UNIXSocketStream

from policies import ExtensionName, PolicyError, RingfenceError, SandboxId, TenantId, safe_text
from runtime.wire import FrameError
from sandbox.audit import AuditWriter
from sandbox.errors import RuntimeRefusedError, StartError
from sandbox.launcher import build_verb as verb
from sandbox.launcher import channel
from sandbox.launcher.gate import Gate, Part
from sandbox.launcher.notes import Notes
from sandbox.launcher.verbs import LaunchedSandbox, Launcher
from sandbox.rates import Allowance

log = logging.getLogger(__name__)

T = TypeVar("T")

_EVENTS_KEPT: Final = 10_000
_SEND_S: Final = 30.0
"""For a host that does not take its answer."""
_STOPPED_S: Final = 90.0


def own_version() -> str:
    """Of the installed distribution."""
    try:
        return metadata.version("ringfence")
    except metadata.PackageNotFoundError:
        return "not installed"


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """What one host may ask for at once; no request changes these."""

    sandboxes: int = 32
    builds: int = 4
    connections: int = 256
    request_s: float = 10.0
    """From connecting to the end of the request."""
    orphan_s: float = 30.0
    """How long sandboxes outlive the connection of their host."""
    host_uid: int = field(default_factory=os.geteuid)


@dataclass(slots=True)
class _Host:
    """The host that attached last."""

    session: str
    gone: anyio.Event = field(default_factory=anyio.Event)
    """Set when its standing connection ends, or another takes its place."""
    returned: anyio.Event = field(default_factory=anyio.Event)
    """Set when it attaches again."""
    live: set[SandboxId] = field(default_factory=set)
    """Sandboxes it asked for and has not stopped: each may have a container."""
    parts: dict[SandboxId, Part] = field(default_factory=dict)
    """Of those, what each takes of what its tenant may have."""
    starting: set[SandboxId] = field(default_factory=set)
    unwanted: set[SandboxId] = field(default_factory=set)
    """Of those, what it has stopped meanwhile."""
    builds: int = 0
    jobs: set[str] = field(default_factory=set)
    requests: set[anyio.CancelScope] = field(default_factory=set)
    """Of all that it asked for and that is still under way."""
    settled: anyio.Event = field(default_factory=anyio.Event)
    """Set, and replaced, whenever one of them is over."""

    async def answering(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do one request's work, which ``take_back`` ends."""
        with anyio.CancelScope() as scope:
            self.requests.add(scope)
            try:
                await work()
            finally:
                self.requests.discard(scope)
                self.settled.set()
                self.settled = anyio.Event()

    async def take_back(self) -> None:
        """End every request that is under way, and wait until it has put away what it began."""
        for scope in list(self.requests):
            scope.cancel()
        while self.requests:
            await self.settled.wait()

    def forget(self, sandbox: SandboxId) -> None:
        """It has no container any more."""
        self.live.discard(sandbox)
        self.parts.pop(sandbox, None)


class LauncherService:
    """Serves one launcher and one builder; ``run`` until cancelled."""

    def __init__(
        self,
        path: Path,
        launcher: Launcher,
        builder: verb.EnvironmentBuilder,
        gate: Gate,
        limits: ServiceLimits | None = None,
        audit: AuditWriter | None = None,
    ) -> None:
        self._notes = Notes(audit or AuditWriter(None, "launcher"))
        self._path = path
        self._launcher = launcher
        self._builder = builder
        self._gate = gate
        self._limits = limits or ServiceLimits()
        self._run = secrets.token_hex(16)
        self._host: _Host | None = None
        self._attaching = anyio.Lock()
        self._events: deque[channel.Event] = deque(maxlen=_EVENTS_KEPT)
        self._seq = 0
        self._news = anyio.Event()
        self._open = 0
        self._complaints = Allowance(rate=2.0, burst=20.0)
        self._unsaid = 0

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled. The launcher is entered and left by the caller.

        Raises:
            StartError: the socket cannot be made.
        """
        made = await anyio.to_thread.run_sync(self._listen)
        try:
            listener = await anyio.abc.SocketListener.from_socket(made)
            async with listener, anyio.create_task_group() as group:
                await group.start(self._follow)
                self._group = group
                task_status.started()
                await listener.serve(self._visit)  # type: ignore[arg-type]  # its streams are of Unix sockets
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(lambda: self._path.unlink(missing_ok=True))

    def _listen(self) -> socket.socket:
        """The socket, which nobody but the host's uid can reach from its first moment on. Blocking."""
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
            if self._path.is_socket():
                self._path.unlink()  # of a launcher that was killed
            made.bind(
                str(self._path)
            )  # the file's mode counts for whoever connects, and nobody can before 'listen'
            self._path.chmod(0o600)
            if self._limits.host_uid != os.geteuid():
                os.chown(self._path, self._limits.host_uid, -1)
            made.listen(128)
        except OSError as error:
            made.close()
            raise StartError(
                f"the launcher cannot listen at {self._path}: {error.strerror}",
                "set RINGFENCE_RUN_DIR to a directory that it can write (its path may be 90 characters long)",
            ) from error
        return made

    # -- connections -------------------------------------------------------------------------------------------------

    async def _visit(self, stream: UNIXSocketStream) -> None:
        async with stream:
            if self._open >= self._limits.connections:
                self._complain(f"more than {self._limits.connections} connections at once")
                return
            self._open += 1
            try:
                peer = channel.Peer.of(stream)
                if peer.uid != self._limits.host_uid:
                    self._complain(f"uid {peer.uid} (process {peer.pid}) connected")
                    return
                await self._hear(stream)
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
                pass  # the host hung up
            except FrameError as error:
                self._complain(str(error))
            except Exception:  # one request must not end the launcher
                log.exception("a request of the host failed unexpectedly")
            finally:
                self._open -= 1

    async def _hear(self, stream: UNIXSocketStream) -> None:
        body = b""
        with anyio.move_on_after(self._limits.request_s) as limit:
            body = await channel.receive(stream, limit=channel.MAX_REQUEST)
        if limit.cancelled_caught:
            self._complain(f"a connection said nothing for {self._limits.request_s:g} s")
            return
        try:
            asked = channel.request(body)
            if isinstance(asked, channel.About):
                await self._tell_about(stream)
                return
            if isinstance(asked, channel.Attach):
                await self._attach(stream, asked)
                return
            host = self._host
            if host is None or host.session != asked.session:
                raise channel.RefusedError(
                    "the launcher does not know this host, or has another by now",
                    "is a second host running on this data directory?",
                )
            if isinstance(asked, channel.Detach):
                await self._detach(stream, host)
                return
            await host.answering(lambda: self._answer(stream, host, asked))
        except RingfenceError as error:
            if isinstance(error, channel.RefusedError):
                self._complain(error.message)
            else:
                log.info("a request of the host was refused: %s", error)
            # A wrong policy knows its file and line, which its text says and its message does not.
            text = str(error) if isinstance(error, PolicyError) else error.message
            code = error.code if error.code == RuntimeRefusedError.code else StartError.code
            refusal = channel.Refusal(code=code, message=text, hint=error.hint)  # type: ignore[arg-type]
            await self._send(stream, {"error": refusal.model_dump()})

    async def _send(self, stream: UNIXSocketStream, message: Mapping[str, Any]) -> None:
        with anyio.fail_after(_SEND_S):
            await channel.send(stream, message, limit=channel.MAX_ANSWER)

    def _complain(self, text: str) -> None:
        """Say it in the log, but let no flood write the disk full."""
        if self._complaints.take():
            more = f" ({self._unsaid} more such lines were left out)" if self._unsaid else ""
            self._unsaid = 0
            log.warning("launcher channel: %s%s", safe_text(text, 300), more)
            self._notes.complaint(text + more)
        else:
            self._unsaid += 1

    async def _tell_about(self, stream: UNIXSocketStream) -> None:
        version, policies = await anyio.to_thread.run_sync(
            lambda: (own_version(), self._gate.policies.fingerprint())
        )
        host = self._host
        told = channel.Told(
            version=version,
            channel=channel.VERSION,
            has_host=host is not None and not host.gone.is_set(),
            sandboxes=0 if host is None else len(host.live),
            policies=policies,
            build_network=self._gate.build_network,
        )
        await self._send(stream, {"result": told.model_dump()})

    # -- the host's standing connection --------------------------------------------------------------------------------

    async def _attach(self, stream: UNIXSocketStream, asked: channel.Attach) -> None:
        async with self._attaching:
            before = self._host
            if before is None or before.session != asked.session:
                if before is not None:
                    log.info("another host attached: what the one before had is ended")
                    before.gone.set()
                    self._host = None  # from here on it is told that nobody knows it
                    await self._end_all(before)
                host = self._host = _Host(asked.session)
                self._notes.attached()
                await self._builder.sweep()
            else:
                host = before
                host.gone.set()  # its former connection, if there is one
                host.returned.set()
                host.gone, host.returned = anyio.Event(), anyio.Event()
        gone = host.gone
        complete = asked.run == self._run and (
            asked.since == self._seq
            or (bool(self._events) and self._events[0].seq <= asked.since + 1 <= self._seq + 1)
        )
        at = asked.since if complete else self._seq
        answer = channel.Attached(run=self._run, seq=at, complete=complete)
        try:
            await self._send(stream, {"result": answer.model_dump()})
            async with anyio.create_task_group() as group:

                async def until_gone() -> None:
                    await gone.wait()
                    group.cancel_scope.cancel()

                group.start_soon(until_gone)
                group.start_soon(self._until_hung_up, stream, group.cancel_scope)
                while True:
                    news = self._news
                    for event in [event for event in self._events if event.seq > at]:
                        await self._send(stream, {"event": event.model_dump()})
                        at = event.seq
                    if self._news is news:
                        await news.wait()
        finally:
            gone.set()
            if self._host is host and host.gone is gone:
                self._group.start_soon(self._end_orphans, host, gone)

    async def _until_hung_up(self, stream: UNIXSocketStream, scope: anyio.CancelScope) -> None:
        """Cancel ``scope`` when the host hangs up, or says more than its one request."""
        try:
            await stream.receive(1)
            self._complain("a connection carried more than one request")
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            pass
        scope.cancel()

    async def _follow(self, *, task_status: TaskStatus[None]) -> None:
        async with self._launcher.events() as events:
            task_status.started()
            async for event in events:
                self._seq += 1
                self._events.append(
                    channel.Event.model_validate(
                        {"seq": self._seq, "sandbox": event.sandbox, "kind": event.kind}
                    )
                )
                self._news.set()
                self._news = anyio.Event()

    async def _end_orphans(self, host: _Host, gone: anyio.Event) -> None:
        """Whoever does not come back within ``orphan_s`` has no sandboxes any more."""
        with anyio.move_on_after(self._limits.orphan_s):
            await host.returned.wait()
            return
        async with self._attaching:
            if self._host is host and host.gone is gone:
                if host.live:
                    log.warning("the host has been gone for %.0f s", self._limits.orphan_s)
                self._host = None
                await self._end_all(host)

    async def _detach(self, stream: UNIXSocketStream, host: _Host) -> None:
        host.gone.set()
        with anyio.CancelScope(shield=True):
            async with self._attaching:
                if self._host is host:
                    self._host = None
                await self._end_all(host)
        await self._send(stream, {"result": {"count": 0}})

    async def _end_all(self, host: _Host) -> None:
        # A start that is under way would give the sandbox to nobody once the look at what lives is over.
        with anyio.move_on_after(_STOPPED_S, shield=True):
            await host.take_back()
        async with anyio.create_task_group() as group:
            for sandbox in list(host.live):
                group.start_soon(self._end, host, sandbox)

    async def _end(self, host: _Host, sandbox: SandboxId) -> None:
        try:
            with anyio.fail_after(_STOPPED_S, shield=True):
                self._notes.ended(sandbox, await self._launcher.stop(sandbox))
            host.forget(sandbox)
        except (StartError, TimeoutError) as error:
            log.error("sandbox %s may still run: %s", sandbox, error)  # noqa: TRY400

    # -- requests ------------------------------------------------------------------------------------------------------

    async def _answer(self, stream: UNIXSocketStream, host: _Host, asked: channel.Request) -> None:
        launcher, builder = self._launcher, self._builder
        match asked:
            case channel.Ensure():
                await self._ensure(stream, host, asked)
            case channel.Stop():
                await self._stop(stream, host, asked)
            case channel.Build():
                await self._build(stream, host, asked)
            case channel.List():
                found = [launched(item).model_dump() for item in await launcher.list()]
                await self._send(stream, {"result": {"sandboxes": found}})
            case channel.Stats():
                usage = await launcher.stats(SandboxId(asked.sandbox))
                used = channel.Used(
                    memory=usage.memory, pids=usage.pids,
                    oom_kills=usage.oom_kills, pids_refused=usage.pids_refused, cpu_s=usage.cpu_s,
                    memory_peak=usage.memory_peak, file_cache=usage.file_cache, pids_peak=usage.pids_peak,
                )  # fmt: skip
                await self._send(stream, {"result": used.model_dump()})
            case channel.Logs():
                text = await launcher.logs(SandboxId(asked.sandbox), limit=asked.limit)
                await self._send(stream, {"result": {"text": text}})
            case channel.Image():
                await self._send(stream, {"result": _facts(await builder.image()).model_dump()})
            case channel.Sweep():
                count = 0 if host.builds else await builder.sweep()
                await self._send(stream, {"result": {"count": count}})
            case channel.Attach() | channel.Detach():  # the coming and going, which is another's matter
                raise channel.RefusedError("a host attaches with its first word")

    async def _ensure(self, stream: UNIXSocketStream, host: _Host, asked: channel.Ensure) -> None:
        sandbox = SandboxId(asked.sandbox)
        if sandbox not in host.live and len(host.live) >= self._limits.sandboxes:
            raise StartError(
                f"{len(host.live)} sandboxes run already, the most that the launcher allows",
                "stop some, or raise RINGFENCE_MAX_SANDBOXES of the launcher",
            )
        if sandbox in host.starting:
            raise StartError(f"sandbox '{sandbox}' is being started already")
        ours = sandbox not in host.live
        host.live.add(sandbox)
        host.starting.add(sandbox)
        delivered = False

        async def start() -> LaunchedSandbox:
            admission = await anyio.to_thread.run_sync(self._gate.admission, asked)
            if ours:
                # No wait between look and entry: two that come together do not both get the last place.
                admission.check_room(host.parts.values())
                host.parts[sandbox] = admission.part
            return await self._launcher.ensure(admission.request)

        try:
            with self._notes.start(asked):
                started = await self._while_wanted(stream, start)
            if started is None:
                return
            self._notes.started(asked, started)
            stdio = started.stdio
            if stdio is not None and stdio.fileno() < 0:
                raise StartError(f"the stream of sandbox '{sandbox}' was handed over already")
            try:
                await self._send(stream, {"result": launched(started).model_dump()})
                if stdio is not None:
                    await stream.send_fds(b"\0", [stdio.fileno()])
                delivered = True
            finally:
                if stdio is not None:
                    stdio.close()  # the host has its own now
        finally:
            host.starting.discard(sandbox)
            if (ours and not delivered) or sandbox in host.unwanted:
                # Refused, taken back, stopped meanwhile, or never heard of: nothing of it stays.
                host.unwanted.discard(sandbox)
                await self._end(host, sandbox)

    async def _stop(self, stream: UNIXSocketStream, host: _Host, asked: channel.Stop) -> None:
        sandbox = SandboxId(asked.sandbox)
        with anyio.CancelScope(shield=True):
            ending = await self._launcher.stop(sandbox, grace_s=asked.grace_s)
            self._notes.ended(sandbox, ending)
            if sandbox in host.starting:
                host.unwanted.add(sandbox)  # it may yet come: whoever starts it puts it away
            else:
                host.forget(sandbox)
        answer = channel.Ended(
            exit_code=ending.exit_code,
            oom_killed=ending.oom_killed,
            oom_events=ending.oom_events,
            pids_refused=ending.pids_refused,
            killed_by_us=ending.killed_by_us,
            last_words=ending.last_words,
        )
        await self._send(stream, {"result": answer.model_dump()})

    async def _build(self, stream: UNIXSocketStream, host: _Host, asked: channel.Build) -> None:
        if host.builds >= self._limits.builds:
            raise StartError(
                f"{host.builds} builds run already, the most that the launcher allows",
                "wait for one to end",
            )
        if asked.job in host.jobs:
            raise StartError(f"the build '{asked.job}' runs already")
        host.builds += 1
        host.jobs.add(asked.job)

        async def build() -> verb.BuildOutcome:
            policy = await anyio.to_thread.run_sync(self._gate.build_policy, asked)
            job = verb.BuildJob(
                id=asked.id,
                tenant=TenantId(asked.tenant),
                directory=self._gate.places.environments / verb.JOBS / asked.job,
                cache=self._gate.places.launcher_data,  # not used: the builder has its own
                network=asked.network,
                source_builds=asked.source_builds,
                timeout_s=policy.build.timeout_s,
                has_constraints=asked.has_constraints,
                extension=None if asked.extension is None else ExtensionName(asked.extension),
                group=asked.group,
            )
            failed: RingfenceError | None = None
            outcome = verb.BuildOutcome(-1, (), 0.0)
            async with anyio.create_task_group() as group:
                lines = _Lines(lambda text: self._send(stream, {"line": text}))
                group.start_soon(lines.forward)
                try:
                    outcome = await self._builder.run(job, asked.step, lines.take)
                except RingfenceError as error:
                    failed = error
                await lines.close()
            if failed is not None:
                raise failed
            return outcome

        try:
            with self._notes.build(asked):
                outcome = await self._while_wanted(stream, build)
        finally:
            host.builds -= 1
            host.jobs.discard(asked.job)
        if outcome is not None:
            self._notes.built(asked, outcome)
            answer = channel.Outcome(
                exit_code=outcome.exit_code,
                lines=list(outcome.lines),
                seconds=outcome.seconds,
                limit=outcome.limit,
            )
            await self._send(stream, {"result": answer.model_dump()})

    async def _while_wanted(self, stream: UNIXSocketStream, work: Callable[[], Awaitable[T]]) -> T | None:
        """What ``work`` gives; None when the host hung up, which cancels it."""
        failed: RingfenceError | None = None
        found: list[T] = []
        async with anyio.create_task_group() as group:
            group.start_soon(self._until_hung_up, stream, group.cancel_scope)
            try:
                found.append(await work())
            except RingfenceError as error:
                failed = error  # not raised in here: a task group would wrap it
            group.cancel_scope.cancel()
        if failed is not None:
            raise failed
        return found[0] if found else None


class _Lines:
    """Lines of a build on their way to the host; bounded, the rest is dropped."""

    def __init__(self, send: Callable[[str], Any]) -> None:
        self._send = send
        self._into, self._from = anyio.create_memory_object_stream[str](1_000)
        self._done = anyio.Event()

    def take(self, text: str) -> None:
        try:
            self._into.send_nowait(text)
        except (anyio.WouldBlock, anyio.ClosedResourceError, anyio.BrokenResourceError):
            pass

    async def forward(self) -> None:
        try:
            async with self._from:
                async for text in self._from:
                    await self._send(text)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            pass  # the host hung up, which is noticed elsewhere
        finally:
            self._into.close()
            self._done.set()

    async def close(self) -> None:
        self._into.close()
        await self._done.wait()


def launched(item: LaunchedSandbox) -> channel.Launched:
    """As the channel says it."""
    return channel.Launched(
        sandbox=item.sandbox,
        tenant=item.tenant,
        extensions=list(item.extensions),
        container=item.container,
        uid=item.uid,
        running=item.running,
        stdio=item.stdio is not None,
        multiplexed=item.multiplexed,
        code_root=item.code_root,
        seconds=dict(item.seconds),
    )


def _facts(image: verb.NodeImage) -> channel.ImageFacts:
    return channel.ImageFacts(
        id=image.id,
        variant=image.variant,
        python=image.python,
        machine=image.machine,
        packages=dict(image.packages),
        absent=dict(image.absent),
        licences=dict(image.licences),
    )

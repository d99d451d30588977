"""The host's side of the channel: a ``Launcher`` and an ``EnvironmentBuilder`` that are in another process.

One connection stands as long as the host does and brings events; it comes back by itself, and what happened meanwhile
is not lost: the launcher sends again what it still has, and when it is another one by now, every sandbox is known to be
dead. Each call has a connection of its own, so a cancelled call is one that hangs up.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import anyio
from anyio.abc import ObjectReceiveStream, TaskStatus, UNIXSocketStream

from policies import ExtensionName, SandboxId, TenantId, safe_text
from runtime.wire import FrameError
from sandbox.errors import ProtocolViolationError, StartError
from sandbox.hostile_json import parse
from sandbox.launcher import channel
from sandbox.launcher.build_verb import BuildJob, BuildOutcome, Line, NodeImage, Step
from sandbox.launcher.listeners import Listeners
from sandbox.launcher.verbs import Ending, LaunchedSandbox, LauncherEvent, SandboxRequest, Usage

log = logging.getLogger(__name__)

_RETRY_S: Final = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
_ENSURE_PATIENCE_S: Final = 15.0
"""How long a start waits for a launcher that is being started itself."""
_DETACH_S: Final = 90.0
_ATTACH_S: Final = 10.0
_RESTARTED: Final = "the launcher was started anew, which ends every sandbox"


class LauncherGoneError(StartError):
    """Nobody answers at the launcher's socket, or the answer broke off."""

    code = "launcher_gone"


class LauncherClient:
    """Enter once with ``async with``; leaving ends whatever still runs."""

    def __init__(self, path: Path, *, launcher_uid: int | None = None, patience_s: float = 30.0) -> None:
        self._path = path
        self._launcher_uid = os.geteuid() if launcher_uid is None else launcher_uid
        self._patience_s = patience_s
        self._session = secrets.token_hex(16)
        self._run: str | None = None
        self._seq = 0
        self._live: set[SandboxId] = set()
        self._lost: set[SandboxId] = set()
        self._listeners = Listeners()
        self._is_leaving = False
        self._attached = anyio.Event()
        """Set while the launcher knows this host; another one takes its place when it is gone."""
        self._stack = AsyncExitStack()

    # -- life ----------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Reach the launcher and take it over from whatever host was there before.

        Raises:
            StartError: it does not answer within ``patience_s``, or is not who it should be.
        """
        self._group = await self._stack.enter_async_context(anyio.create_task_group())
        try:
            await self._group.start(self._follow)
        except BaseException:
            self._group.cancel_scope.cancel()
            await self._stack.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_leaving = True
        with anyio.move_on_after(_DETACH_S, shield=True):
            try:
                await self._ask("detach", channel.Done)
            except StartError as error:
                log.warning("the launcher could not be told that this host ends: %s", error)
        self._group.cancel_scope.cancel()
        await self._stack.__aexit__(None, None, None)

    # -- Launcher ------------------------------------------------------------------------------------------------

    async def ensure(self, request: SandboxRequest) -> LaunchedSandbox:
        """See ``Launcher.ensure``. Waits a while for a launcher that is just being started."""
        asked = {
            "sandbox": request.sandbox,
            "tenant": request.tenant,
            "extensions": [
                {
                    "name": files.name,
                    "source": str(files.source),
                    "environment": None if files.environment is None else str(files.environment),
                }
                for files in request.extensions
            ],
            "policy_digest": request.policy_digest,
            "group": request.group,
        }
        deadline = anyio.current_time() + _ENSURE_PATIENCE_S
        tried = 0
        while True:
            try:
                return await self._ensure(request.sandbox, asked)
            except LauncherGoneError:
                wait_s = _RETRY_S[min(tried, len(_RETRY_S) - 1)]
                tried += 1
                if anyio.current_time() + wait_s > deadline:
                    raise
                await anyio.sleep(wait_s)

    async def _ensure(self, sandbox: SandboxId, asked: dict[str, Any]) -> LaunchedSandbox:
        async with self._in_session() as stream:
            await self._say(stream, "ensure", asked)
            self._live.add(sandbox)
            try:
                answer = channel.answer(await self._hear(stream), channel.Launched)
                stdio = await _stdio(stream) if answer.stdio else None
            except BaseException:
                self._live.discard(sandbox)
                # Hanging up takes the request back, as far as the launcher; it ends what it cannot deliver.
                raise
        return _launched(answer, stdio)

    async def stop(self, sandbox: SandboxId, *, grace_s: float = 0.0) -> Ending:
        """See ``Launcher.stop``."""
        if sandbox in self._lost:
            self._lost.discard(sandbox)
            return Ending(last_words=_RESTARTED)
        answer = await self._ask("stop", channel.Ended, sandbox=sandbox, grace_s=float(grace_s))
        self._live.discard(sandbox)
        return Ending(
            exit_code=answer.exit_code,
            oom_killed=answer.oom_killed,
            oom_events=answer.oom_events,
            pids_refused=answer.pids_refused,
            killed_by_us=answer.killed_by_us,
            last_words=safe_text(answer.last_words, 16 * 1024, newlines=True),
        )

    async def list(self) -> tuple[LaunchedSandbox, ...]:
        """See ``Launcher.list``."""
        answer = await self._ask("list", channel.Listed)
        return tuple(_launched(item, None) for item in answer.sandboxes)

    async def stats(self, sandbox: SandboxId) -> Usage:
        """See ``Launcher.stats``; all None while the launcher is gone, since who asks only wants to know."""
        try:
            answer = await self._ask("stats", channel.Used, sandbox=sandbox)
        except LauncherGoneError:
            return Usage()
        return Usage(**answer.model_dump())

    async def logs(self, sandbox: SandboxId, *, limit: int = 64 * 1024) -> str:
        """See ``Launcher.logs``."""
        most = max(1, min(limit, channel.MAX_LOG))
        answer = await self._ask("logs", channel.Text, sandbox=sandbox, limit=most)
        return safe_text(answer.text, most, newlines=True)

    def events(self) -> AbstractAsyncContextManager[ObjectReceiveStream[LauncherEvent]]:
        """See ``Launcher.events``."""
        return self._listeners.listen()

    # -- EnvironmentBuilder ----------------------------------------------------------------------------------------

    async def image(self) -> NodeImage:
        """See ``EnvironmentBuilder.image``."""
        found = await self._ask("image", channel.ImageFacts)
        return NodeImage(**found.model_dump())

    async def run(self, job: BuildJob, step: Step, line: Line) -> BuildOutcome:
        """See ``EnvironmentBuilder.run``."""
        asked = {
            "id": job.id,
            "job": job.directory.name,
            "tenant": job.tenant,
            "extension": job.extension,
            "group": job.group,
            "network": job.network,
            "source_builds": job.source_builds,
            "has_constraints": job.has_constraints,
            "step": step,
        }
        async with self._in_session() as stream:
            await self._say(stream, "build", asked)
            answer = channel.answer(await self._hear(stream, on_line=line), channel.Outcome)
        return BuildOutcome(answer.exit_code, tuple(answer.lines), answer.seconds, answer.limit)

    async def sweep(self) -> int:
        """See ``EnvironmentBuilder.sweep``."""
        return (await self._ask("sweep", channel.Done)).count

    # -- the standing connection -------------------------------------------------------------------------------------

    async def _follow(self, *, task_status: TaskStatus[None]) -> None:
        deadline = anyio.current_time() + self._patience_s
        started = False
        tried = 0
        while True:
            try:
                async with self._connected() as stream:
                    await self._say(
                        stream, "attach", {"version": channel.VERSION, "run": self._run, "since": self._seq}
                    )
                    self._take_up(channel.answer(await self._hear(stream), channel.Attached))
                    self._attached.set()
                    if not started:
                        started = True
                        task_status.started()
                    elif tried:
                        log.info("the launcher answers again")
                    tried = 0
                    while True:
                        event = channel.answer(await self._hear_event(stream), channel.Event)
                        self._seq = event.seq
                        self._listeners.tell(LauncherEvent(SandboxId(event.sandbox), event.kind))
            except LauncherGoneError as error:
                if self._is_leaving:
                    return
                if not started and anyio.current_time() > deadline:
                    raise
                if started and not tried:
                    log.warning("the launcher is gone, looking for it again: %s", error.message)
            except StartError as error:
                if not started:
                    raise
                log.error("the launcher refuses this host: %s", error)  # noqa: TRY400
            if self._attached.is_set():
                self._attached = anyio.Event()
            await anyio.sleep(_RETRY_S[min(tried, len(_RETRY_S) - 1)])
            tried += 1

    def _take_up(self, found: channel.Attached) -> None:
        another = self._run is not None and found.run != self._run
        incomplete = self._run is not None and not found.complete
        self._run, self._seq = found.run, found.seq
        if another or incomplete:
            # Another launcher has ended every sandbox at its start. One that forgot events cannot happen within its
            # own memory of them; then too, better a sandbox too few than one that is dead and believed alive.
            lost = list(self._live)
            self._live.clear()
            self._lost.update(lost if another else ())
            for sandbox in lost:
                self._listeners.tell(LauncherEvent(sandbox, "died"))

    # -- one request ---------------------------------------------------------------------------------------------------

    async def _ask(self, verb: str, model: type[channel.AnswerT], **fields: Any) -> channel.AnswerT:
        async with self._in_session() as stream:
            await self._say(stream, verb, fields)
            return channel.answer(await self._hear(stream), model)

    @asynccontextmanager
    async def _in_session(self) -> AsyncIterator[UNIXSocketStream]:
        """A connection for one request. A launcher that was just started anew may first learn who we are."""
        if not self._attached.is_set():
            async with self._connected():
                pass  # it listens again, so it is worth a moment; one that does not is an error at once
            with anyio.move_on_after(_ATTACH_S):
                await self._attached.wait()
        async with self._connected() as stream:
            yield stream

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[UNIXSocketStream]:
        try:
            stream = await anyio.connect_unix(self._path)
        except OSError as error:
            raise LauncherGoneError(
                f"the launcher does not answer at {self._path}: {error.strerror or error}",
                "is it running? 'docker compose logs launcher' says why not, or run 'ringfence doctor'",
            ) from None
        async with stream:
            uid = channel.Peer.of(stream).uid
            if uid != self._launcher_uid:
                raise StartError(
                    f"uid {uid} listens at {self._path}, where only uid {self._launcher_uid} may",
                    "somebody else has put a socket there: look at who",
                )
            yield stream

    async def _say(self, stream: UNIXSocketStream, verb: str, fields: dict[str, Any]) -> None:
        try:
            await channel.send(
                stream, {"verb": verb, "session": self._session, **fields}, limit=channel.MAX_REQUEST
            )
        except FrameError as error:
            raise StartError(f"a request to the launcher is too long: {error}") from None
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            raise LauncherGoneError("the launcher hung up", "see its log") from None

    async def _hear(self, stream: UNIXSocketStream, *, on_line: Callable[[str], None] | None = None) -> Any:
        """The result. Raises: StartError: the launcher says no, or LauncherGoneError: it is gone."""
        while True:
            message = await _message(stream)
            match message:
                case {"line": str(text)} if on_line is not None:
                    on_line(safe_text(text, 400))
                case {"result": result}:
                    return result
                case {"error": error}:
                    raise channel.answer(error, channel.Refusal).error()
                case _:
                    raise StartError(
                        "the launcher sent something that is no answer", "are both of one version?"
                    )

    async def _hear_event(self, stream: UNIXSocketStream) -> Any:
        match await _message(stream):
            case {"event": event}:
                return event
            case _:
                raise StartError("the launcher sent something that is no event", "are both of one version?")


async def _message(stream: UNIXSocketStream) -> Any:
    try:
        return parse(await channel.receive(stream, limit=channel.MAX_ANSWER))
    except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError, FrameError):
        raise LauncherGoneError("the launcher hung up before it answered", "see its log") from None
    except ProtocolViolationError as error:
        raise StartError(f"the launcher's answer cannot be read: {error.message}") from None


async def _stdio(stream: UNIXSocketStream) -> socket.socket:
    try:
        _, descriptors = await stream.receive_fds(1, 1)
    except (anyio.EndOfStream, anyio.BrokenResourceError, OSError):
        descriptors = []
    if not descriptors:
        raise LauncherGoneError("the launcher did not hand over a sandbox's stream", "see its log")
    made = socket.socket(fileno=descriptors[0])
    made.setblocking(False)
    return made


def _launched(answer: channel.Launched, stdio: socket.socket | None) -> LaunchedSandbox:
    return LaunchedSandbox(
        sandbox=SandboxId(answer.sandbox),
        tenant=TenantId(answer.tenant),
        extensions=tuple(ExtensionName(name) for name in answer.extensions),
        container=answer.container,
        uid=answer.uid,
        running=answer.running,
        stdio=stdio,
        multiplexed=answer.multiplexed,
        code_root=answer.code_root,
        seconds=tuple(answer.seconds.items()),
    )

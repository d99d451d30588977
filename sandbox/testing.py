"""Stand-ins for the launcher, for tests of whoever starts or uses sandboxes. No setting or flag reaches them.

``FakeLauncher`` runs a scripted worker inside the test: everything a hostile worker may try in a few lines.
``UnconfinedLauncher`` runs the real worker as a plain child process: real packs, real tensors, no walls at all.
"""
# ruff: noqa: ARG002  (the signatures are the Protocol's)

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread
from anyio.abc import ObjectReceiveStream

from policies import SandboxId
from runtime import wire
from sandbox.errors import StartError
from sandbox.hostile_json import parse
from sandbox.launcher.listeners import Listeners
from sandbox.launcher.verbs import Ending, LaunchedSandbox, LauncherEvent, SandboxRequest, Usage
from sandbox.places import Places
from sandbox.streams import EndOfStreamError, SocketStream

CHECKOUT = Path(__file__).resolve().parent.parent


# -- scripted ------------------------------------------------------------------------------------------------

Handler = Callable[[dict[str, Any]], Any]


class FakeWorker:
    """The far end of a conversation, in a script's hands."""

    def __init__(self, stream: SocketStream) -> None:
        self.stream = stream

    async def receive(self) -> dict[str, Any]:
        """The next message of the host.

        Raises:
            EndOfStreamError: the host hung up.
        """
        length = wire.frame_length(await self.stream.read_exactly(wire.HEADER.size))
        message: dict[str, Any] = parse(await self.stream.read_exactly(length))
        return message

    async def send(self, message: dict[str, Any]) -> None:
        """Send any message."""
        await self.stream.write(wire.encode_frame({"jsonrpc": "2.0", **message}))

    async def send_raw(self, data: bytes) -> None:
        """Send any bytes."""
        await self.stream.write(data)

    async def answer(self, request: dict[str, Any], result: Any) -> None:
        """Answer a request of the host."""
        await self.send({"id": request["id"], "result": result})

    async def refuse(self, request: dict[str, Any], code: int, message: str, data: Any = None) -> None:
        """Answer a request of the host with an error."""
        await self.send({"id": request["id"], "error": {"code": code, "message": message, "data": data}})

    async def serve(self, handlers: Mapping[str, Handler | Any]) -> None:
        """Answer requests from a table of values or functions of the params, until the host hangs up."""
        table = {wire.HELLO: HELLO, wire.LOAD: LOADED, **handlers}
        try:
            while True:
                request = await self.receive()
                if "method" not in request or "id" not in request:
                    continue
                known = table.get(request["method"], {})
                result = known(request["params"]) if callable(known) else known
                if isinstance(result, Awaitable):
                    result = await result
                if result is not None:
                    await self.answer(request, result)
        except EndOfStreamError:
            return


Script = Callable[[FakeWorker], Awaitable[None]]

HELLO: dict[str, Any] = {
    "protocol": wire.PROTOCOL_VERSION,
    "python": "3.11",
    "numpy": None,
    "torch": None,
    "pid": 1,
}
LOADED: dict[str, Any] = {
    "api": "v1",
    "nodes": [],
    "skipped": [],
    "web_directory": None,
    "routes": [],
    "notes": [],
}


async def obedient(worker: FakeWorker) -> None:
    """A worker that does what it should and returns nothing."""
    await worker.serve({wire.EXECUTE: {"slots": [], "ui": None, "calls": None, "blocked": []}})


class FakeLauncher:
    """Each ``ensure`` runs the next script (the last one for ever after)."""

    def __init__(self, places: Places, *scripts: Script) -> None:
        self.places = places
        self.scripts = list(scripts or (obedient,))
        self.ending = Ending(exit_code=0)
        self.refusal: StartError | None = None
        self.requests: list[SandboxRequest] = []
        self.stopped: list[SandboxId] = []
        self.usage = Usage()
        self._listeners = Listeners()
        self._running: dict[SandboxId, anyio.CancelScope] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._group = await self._stack.enter_async_context(anyio.create_task_group())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._group.cancel_scope.cancel()
        await self._stack.__aexit__(None, None, None)

    async def ensure(self, request: SandboxRequest) -> LaunchedSandbox:
        """See ``Launcher.ensure``."""
        await anyio.lowlevel.checkpoint()
        self.requests.append(request)
        if self.refusal is not None:
            raise self.refusal
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        scope = self._running[request.sandbox] = anyio.CancelScope()
        self._group.start_soon(self._play, request.sandbox, script, scope)
        return LaunchedSandbox(request.sandbox, request.tenant, request.names, "fake", os.getuid())

    async def _play(self, sandbox: SandboxId, script: Script, scope: anyio.CancelScope) -> None:
        with scope:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            path = self.places.socket_directory(sandbox) / "worker.sock"
            await asyncio.get_running_loop().sock_connect(connection, str(path))
            stream = await SocketStream.of(connection)
            try:
                await script(FakeWorker(stream))
            except EndOfStreamError:
                pass
            finally:
                stream.close()
        if self._running.pop(sandbox, None) is not None:
            self._listeners.tell(LauncherEvent(sandbox, "died"))

    async def stop(self, sandbox: SandboxId, *, grace_s: float = 0.0) -> Ending:
        """See ``Launcher.stop``."""
        await anyio.lowlevel.checkpoint()
        self.stopped.append(sandbox)
        scope = self._running.pop(sandbox, None)
        if scope is not None:
            scope.cancel()
        return self.ending

    async def list(self) -> tuple[LaunchedSandbox, ...]:
        """See ``Launcher.list``."""
        return ()

    async def stats(self, sandbox: SandboxId) -> Usage:
        """See ``Launcher.stats``."""
        return self.usage

    async def logs(self, sandbox: SandboxId, *, limit: int = 65536) -> str:
        """See ``Launcher.logs``."""
        return ""

    def die(self, sandbox: SandboxId) -> None:
        """Let the worker die, as the kernel would."""
        self._running[sandbox].cancel()

    def tell(self, sandbox: SandboxId, kind: str) -> None:
        """Announce an event."""
        self._listeners.tell(LauncherEvent(sandbox, kind))

    def events(self) -> AbstractAsyncContextManager[ObjectReceiveStream[LauncherEvent]]:
        """See ``Launcher.events``."""
        return self._listeners.listen()


# -- unconfined ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Child:
    launched: LaunchedSandbox
    process: subprocess.Popen[bytes]
    root: Path
    ended: anyio.Event = field(default_factory=anyio.Event)


class UnconfinedLauncher:
    """The real worker as a child of this process, under this process's uid."""

    def __init__(self, places: Places, *, transport: str = "socket", python: str = sys.executable) -> None:
        self._places = places
        self._transport = transport
        self._python = python
        self._children: dict[SandboxId, _Child] = {}
        self._endings: dict[SandboxId, Ending] = {}
        self._listeners = Listeners()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._group = await self._stack.enter_async_context(anyio.create_task_group())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            for sandbox in list(self._children):
                await self.stop(sandbox)
        self._group.cancel_scope.cancel()
        await self._stack.__aexit__(None, None, None)

    async def ensure(self, request: SandboxRequest) -> LaunchedSandbox:
        """See ``Launcher.ensure``."""
        known = self._children.get(request.sandbox)
        if known is not None:
            return known.launched
        ours, theirs = (
            socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            if self._transport == "stdio"
            else (None, None)
        )
        process, root = await anyio.to_thread.run_sync(self._spawn, request, theirs)
        if ours is not None:
            ours.setblocking(False)
        launched = LaunchedSandbox(
            request.sandbox,
            request.tenant,
            request.names,
            str(process.pid),
            os.getuid(),
            stdio=ours,
            code_root=str(root) + wire.CODE_DIRECTORY,
        )
        child = self._children[request.sandbox] = _Child(launched, process, root)
        self._group.start_soon(self._watch, child)
        return launched

    def _spawn(
        self, request: SandboxRequest, stdio: socket.socket | None
    ) -> tuple[subprocess.Popen[bytes], Path]:
        root = Path(tempfile.mkdtemp(prefix="ringfence-worker-"))
        links = {
            wire.IN_DIRECTORY: self._places.inbox(request.sandbox),
            wire.OUT_DIRECTORY: self._places.outbox(request.sandbox),
            **{f"{wire.CODE_DIRECTORY}/{item.name}": item.source for item in request.extensions},
        }
        if request.extensions[0].environment is not None:
            links[wire.ENVIRONMENT_DIRECTORY] = request.extensions[0].environment
        for place, target in links.items():
            link = root / place.lstrip("/")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(target)
        command = [self._python, "-m", "runtime", "--transport", self._transport, "--root", str(root)]
        if stdio is None:
            command += ["--socket", str(self._places.socket_directory(request.sandbox) / "worker.sock")]
        pipe = stdio.fileno() if stdio is not None else subprocess.DEVNULL
        try:
            process = subprocess.Popen(
                command,
                cwd=CHECKOUT,
                env={"PATH": os.environ["PATH"], "HOME": str(root), "LANG": "C.UTF-8"},
                stdin=pipe,
                stdout=pipe,
                stderr=None,
                start_new_session=True,
            )
        finally:
            if stdio is not None:
                stdio.close()
        return process, root

    async def _watch(self, child: _Child) -> None:
        descriptor = os.pidfd_open(child.process.pid)
        try:
            await anyio.wait_readable(descriptor)
        finally:
            os.close(descriptor)
        child.process.poll()
        child.ended.set()
        self._listeners.tell(LauncherEvent(child.launched.sandbox, "died"))

    async def stop(self, sandbox: SandboxId, *, grace_s: float = 0.0) -> Ending:
        """See ``Launcher.stop``."""
        child = self._children.get(sandbox)
        if child is None:
            return self._endings.get(sandbox, Ending())
        with anyio.move_on_after(grace_s):
            await child.ended.wait()
        killed = not child.ended.is_set()
        if killed:
            os.killpg(child.process.pid, signal.SIGKILL)  # the session that we made for it
            await child.ended.wait()
        code = child.process.returncode
        ending = Ending(exit_code=code if code >= 0 else 128 - code, killed_by_us=killed)
        self._children.pop(sandbox, None)
        self._endings[sandbox] = ending
        await anyio.to_thread.run_sync(lambda: shutil.rmtree(child.root, ignore_errors=True))
        return ending

    async def list(self) -> tuple[LaunchedSandbox, ...]:
        """See ``Launcher.list``."""
        return tuple(child.launched for child in self._children.values())

    async def stats(self, sandbox: SandboxId) -> Usage:
        """See ``Launcher.stats``: nothing is measured."""
        return Usage()

    async def logs(self, sandbox: SandboxId, *, limit: int = 65536) -> str:
        """See ``Launcher.logs``: the child writes to our own stderr."""
        return ""

    def events(self) -> AbstractAsyncContextManager[ObjectReceiveStream[LauncherEvent]]:
        """See ``Launcher.events``."""
        return self._listeners.listen()

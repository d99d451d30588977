"""A launcher that starts nothing and remembers what reached it: it stands behind the service in tests of that."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.lowlevel
from anyio.abc import ObjectReceiveStream
from anyio.streams.memory import MemoryObjectSendStream

from policies import SandboxId
from sandbox.launcher.build_verb import BuildJob, BuildOutcome, Line, NodeImage, Step
from sandbox.launcher.verbs import Ending, LaunchedSandbox, LauncherEvent, SandboxRequest, Usage


@dataclass
class Recorder:
    """A ``Launcher`` and an ``EnvironmentBuilder`` in one."""

    started: list[SandboxRequest] = field(default_factory=list)
    stopped: list[SandboxId] = field(default_factory=list)
    built: list[BuildJob] = field(default_factory=list)
    stdio: socket.socket | None = None
    slow: bool = False
    """A start or a build never ends by itself."""
    gate: anyio.Event | None = None
    """A start waits for it, and does not hear that it is taken back: as the engine's own calls do not."""
    running: set[SandboxId] = field(default_factory=set)
    """What has been started and not stopped since."""
    _listeners: set[MemoryObjectSendStream[LauncherEvent]] = field(default_factory=set)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    async def ensure(self, request: SandboxRequest) -> LaunchedSandbox:
        self.started.append(request)
        if self.slow:
            await anyio.sleep_forever()
        if self.gate is not None:
            with anyio.move_on_after(30, shield=True):
                await self.gate.wait()
        self.running.add(request.sandbox)
        return LaunchedSandbox(
            request.sandbox, request.tenant, request.names, "c0ffee", 200_000,
            stdio=self.stdio, seconds=(("create", 0.5), ("start", 0.25)),
        )  # fmt: skip

    async def stop(self, sandbox: SandboxId, *, grace_s: float = 0.0) -> Ending:
        self.stopped.append(sandbox)
        self.running.discard(sandbox)
        return Ending(exit_code=137, oom_killed=True, oom_events=2, killed_by_us=True, last_words="bye")

    async def list(self) -> tuple[LaunchedSandbox, ...]:
        return tuple(
            LaunchedSandbox(item.sandbox, item.tenant, item.names, "c0ffee", 200_000) for item in self.started
        )

    async def stats(self, sandbox: SandboxId) -> Usage:
        return Usage(memory=1 << 40, pids=3, oom_kills=None, pids_refused=0)

    async def logs(self, sandbox: SandboxId, *, limit: int = 64 * 1024) -> str:
        return "words\n" * 3

    def tell(self, sandbox: str, kind: str) -> None:
        for listener in self._listeners:
            listener.send_nowait(LauncherEvent(SandboxId(sandbox), kind))

    @asynccontextmanager
    async def events(self) -> AsyncIterator[ObjectReceiveStream[LauncherEvent]]:
        send, receive = anyio.create_memory_object_stream[LauncherEvent](100)
        self._listeners.add(send)
        try:
            with receive:
                yield receive
        finally:
            self._listeners.discard(send)
            send.close()

    async def image(self) -> NodeImage:
        return NodeImage(
            "sha256:1", "cpu", "3.11.2", "x86_64", {"numpy": "2.4.0"}, {"cv2": "why not"}, {"numpy": "BSD"}
        )

    async def run(self, job: BuildJob, step: Step, line: Line) -> BuildOutcome:
        self.built.append(job)
        line(f"{step} begins")
        if self.slow:
            await anyio.sleep_forever()
        return BuildOutcome(0, ("all good",), 0.5)

    async def sweep(self) -> int:
        return 0


async def until(condition: Any) -> None:
    """Wait until ``condition()`` holds, for what no event tells. Bounded."""
    with anyio.fail_after(60):
        while not condition():
            await anyio.lowlevel.checkpoint()

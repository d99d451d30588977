"""The few things that may be asked of whoever talks to the container engine, as a Protocol and its models.

A request names things that the policies and the instance's own directories already define: tenant, extensions,
policy digest. It carries no mount, image, user, capability or limit: the launcher reads the policies itself and
derives the container, so that a host that was taken over cannot ask for one the policies do not allow.
Nothing here knows Docker.
"""

from __future__ import annotations

import socket
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from anyio.abc import ObjectReceiveStream

from policies import ExtensionName, SandboxId, TenantId
from runtime import wire
from sandbox.extension_source import ExtensionFiles


@dataclass(frozen=True, slots=True)
class SandboxRequest:
    """Ask for one running sandbox."""

    sandbox: SandboxId
    """Chosen by the host; names the directories both sides compute from ``Places``."""
    tenant: TenantId
    extensions: tuple[ExtensionFiles, ...]
    """What it will load. The launcher checks that each path lies where this tenant's extensions lie."""
    policy_digest: str
    """Which policy the host counted on; the launcher refuses when the files say something else by now."""
    group: str | None = None
    """The sandbox group, when the extensions share a sandbox because of one."""

    @property
    def names(self) -> tuple[ExtensionName, ...]:
        """The extensions' names."""
        return tuple(files.name for files in self.extensions)


@dataclass(frozen=True, slots=True)
class LaunchedSandbox:
    """A sandbox that runs (or, in a list, one that this instance once started)."""

    sandbox: SandboxId
    tenant: TenantId
    extensions: tuple[ExtensionName, ...]
    container: str
    """The engine's id of it (a process id for a plain child)."""
    uid: int
    """Who must be at the other end of the socket."""
    running: bool = True
    stdio: socket.socket | None = None
    """The attached stream when the policy's transport is stdio; None when the worker connects to the socket."""
    multiplexed: bool = False
    """``stdio`` carries the engine's stdout/stderr frames."""
    code_root: str = wire.CODE_DIRECTORY
    """Where the worker finds the extensions' directories."""
    seconds: tuple[tuple[str, float], ...] = ()
    """How long each step of the start took, in order."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a sandbox came to its end, as far as the engine and the kernel tell."""

    exit_code: int | None = None
    oom_killed: bool = False
    """The kernel killed the worker itself over the memory cap."""
    oom_events: int = 0
    """How often the kernel killed anything in it, children included."""
    pids_refused: int = 0
    """How often a fork or thread was refused by the pids cap."""
    killed_by_us: bool = False
    """It still ran when it was stopped."""
    last_words: str = ""
    """The end of what it wrote outside the protocol; hostile text, already made safe."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a sandbox uses now; None where the machine does not let us read it."""

    memory: int | None = None
    pids: int | None = None
    oom_kills: int | None = None
    pids_refused: int | None = None
    cpu_s: float | None = None
    """CPU time since its start, all its processes together, those that are gone too."""
    memory_peak: int | None = None
    """The most that ``memory`` ever was."""
    file_cache: int | None = None
    """Of ``memory``, what the kernel would drop before it kills."""
    pids_peak: int | None = None


@dataclass(frozen=True, slots=True)
class LauncherEvent:
    """Something happened to a sandbox without being asked for."""

    sandbox: SandboxId
    kind: str
    """``died`` or ``oom`` (the kernel killed a process in it, perhaps not the worker)."""


class Launcher(Protocol):
    """Starts and ends sandboxes. Entered once with ``async with``; leaving ends whatever still runs."""

    async def ensure(self, request: SandboxRequest) -> LaunchedSandbox:
        """Start the sandbox, or return it when it runs already.

        Raises:
            StartError: the engine, the image, a runtime, a GPU, a mount or the policy stands in the way; whatever
                was created is gone again.
        """

    async def stop(self, sandbox: SandboxId, *, grace_s: float = 0.0) -> Ending:
        """End and remove it; wait ``grace_s`` for its own exit first. Calling again returns the same ending.

        Raises:
            StartError: the engine does not answer, so it may still run.
        """

    async def list(self) -> tuple[LaunchedSandbox, ...]:
        """What this instance has in the engine now."""

    async def stats(self, sandbox: SandboxId) -> Usage:
        """What it uses; all None for one that is not there."""

    async def logs(self, sandbox: SandboxId, *, limit: int = 64 * 1024) -> str:
        """The end of what it wrote to stdout and stderr outside the protocol, made safe."""

    def events(self) -> AbstractAsyncContextManager[ObjectReceiveStream[LauncherEvent]]:
        """A stream of deaths and OOM kills from now on; none is lost while the engine is reconnected."""

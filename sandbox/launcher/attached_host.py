"""The host that the launcher serves: what it has, what it asked for, and how all of that is taken back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio

from policies import SandboxId
from sandbox.launcher.gate import Part


@dataclass(slots=True)
class AttachedHost:
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

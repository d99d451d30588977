"""What the watch over a sandbox is told of it while it lives; nothing where nobody watches."""

from __future__ import annotations

import anyio

from policies import SandboxId
from sandbox.disk_patrol import DiskPatrol
from sandbox.errors import SandboxError
from sandbox.launcher.verbs import Launcher
from sandbox.peer import Peer
from sandbox.watching import LOOK_S, Watch


class Observation:
    """That of one sandbox."""

    def __init__(self, sandbox: SandboxId, watch: Watch | None, launcher: Launcher, disk: DiskPatrol) -> None:
        self._sandbox = sandbox
        self._watch = watch
        self._launcher = launcher
        self._disk = disk

    def began(self) -> None:
        """Its worker is there."""
        if self._watch is not None:
            self._watch.began(self._sandbox)

    async def follow(self) -> None:
        """Look at what it uses, until cancelled."""
        while self._watch is not None:
            self._watch.used(self._sandbox, await self._launcher.stats(self._sandbox))
            await anyio.sleep(LOOK_S)

    async def look(self, peer: Peer | None) -> None:
        """Look once more: what the last call used is not known otherwise."""
        if self._watch is None or peer is None:
            return
        self._watch.used(self._sandbox, await self._launcher.stats(self._sandbox))
        self._watch.sent(peer.longest)
        await self._disk.observe()

    def ended(self, peer: Peer | None, error: SandboxError | None) -> None:
        """It has ended; by ``error``, unless that was our own decision."""
        if self._watch is None:
            return
        if peer is not None:
            self._watch.sent(peer.longest)
        if error is not None:
            self._watch.ended(error)

"""What a sandbox writes to disk, held against its policy's caps and its tenant's quota while it lives.

How the directories are counted is ``disk_watch.py``'s; here it is decided when to look, and what is too much.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import anyio.to_thread

from policies import EffectivePolicy
from sandbox.disk_watch import (
    BUSY_LOOK_S,
    IDLE_LOOK_S,
    LOOK_SHARE,
    DiskWatch,
    Found,
    disk_threads,
    writable_directories,
)
from sandbox.errors import EndedError
from sandbox.fast_paths import FastPath, takes
from sandbox.figures import human_bytes
from sandbox.idle_looks import BRIEF_S, due, look_together
from sandbox.launcher import failure
from sandbox.launcher.verbs import SandboxRequest
from sandbox.surroundings import Surroundings
from sandbox.watching import Watch


class DiskPatrol:
    """That of one sandbox."""

    def __init__(
        self, request: SandboxRequest, policy: EffectivePolicy, around: Surroundings, watch: Watch | None
    ) -> None:
        self._request = request
        self._policy = policy
        self._around = around
        self._watch = watch
        self._names = failure.Names(request.names, policy)
        self._disk: DiskWatch | None = None

    def begin_call(self) -> None:
        """What is there now is not this call's."""
        if self._disk is not None:
            self._disk.begin_call()

    async def walk(self, uid: int, in_use: Callable[[], bool]) -> EndedError | None:
        """Look again and again; returns once it has written too much, and at once when it can write nowhere."""
        tenant = self._around.places.tenant(self._request.tenant)
        roots = writable_directories(tenant, self._policy, self._request)
        if not roots:
            return None
        disk = self._disk = DiskWatch(roots, uid, self._policy.disk_files)
        while True:
            began = time.monotonic()
            alone = in_use() or disk.took_s > BRIEF_S or not takes(FastPath.GATHERED_LOOKS)
            found = await (self._look(disk) if alone else look_together(disk))
            took = time.monotonic() - began
            reason = self._reason(disk, found)
            if reason is not None:
                return reason
            now = time.monotonic()
            soonest = now + max(BUSY_LOOK_S, LOOK_SHARE * took)
            # A call after a pause: look soon after its beginning, and from then on.
            await disk.pause(soonest, soonest if in_use() else due(max(soonest, now + IDLE_LOOK_S)))

    async def observe(self) -> None:
        """Look once more, for the watch over it."""
        if self._disk is not None:
            self._note(self._disk, await self._look(self._disk))

    async def _look(self, disk: DiskWatch) -> Found:
        return await anyio.to_thread.run_sync(disk.look, limiter=disk_threads())

    def _note(self, disk: DiskWatch, found: Found) -> None:
        if self._watch is not None and disk.base is not None:
            self._watch.grew(found.bytes - disk.base.bytes, found.files - disk.base.files)
            self._watch.wrote(self._policy, disk.added(found))

    def _reason(self, disk: DiskWatch, found: Found) -> EndedError | None:
        if found.hidden:
            return failure.hides_files(self._names, found.hidden)
        nbytes, files, since_last = disk.grown(found)
        self._note(disk, found)
        if nbytes > self._policy.disk:
            return failure.over_disk(
                self._names, "disk", human_bytes(self._policy.disk), f"{human_bytes(nbytes)} in one call"
            )
        if files > self._policy.disk_files:
            limit = str(self._policy.disk_files)
            return failure.over_disk(
                self._names, "disk_files", limit, f"{files} files and directories in one call"
            )
        metering = self._around.metering
        over = metering.charge_disk(self._request.tenant, since_last) if metering and since_last else None
        return failure.over_quota(self._names, over) if over and since_last > 0 else None

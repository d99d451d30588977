"""Room for one more file: the caps, what gives way before one refuses, and a machine whose memory is full."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import Final, TypeVar

import anyio
import anyio.to_thread

from policies import SandboxId, TenantId
from sandbox.accounts import charge
from sandbox.errors import QuotaError, SandboxError
from sandbox.figures import human_bytes
from sandbox.reaper import INLINE_BYTES
from sandbox.tensors.dead_outputs import DeadOutputs
from sandbox.tensors.holdings import Holdings

LETTING_GO_S: Final = 0.5
"""How long a refusal waits for sandboxes to let go of what they read: gVisor does so a moment later, when asked."""

_ASK_AGAIN_S: Final = 0.01

T = TypeVar("T")


class Room:
    """Says whether there is room, and makes some: dead outputs first, then what a cache lets go of.

    ``on_pressure(tenant, sandbox, nbytes)``: see ``TensorStore``.
    """

    def __init__(
        self,
        held: Holdings,
        dead: DeadOutputs,
        on_pressure: Callable[[TenantId, SandboxId | None, int], None],
    ) -> None:
        self._held = held
        self._ledger = held.ledger
        self._reaper = held.reaper
        self._dead = dead
        self._on_pressure = on_pressure

    async def check(self, tenant: TenantId, sandbox: SandboxId | None, nbytes: int) -> None:
        """Return when a file of ``nbytes`` may be made.

        Nothing is awaited between the last look and the return: what was found free is free.

        Raises:
            QuotaError: a cap refuses.
            SandboxError: the sandbox has ended.
        """
        account = self._held.box(sandbox).account if sandbox is not None else None
        refusal = self._ledger.refusal(tenant, account, nbytes)
        if refusal and self._reaper.has_lingering:
            self._reaper.ask_again()
            refusal = self._ledger.refusal(tenant, account, nbytes)
        by_host = refusal is not None and refusal.by_host
        if refusal and self._dead.drop(lambda output: by_host or output.tenant == tenant):
            refusal = self._ledger.refusal(tenant, account, nbytes)
        if refusal:
            self._on_pressure(tenant, sandbox if refusal.by_sandbox else None, charge(nbytes))
            self._dead.drop(lambda output: output.tenant == tenant)  # what was let go just now
            refusal = self._ledger.refusal(tenant, account, nbytes)
        until = time.monotonic() + LETTING_GO_S
        while refusal and self._reaper.has_lingering and time.monotonic() < until:
            await anyio.sleep(_ASK_AGAIN_S)
            if sandbox is not None:
                self._held.box(sandbox)  # it may have ended meanwhile
            self._reaper.ask_again()
            refusal = self._ledger.refusal(tenant, account, nbytes)
        if refusal:
            raise refusal.error

    async def make(self, nbytes: int, work: Callable[[], T]) -> T:
        """Run ``work``, which makes a file; once more without kept outputs, should memory or descriptors be used up."""
        try:
            return await sized(nbytes, work)
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EMFILE} or not self._dead.drop(lambda _: True):
                raise
        await self._reaper.finish()
        return await sized(nbytes, work)


def full(error: OSError, nbytes: int) -> SandboxError:
    """What the kernel's refusal to make a file is to whoever asked for it."""
    if error.errno == errno.ENOSPC:
        return QuotaError(
            f"shared memory of this machine is full: asked {human_bytes(nbytes)}",
            "enlarge /dev/shm (mount -o remount,size=...) or lower the quotas",
        )
    if error.errno == errno.EMFILE:
        return QuotaError("this host has no file descriptors left", "raise its limit (ulimit -n)")
    return SandboxError(f"shared memory failed: {error.strerror}")


async def sized(nbytes: int, work: Callable[[], T]) -> T:
    """Run ``work`` here when it is small, else in a thread."""
    if nbytes <= INLINE_BYTES:
        return work()
    # Not abandoned when cancelled: half-made files would belong to nobody, and the size bounds the wait.
    return await anyio.to_thread.run_sync(work)

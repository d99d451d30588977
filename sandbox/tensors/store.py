"""The store's door: its life, the sandboxes that come and go, and what each of its rooms offers to others."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
import anyio.to_thread

from policies import SandboxId, TenantId
from sandbox.accounts import Account, Ledger, StoreLimits, StoreUsage
from sandbox.instance import InstanceLock
from sandbox.patience import remove_tree
from sandbox.places import Places
from sandbox.reaper import Reaper
from sandbox.tensors import leases
from sandbox.tensors.adoption import Adoption
from sandbox.tensors.dead_outputs import DeadOutputs
from sandbox.tensors.grants import Grants
from sandbox.tensors.holdings import Box, Holdings
from sandbox.tensors.objects import Objects
from sandbox.tensors.outboxes import Outboxes
from sandbox.tensors.room import Room


class TensorStore:
    """All objects of one instance; async context manager.

    ``on_lease_break`` is called with a sandbox that opened a file of its own which the host had adopted: end it.
    ``on_pressure(tenant, sandbox, nbytes)`` is called before a quota refuses, so that a cache can let go of values
    (``sandbox`` is set when that sandbox's own cap is the one in the way).
    """

    def __init__(self, places: Places, limits: StoreLimits | None = None) -> None:
        self._places = places
        self.limits = limits = limits or StoreLimits()
        """The caps that hold here."""
        self._ledger = Ledger(limits)
        self._reaper = Reaper()
        self._held = held = Holdings(places.store, self._ledger, self._reaper)
        self._dead = DeadOutputs(held, limits)
        self._lock = InstanceLock(places)
        self._stack = AsyncExitStack()
        self.on_lease_break: Callable[[SandboxId], None] = lambda _sandbox: None
        self.on_pressure: Callable[[TenantId, SandboxId | None, int], None] = lambda *_: None
        room = Room(held, self._dead, self._press)
        self._objects = objects = Objects(held, self._dead, room)
        grants = Grants(held, objects)
        self._outboxes = outboxes = Outboxes(held, self._dead, room, limits)
        adoption = Adoption(held, objects, outboxes, room)

        # The rooms' own methods, said where they stand: a step in between would be one more for every call of a node.
        self.allocate = outboxes.allocate
        self.allocate_again = outboxes.allocate_again
        self.offer = outboxes.offer
        self.lay_out = outboxes.lay_out
        self.has_allocated = outboxes.has_allocated
        self.huge_bytes = outboxes.huge_bytes
        self.discard = outboxes.discard
        self.take_bytes = outboxes.take_bytes
        self.adopt = adoption.adopt
        self.put = objects.put
        self.put_file = objects.put_file
        self.read = objects.read
        self.retain = objects.retain
        self.retain_objects = objects.retain_objects
        self.release = objects.release
        self.drop_unreferenced = objects.drop_unreferenced
        self.give_back = objects.give_back
        self.grant = grants.grant
        self.revoke = grants.revoke

    # -- life ----------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Take the instance lock and sweep what a dead host left.

        Raises:
            StartError: another process runs this instance.
        """
        await anyio.to_thread.run_sync(self._lock.acquire)
        try:
            group = await self._stack.enter_async_context(anyio.create_task_group())
            group.start_soon(leases.watch, self._held, self._lease_broke)
            group.start_soon(self._reaper.run)
            group.start_soon(self._dead.age)
        except BaseException:
            await anyio.to_thread.run_sync(self._lock.release)
            raise
        self._group = group
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._group.cancel_scope.cancel()
        await self._stack.__aexit__(None, None, None)
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._close)

    # What was set by then is called, not what stands there when this is made.

    def _press(self, tenant: TenantId, sandbox: SandboxId | None, nbytes: int) -> None:
        self.on_pressure(tenant, sandbox, nbytes)

    def _lease_broke(self, maker: SandboxId) -> None:
        self.on_lease_break(maker)

    def _close(self) -> None:
        held = self._held
        for box in held.boxes.values():
            for fd, _ in box.files.values():
                os.close(fd)
        for known in held.objects.values():
            if known.fd >= 0:
                os.close(known.fd)
        self._dead.close()
        self._reaper.close()
        held.objects.clear()
        held.boxes.clear()
        self._lock.release()

    # -- sandboxes -----------------------------------------------------------------------------------------------

    async def register(
        self, sandbox: SandboxId, tenant: TenantId, *, quota: int, quota_name: str, zero_copy: bool = True
    ) -> None:
        """Make the sandbox's two directories.

        ``quota`` caps its live outputs; ``quota_name`` says in an error which line sets it. Without ``zero_copy``
        every output is copied: for sandboxes that could pin pages (GPU) or whose runtime keeps files open (gVisor).
        """
        inbox, outbox = self._places.inbox(sandbox), self._places.outbox(sandbox)

        def make() -> None:
            for directory in (inbox, outbox):
                directory.mkdir(parents=True, mode=0o755)
                directory.chmod(0o755)  # whatever our umask is: the sandbox reads it, and cannot change it

        await anyio.to_thread.run_sync(make)
        self._held.boxes[sandbox] = Box(
            tenant, str(inbox), str(outbox), Account(quota, quota_name), zero_copy
        )

    async def unregister(self, sandbox: SandboxId) -> None:
        """Forget a sandbox that no longer runs: its unpublished files go, its objects stay with who holds them.

        Only call it when no process of the sandbox is left: its leases are given up here.
        """
        held = self._held
        box = held.boxes.pop(sandbox, None)
        if box is None:
            return
        for name, (fd, nbytes) in box.files.items():
            self._ledger.subtract(box.tenant, None, nbytes)
            self._outboxes.remove(f"{box.outbox}/{name}", fd, nbytes)
        self._dead.drop(lambda output: output.sandbox == sandbox)
        self._objects.forget_maker(sandbox)
        self._reaper.forget_sandbox(sandbox)
        await anyio.to_thread.run_sync(remove_tree, Path(box.inbox).parent)

    # -- figures -------------------------------------------------------------------------------------------------

    def usage(self, tenant: TenantId | None = None) -> StoreUsage:
        """What a tenant (or, without one, everybody) holds, outputs in the making included.

        Without dead outputs that wait to be filled again: they give way to whoever asks.
        """
        booked, (nbytes, files) = self._ledger.usage(tenant), self._dead.held(tenant)
        return StoreUsage(booked.bytes - nbytes, booked.objects - files)

    def sandbox_bytes(self, sandbox: SandboxId) -> int:
        """Live outputs of a sandbox."""
        box = self._held.boxes.get(sandbox)
        return box.account.used if box else 0

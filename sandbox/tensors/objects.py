"""Objects: those that the host makes itself, their bytes, and who refers to them."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path

from policies import SandboxId, TenantId
from sandbox import shm
from sandbox.calls import Value
from sandbox.errors import QuotaError, SandboxError
from sandbox.figures import human_bytes
from sandbox.tensors.dead_outputs import DeadOutputs
from sandbox.tensors.holdings import Holdings, StoredObject
from sandbox.tensors.room import Room, full, sized

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW


class Objects:
    """All objects of one instance."""

    def __init__(self, held: Holdings, dead: DeadOutputs, room: Room) -> None:
        self._held = held
        self._dead = dead
        self._room = room

    # -- of the host's own ---------------------------------------------------------------------------------------

    async def put(self, tenant: TenantId, data: bytes) -> str:
        """Make an object of the host's own (a large JSON value, a long string); the caller holds one reference.

        Raises:
            QuotaError: the tenant's quota refuses.
        """
        return await self._put(tenant, len(data), lambda path: shm.write(path, data))

    async def put_file(self, tenant: TenantId, source: int, nbytes: int) -> str:
        """Make an object from the first ``nbytes`` bytes of an open file; the caller holds one reference.

        Raises:
            QuotaError: the tenant's quota refuses, before anything is copied.
            SandboxError: the file is shorter, or cannot be read.
        """
        return await self._put(tenant, nbytes, lambda path: shm.copy(source, path, nbytes))

    async def _put(self, tenant: TenantId, nbytes: int, make: Callable[[Path], int]) -> str:
        await self._room.check(tenant, None, nbytes)
        self._held.ledger.add(tenant, None, nbytes)
        name = secrets.token_hex(16)
        path = self._held.path(name)
        try:
            os.close(await self._room.make(nbytes, lambda: make(path)))
        except BaseException as error:
            self._held.ledger.subtract(tenant, None, nbytes)
            if isinstance(error, shm.FileRefusedError):
                raise SandboxError(f"the file changed while it was read: {error}", "try again") from error
            if isinstance(error, OSError):
                raise full(error, nbytes) from error
            raise
        self._held.objects[name] = StoredObject(name, tenant, None, nbytes, -1, leased=False, references=1)
        return name

    # -- bytes ---------------------------------------------------------------------------------------------------

    async def read(self, object_id: str, limit: int) -> bytes:
        """The bytes of an object.

        Raises:
            QuotaError: it is larger than ``limit``.
            SandboxError: there is no such object.
        """
        known = self._held.known(object_id)
        if known.nbytes > limit:
            raise QuotaError(f"a value of {human_bytes(known.nbytes)} is over {human_bytes(limit)}")
        path = self._held.path(object_id)

        def load() -> bytes:
            fd = os.open(path, _READ)
            try:
                return shm.read(fd, known.nbytes)
            finally:
                os.close(fd)

        return await sized(known.nbytes, load)

    # -- references ----------------------------------------------------------------------------------------------

    def retain(self, value: Value) -> None:
        """Take another reference to each object of ``value``."""
        self.retain_objects(value.objects)

    def retain_objects(self, objects: Iterable[str]) -> None:
        """Take another reference to each object."""
        for known in [self._held.known(object_id) for object_id in objects]:  # all or none
            known.references += 1

    def release(self, value: Value) -> None:
        """Give back one reference to each object of ``value``; what nobody holds any more is freed."""
        self.release_objects(value.objects)

    def release_objects(self, objects: Iterable[str]) -> None:
        """Give back one reference to each object."""
        for object_id in objects:
            known = self._held.objects.get(object_id)
            if known is None:
                continue  # lost with its producer
            known.references -= 1
            if known.references <= 0:
                self.forget(known)

    def drop_unreferenced(self, objects: Iterable[str]) -> None:
        """Free adopted objects that turned out not to be wanted."""
        for object_id in objects:
            known = self._held.objects.get(object_id)
            if known is not None and known.references <= 0:
                self.forget(known)

    async def give_back(self, tenant: TenantId) -> None:
        """Free what of a tenant nobody refers to: dead outputs that wait to be filled again, and what sandboxes held
        on to and have let go of since. The memory is free when this returns."""
        self._dead.drop(lambda output: output.tenant == tenant)
        self._held.reaper.ask_again()
        await self._held.reaper.finish()

    def forget(self, known: StoredObject) -> None:
        """The last reference is gone: free it, unless a sandbox still has it mapped."""
        held = self._held
        if held.objects.pop(known.id, None) is None:
            return
        if self._dead.keep(known):
            return
        path = held.path(known.id)
        if known.fd < 0:
            known.fd = os.open(path, _READ)
        path.unlink(missing_ok=True)
        known.leased = False
        account = held.account(known.producer)
        held.reaper.release(
            known.fd,
            known.nbytes,
            known.holders,
            lambda: held.ledger.subtract(known.tenant, account, known.nbytes),
        )

    def forget_maker(self, sandbox: SandboxId) -> None:
        """No process of a sandbox is left: its objects stay with who holds them, its leases are given up."""
        for known in list(self._held.objects.values()):
            known.holders.discard(sandbox)
            if known.producer == sandbox:
                known.producer = None
                if known.lost:
                    self.forget(known)
                elif known.leased:
                    # Nobody is left who could have an open in flight, so the lease has nothing more to say.
                    known.leased = False
                    os.close(known.fd)
                    known.fd = -1

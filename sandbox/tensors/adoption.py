"""A sandbox's output becomes the host's: as it is when nobody can write to it any more, else as a copy."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

import anyio.lowlevel

from policies import SandboxId
from sandbox import shm
from sandbox.errors import ProtocolViolationError
from sandbox.fast_paths import TAKEN, FastPath
from sandbox.tensors.holdings import Box, Holdings, StoredObject
from sandbox.tensors.objects import Objects
from sandbox.tensors.outboxes import Outboxes
from sandbox.tensors.room import Room, full

ADOPTED_AT_ONCE: Final = 64
COPIED_AT_ONCE: Final = 4 * 1024 * 1024
"""Files, and bytes of copies, that ``adopt`` handles before others get a turn: 2 to 5 ms."""


class Adoption:
    """Takes over what sandboxes publish, for the store."""

    def __init__(self, held: Holdings, objects: Objects, outboxes: Outboxes, room: Room) -> None:
        self._held = held
        self._objects = objects
        self._outboxes = outboxes
        self._room = room

    async def adopt(self, sandbox: SandboxId, files: Iterable[tuple[str, int]]) -> None:
        """Take over published files ``(name, announced bytes)``; afterwards each is an object without a reference.

        A name of an object that the sandbox is granted at this moment stands for that object, which stays as it is.

        All or none: when one is refused, the others are dropped. Call ``retain`` before anything else is awaited.
        Others get a turn between many files, never after the last.

        Raises:
            ProtocolViolationError: a file was never allocated, or was resized, punched or linked elsewhere.
            QuotaError: a copy was needed and does not fit.
        """
        box = self._held.box(sandbox)
        adopted: list[StoredObject] = []
        files_at_once = bytes_at_once = 0
        try:
            for name, announced in files:
                if files_at_once >= ADOPTED_AT_ONCE or bytes_at_once > COPIED_AT_ONCE:
                    files_at_once = bytes_at_once = 0
                    await anyio.lowlevel.checkpoint()
                if name not in box.files and box.grants.get(name):
                    self._check_handed_on(name, announced)
                    continue
                fd, nbytes = self._outboxes.take(box, name)
                try:
                    known = self._as_it_is(sandbox, box, name, fd, nbytes, announced)
                    if known is None:
                        known = await self._copied(sandbox, box, name, fd, nbytes)
                except BaseException:
                    self._held.ledger.subtract(box.tenant, box.account, nbytes)
                    self._outboxes.remove(f"{box.outbox}/{name}", fd, nbytes)
                    raise
                self._held.objects[known.id] = known
                adopted.append(known)
                files_at_once += 1
                bytes_at_once += 0 if known.leased else nbytes
        except BaseException:
            for known in adopted:
                self._objects.forget(known)
            raise

    def _check_handed_on(self, name: str, announced: int) -> None:
        """An input that is granted right now came back: it is an object already, and nobody can write to it."""
        nbytes = self._held.known(name).nbytes
        if announced != nbytes:
            raise ProtocolViolationError(f"input {name} holds {nbytes} bytes, announced were {announced}")

    def _as_it_is(
        self, sandbox: SandboxId, box: Box, name: str, fd: int, nbytes: int, announced: int
    ) -> StoredObject | None:
        """The file itself; None when somebody may still write to it."""
        try:
            if announced != nbytes:
                raise shm.FileRefusedError(f"{nbytes} bytes were allocated, announced were {announced}")
            is_frozen = box.zero_copy and FastPath.ADOPTED_OUTPUTS in TAKEN and shm.freeze(fd)
            shm.check_extent(fd, nbytes)
            if not is_frozen:
                return None
            os.rename(f"{box.outbox}/{name}", f"{self._held.shelf}/{name}")  # noqa: PTH104  (one syscall on tmpfs, and blockbuster knows this place)
            return StoredObject(name, box.tenant, sandbox, nbytes, fd, leased=True, holders={sandbox})
        except shm.FileRefusedError as error:
            raise ProtocolViolationError(f"output file {name}: {error}") from error
        except OSError as error:
            raise full(error, nbytes) from error

    async def _copied(self, sandbox: SandboxId, box: Box, name: str, fd: int, nbytes: int) -> StoredObject:
        target = self._held.path(name)
        try:
            copied = await self._room.make(nbytes, lambda: shm.copy(fd, target, nbytes))
        except shm.FileRefusedError as error:
            raise ProtocolViolationError(f"output file {name}: {error}") from error
        except OSError as error:
            raise full(error, nbytes) from error
        os.close(copied)
        self._outboxes.remove(f"{box.outbox}/{name}", fd, nbytes)
        return StoredObject(name, box.tenant, sandbox, nbytes, -1, leased=False)

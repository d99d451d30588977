"""Files that a sandbox fills: made for it, and gone again unless they are adopted."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable
from pathlib import Path

from policies import SandboxId
from sandbox import shm
from sandbox.accounts import StoreLimits
from sandbox.errors import ProtocolViolationError, QuotaError
from sandbox.tensors.dead_outputs import DeadOutputs
from sandbox.tensors.holdings import Box, Holdings
from sandbox.tensors.room import Room, full, sized

log = logging.getLogger(__name__)


class Outboxes:
    """The out directories of all sandboxes."""

    def __init__(self, held: Holdings, dead: DeadOutputs, room: Room, limits: StoreLimits) -> None:
        self._held = held
        self._ledger = held.ledger
        self._dead = dead
        self._room = room
        self._limits = limits
        self._huge: dict[int, int] = {}
        """By the descriptor of a file that a sandbox may fill: bytes in huge pages. Said anew for each new file."""

    async def allocate(self, sandbox: SandboxId, nbytes: int) -> str:
        """Make a file of ``nbytes`` in the sandbox's outbox and return its name.

        Raises:
            QuotaError: a cap refuses, before any memory is touched.
        """
        box = self._held.box(sandbox)
        if len(box.files) + box.pending >= self._limits.sandbox_files:
            raise QuotaError(
                f"{len(box.files)} output files are open; at most {self._limits.sandbox_files} may be",
                "publish or discard some before asking for more",
            )
        again = self.allocate_again(sandbox, nbytes)
        if again is not None:
            return again
        name = secrets.token_hex(16)
        await self._room.check(box.tenant, sandbox, nbytes)
        self._ledger.add(box.tenant, box.account, nbytes)
        box.pending += 1
        fd = -1
        try:
            path = Path(box.outbox, name)
            fd, huge = await self._room.make(nbytes, lambda: shm.create(path, nbytes))
            self._huge[fd] = huge
            if self._held.boxes.get(sandbox) is not box:
                self.remove(path, fd, nbytes)
                raise QuotaError("the sandbox ended while it asked for memory")
        except BaseException as error:
            self._ledger.subtract(box.tenant, box.account, nbytes)
            if isinstance(error, OSError):
                raise full(error, nbytes) from error
            raise
        finally:
            box.pending -= 1
        box.files[name] = (fd, nbytes)
        return name

    def allocate_again(self, sandbox: SandboxId, nbytes: int) -> str | None:
        """``allocate`` where a dead output of this sandbox can be filled again, at once; None: there is none."""
        box = self._held.boxes.get(sandbox)
        if box is None or len(box.files) + box.pending >= self._limits.sandbox_files:
            return None
        again = self._dead.again(sandbox, box.outbox, nbytes)
        if again is None:
            return None
        name, fd = again
        box.files[name] = (fd, nbytes)
        return name

    def offer(self, sandbox: SandboxId, nbytes: int) -> str | None:
        """``allocate_again`` where as much again could be had without it: an offered file gives way to nobody."""
        box = self._held.boxes.get(sandbox)
        if box is None or self._ledger.refusal(box.tenant, box.account, nbytes) is not None:
            return None
        return self.allocate_again(sandbox, nbytes)

    def lay_out(self, sandbox: SandboxId, sizes: Iterable[int]) -> None:
        """Have a dead output of each of these sizes ready for ``allocate_again``, where there is one."""
        box = self._held.boxes.get(sandbox)
        if box is not None:
            for nbytes in sizes:
                self._dead.lay_out(sandbox, box.outbox, nbytes)

    def has_allocated(self, sandbox: SandboxId, name: str) -> bool:
        """Whether a file of that name was allocated and is neither adopted nor discarded yet."""
        box = self._held.boxes.get(sandbox)
        return box is not None and name in box.files

    def huge_bytes(self, sandbox: SandboxId, name: str) -> int:
        """How many bytes of a file that was just allocated lie in huge pages, from the first on, as far as we know."""
        fd, _ = self._held.box(sandbox).files[name]
        return self._huge.get(fd, 0)

    def discard(self, sandbox: SandboxId, name: str) -> None:
        """Remove an allocated file that will not be published.

        Raises:
            ProtocolViolationError: there is no such file of this sandbox.
        """
        box = self._held.box(sandbox)
        fd, nbytes = self.take(box, name)
        self._ledger.subtract(box.tenant, box.account, nbytes)
        self.remove(f"{box.outbox}/{name}", fd, nbytes)

    async def take_bytes(self, sandbox: SandboxId, name: str, nbytes: int) -> bytes:
        """Read a small allocated file (a preview) and remove it.

        Raises:
            ProtocolViolationError: no such file, or it is shorter than ``nbytes``.
        """
        box = self._held.box(sandbox)
        fd, allocated = self.take(box, name)
        try:
            if nbytes > allocated:
                raise ProtocolViolationError(f"file {name} holds {allocated} bytes, announced were {nbytes}")
            return await sized(nbytes, lambda: shm.read(fd, nbytes))
        except shm.FileRefusedError as error:
            raise ProtocolViolationError(f"file {name}: {error}") from error
        finally:
            self._ledger.subtract(box.tenant, box.account, allocated)
            self.remove(f"{box.outbox}/{name}", fd, allocated)

    @staticmethod
    def take(box: Box, name: str) -> tuple[int, int]:
        """A file out of a box: whoever takes it adopts or removes it.

        Raises:
            ProtocolViolationError: it has none of that name.
        """
        try:
            return box.files.pop(name)
        except KeyError:
            raise ProtocolViolationError(f"it named a file that it was not given: {name!r:.80}") from None

    def remove(self, path: Path | str, fd: int, nbytes: int) -> None:
        """Free a file that only its maker could reach; the books are the caller's."""
        try:
            Path(path).unlink(missing_ok=True)
        except (
            OSError
        ) as error:  # something else stands in its place, which no sandbox should be able to put there
            log.warning("what lies where an output was cannot be removed: %s", error.strerror)
        self._held.reaper.destroy(fd, nbytes)

"""Outputs that nobody wants any more, kept for a moment so that their maker can fill the same pages again.

Making a file's pages costs more than filling them, and freeing them costs nearly as much; a node that runs again
makes outputs of the same size. What is kept here was seen by no sandbox but the one that made it: another that keeps
a descriptor of the file could read along. Whoever made them goes on paying for them, and they go first when memory
is short. Book-keeping only: the files are the store's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from policies import SandboxId, TenantId
from sandbox.accounts import charge

SMALLEST: Final = 256 * 1024
"""Below, making a file anew costs as little."""
MOST_FILES: Final = 64
"""Of one sandbox; each holds a descriptor. What a long chain made and is over is emptied, and made anew at once."""


@dataclass(frozen=True, slots=True)
class KeptOutput:
    """One file, without a lease: unwritable in the store, or laid out where its maker may fill it already."""

    sandbox: SandboxId
    tenant: TenantId
    path: str
    fd: int
    nbytes: int
    since: float
    is_out: bool = False


class KeptOutputs:
    """What is kept, oldest first. ``most_bytes`` is for one sandbox; all together may keep four times that."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._kept: list[KeptOutput] = []
        self._out: list[KeptOutput] = []

    def __bool__(self) -> bool:
        return bool(self._kept or self._out)

    def held(self, tenant: TenantId | None) -> tuple[int, int]:
        """Bytes and files kept for a tenant, or for all."""
        sizes = [output.nbytes for output in self._all() if tenant in (None, output.tenant)]
        return sum(map(charge, sizes)), len(sizes)

    def wants(self, sandbox: SandboxId, nbytes: int) -> bool:
        """Whether there is room for one more of this size."""
        if nbytes < SMALLEST:
            return False
        files = own = total = 0
        for output in self._all():
            total += output.nbytes
            if output.sandbox == sandbox:
                files, own = files + 1, own + output.nbytes
        return (
            files < MOST_FILES and own + nbytes <= self._most_bytes and total + nbytes <= 4 * self._most_bytes
        )

    def keep(self, output: KeptOutput) -> None:
        """Keep one that ``wants`` said yes to, or that was taken to be laid out."""
        (self._out if output.is_out else self._kept).append(output)

    def take(self, sandbox: SandboxId, nbytes: int) -> KeptOutput | None:
        """One of exactly this size that this sandbox made, no longer kept: one that is laid out, else the youngest."""
        return _taken(self._out, sandbox, nbytes) or _taken(self._kept, sandbox, nbytes)

    def take_to_lay_out(self, sandbox: SandboxId, nbytes: int) -> KeptOutput | None:
        """The youngest, unless one of this size is laid out already."""
        if any(output.sandbox == sandbox and output.nbytes == nbytes for output in self._out):
            return None
        return _taken(self._kept, sandbox, nbytes)

    def drop(self, which: Callable[[KeptOutput], bool]) -> Iterable[KeptOutput]:
        """Those that ``which`` names, no longer kept."""
        dropped = [output for output in self._all() if which(output)]
        self._kept = [output for output in self._kept if not which(output)]
        self._out = [output for output in self._out if not which(output)]
        return dropped

    def _all(self) -> list[KeptOutput]:
        return [*self._out, *self._kept]


def _taken(outputs: list[KeptOutput], sandbox: SandboxId, nbytes: int) -> KeptOutput | None:
    for at in range(len(outputs) - 1, -1, -1):
        output = outputs[at]
        if output.nbytes == nbytes and output.sandbox == sandbox:
            return outputs.pop(at)
    return None

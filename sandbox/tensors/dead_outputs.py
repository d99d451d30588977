"""Outputs that nobody wants any more are filled again by the sandbox that made them, or freed.

Which are kept, and for whom, is ``sandbox/kept_outputs.py``'s; their files, and their bytes on the books, are seen to
here.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Final

import anyio

from policies import SandboxId, TenantId
from sandbox import shm
from sandbox.accounts import StoreLimits
from sandbox.kept_outputs import KeptOutput, KeptOutputs
from sandbox.tensors.holdings import Holdings, StoredObject

log = logging.getLogger(__name__)

OUTPUTS_KEPT_S: Final = 10.0
"""How long a dead output waits to be filled again."""


class DeadOutputs:
    """Dead outputs of all sandboxes. ``age`` is its one task."""

    def __init__(self, held: Holdings, limits: StoreLimits) -> None:
        self._held = held
        self._kept = KeptOutputs(limits.kept_bytes)
        self._has_some = anyio.Event()

    def keep(self, known: StoredObject) -> bool:
        """Keep a dead object for its maker to fill again: only what no other sandbox ever saw, and nobody has open."""
        sandbox = known.producer
        if (
            sandbox is None
            or not known.leased
            or known.lost
            or known.seen_by_others
            or sandbox not in self._held.boxes
            or not self._kept.wants(sandbox, known.nbytes)
            or shm.is_open_elsewhere(known.fd)
        ):
            return False
        known.leased = False  # the question ended it
        now = time.monotonic()
        self._kept.keep(KeptOutput(sandbox, known.tenant, known.id, known.fd, known.nbytes, now))
        self._has_some.set()
        return True

    def again(self, sandbox: SandboxId, path: str, nbytes: int) -> int | None:
        """One of this sandbox's under a new name, to be filled again; its descriptor. It is on the books already."""
        while output := self._kept.take(sandbox, nbytes):
            try:
                shm.create_again(output.fd, nbytes, f"{self._held.shelf}/{output.name}", path)
            except (shm.FileRefusedError, OSError) as error:
                log.debug("an output of %s is not filled again: %s", sandbox, error)
                self._free(output)
            else:
                return output.fd
        return None

    def drop(self, which: Callable[[KeptOutput], bool]) -> bool:
        """Free those that ``which`` names; whether there were any."""
        dropped = list(self._kept.drop(which))
        for output in dropped:
            self._free(output)
        return bool(dropped)

    def _free(self, output: KeptOutput) -> None:
        held = self._held
        held.path(output.name).unlink(missing_ok=True)
        account = held.account(output.sandbox)
        held.reaper.release(
            output.fd,
            output.nbytes,
            {output.sandbox},
            lambda: held.ledger.subtract(output.tenant, account, output.nbytes),
        )

    def held(self, tenant: TenantId | None) -> tuple[int, int]:
        """Bytes and files that wait, of a tenant or of all; they are on the books."""
        return self._kept.held(tenant)

    def close(self) -> None:
        """Remove all, whatever the books say. Blocking; for the end."""
        for output in self._kept.drop(lambda _: True):
            self._held.path(output.name).unlink(missing_ok=True)
            os.close(output.fd)

    async def age(self) -> None:
        """Free what has waited long enough. Sleeps while there is nothing."""
        while True:
            await self._has_some.wait()
            self._has_some = anyio.Event()
            while self._kept:
                await anyio.sleep(OUTPUTS_KEPT_S / 2)
                oldest = time.monotonic() - OUTPUTS_KEPT_S
                self.drop(lambda output: output.since < oldest)  # noqa: B023  (asked at once)

"""Outputs that nobody wants any more are filled again by the sandbox that made them, or freed.

Which are kept, and for whom, is ``sandbox/kept_outputs.py``'s; their files, and their bytes on the books, are seen to
here.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import anyio

from policies import SandboxId, TenantId
from sandbox import shm
from sandbox.accounts import StoreLimits
from sandbox.fast_paths import TAKEN, FastPath
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
            or FastPath.KEPT_OUTPUTS not in TAKEN
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
        path = f"{self._held.shelf}/{known.id}"
        self._kept.keep(KeptOutput(sandbox, known.tenant, path, known.fd, known.nbytes, now))
        self._has_some.set()
        return True

    def again(self, sandbox: SandboxId, outbox: str, nbytes: int) -> tuple[str, int] | None:
        """One of this sandbox's, to be filled again under a new name; its descriptor. It is on the books already."""
        while output := self._kept.take(sandbox, nbytes):
            if not output.is_out:
                moved = self._moved(output, outbox)
                if moved is None:
                    continue
                output = moved
            return output.path.rpartition("/")[2], output.fd
        return None

    def lay_out(self, sandbox: SandboxId, outbox: str, nbytes: int) -> None:
        """Do for one what ``again`` would: it may be filled before anybody has asked, and goes on being a dead one."""
        while output := self._kept.take_to_lay_out(sandbox, nbytes):
            moved = self._moved(output, outbox)
            if moved is not None:
                self._kept.keep(moved)
                return

    def _moved(self, output: KeptOutput, outbox: str) -> KeptOutput | None:
        path = f"{outbox}/{secrets.token_hex(16)}"
        try:
            shm.create_again(output.fd, output.nbytes, output.path, path)
        except (shm.FileRefusedError, OSError) as error:
            log.debug("an output of %s is not filled again: %s", output.sandbox, error)
            self._free(output)
            return None
        return replace(output, path=path, is_out=True)

    def drop(self, which: Callable[[KeptOutput], bool]) -> bool:
        """Free those that ``which`` names; whether there were any."""
        dropped = list(self._kept.drop(which))
        for output in dropped:
            self._free(output)
        return bool(dropped)

    def _free(self, output: KeptOutput) -> None:
        held = self._held
        Path(output.path).unlink(missing_ok=True)
        account = held.account(output.sandbox)
        if output.is_out:
            # Its maker may hold it open, and nobody else: as with any output that is not wanted.
            held.ledger.subtract(output.tenant, account, output.nbytes)
            held.reaper.destroy(output.fd, output.nbytes)
            return
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
            Path(output.path).unlink(missing_ok=True)
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

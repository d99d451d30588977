"""Which sandboxes have one of the host's places, and the wait of those that have none.

Who is next, and who gives way, is decided in ``shares.py`` without I/O; here it is waited and ended. A spare holds no
place of its own: it gives way to whoever needs one.
"""

from __future__ import annotations

from collections.abc import Mapping

import anyio

from policies import SandboxId
from sandbox.errors import StartError
from sandbox.launcher import failure
from sandbox.shares import Decision, Place, ShareOf, decide
from sandbox.spare_keeper import SpareKeeper
from sandbox.tenancy import Tenancy


class Admission:
    """The places of one host; ``everyone`` is all that live or wait, in the order of their beginning."""

    def __init__(
        self,
        everyone: Mapping[SandboxId, Tenancy],
        spares: SpareKeeper[Tenancy],
        *,
        most: int,
        share_of: ShareOf,
        wait_s: float,
    ) -> None:
        self._everyone = everyone
        self._spares = spares
        self._most = most
        self._share_of = share_of
        self._wait_s = wait_s
        self._admitted: dict[SandboxId, None] = {}
        self._changed = anyio.Event()
        self._entering = 0
        """Those that wait for a place."""

    async def enter(self, tenancy: Tenancy) -> StartError | None:
        """Wait for a place, ending an idle sandbox if need be; else why there is none."""
        self._entering += 1
        try:
            because = await self._wait(tenancy)
        finally:
            self._entering -= 1
        if because is None:
            return None
        advice = "try again, or raise the host's number of sandboxes (RINGFENCE_MAX_SANDBOXES)"
        if because.startswith("tenant"):
            advice = "run fewer packs at once, or have the quota in default.yaml raised"
        return StartError(because, advice)

    async def _wait(self, tenancy: Tenancy) -> str | None:
        """Until it has a place; why it gets none."""
        because = ""
        with anyio.move_on_after(self._wait_s):
            while True:
                changed = self._changed
                decision = self._decide(tenancy)
                waits_for_spare = (
                    decision.may_enter
                    and len(self._admitted) + self._spares.count >= self._most
                    and self._spares.give_way()
                )
                if decision.may_enter and not waits_for_spare:
                    self.admit(tenancy)
                    self.look_again()
                    return None
                because = decision.because
                if decision.is_final:
                    break
                self._make_room(decision)
                await changed.wait()
        return because

    def may_enter(self, tenancy: Tenancy) -> bool:
        """Whether there is a place for it at once."""
        return self._decide(tenancy).may_enter

    def admit(self, tenancy: Tenancy) -> None:
        """It has a place from now on."""
        self._admitted[tenancy.sandbox.id] = None

    def leave(self, sandbox: SandboxId) -> None:
        """Its place, if it has one, is free."""
        self._admitted.pop(sandbox, None)

    def look_again(self) -> None:
        """A place became free, or a sandbox idle: whoever waits looks again."""
        if not self._entering:
            return  # nobody waits
        self._changed.set()
        self._changed = anyio.Event()

    def _make_room(self, decision: Decision) -> None:
        """End the one that gives way, unless as many are on their way out as wait."""
        ending = sum(
            self._everyone[each].sandbox.is_ending for each in self._admitted if each in self._everyone
        )
        if decision.ends is not None and ending < len(self._waiting()):
            idle = self._everyone[decision.ends].sandbox
            idle.end(failure.stopped(idle.names, "another sandbox needed its place"), deliberate=True)

    def _waiting(self) -> list[Tenancy]:
        return [
            other
            for other in self._everyone.values()
            if other.sandbox.id not in self._admitted and not other.sandbox.is_spare
        ]

    def _decide(self, tenancy: Tenancy) -> Decision:
        held = [_place(self._everyone[sandbox]) for sandbox in self._admitted if sandbox in self._everyone]
        waiting = [_place(other) for other in self._waiting()]
        return decide(_place(tenancy), held, waiting, self._most, self._share_of)


def _place(tenancy: Tenancy) -> Place:
    sandbox = tenancy.sandbox
    is_idle = not (sandbox.in_use or sandbox.is_starting or sandbox.is_ending)
    return Place(sandbox.id, sandbox.tenant, sandbox.policy.memory, is_idle, sandbox.used_at)

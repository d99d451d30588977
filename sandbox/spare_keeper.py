"""Keeps the spare sandboxes that ``spares.py`` plans: starts them one by one, hands them out, ends them.

Who makes a sandbox is the manager; what is particular to a spare is here. Handing one out takes it off the shelf: it is
an ordinary sandbox from then on and never comes back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

import anyio
import anyio.to_thread

from policies import ExtensionName, RingfenceError, TenantId
from runtime import wire
from sandbox.errors import SandboxError
from sandbox.launcher import failure
from sandbox.lifecycle import Sandbox
from sandbox.spares import End, Memory, Owner, SparePlan, Start, Wish, first_to_go, size_for

log = logging.getLogger(__name__)

_ASK_S: Final = 5.0
_REFRESH_S: Final = 30.0
"""How often it is looked whether each spare's code and policy are still the current ones."""


class Held(Protocol):
    """A sandbox as the manager keeps it."""

    @property
    def sandbox(self) -> Sandbox:
        """The sandbox itself."""

    @property
    def key(self) -> Hashable:
        """What it was started for; another policy or content is another key."""


HeldT = TypeVar("HeldT", bound=Held)


@dataclass(frozen=True, slots=True)
class PoolState:
    """The pool as operators see it."""

    size: int
    ready: int
    starting: int
    taken: int
    """Starts that a spare served, since the host's start."""
    missed: int
    """Starts from nothing."""
    without: tuple[tuple[TenantId, str, str], ...] = ()
    """Tenant, extension or group, and why it has no spare."""


@dataclass(frozen=True, slots=True)
class Hands(Generic[HeldT]):
    """What the keeper has the manager do."""

    key: Callable[[TenantId, ExtensionName], Awaitable[Hashable]]
    """What a sandbox of this extension would be started for now."""
    begin: Callable[[TenantId, ExtensionName, tuple[str, ...]], Awaitable[HeldT]]
    """Start a spare; ``gone`` is told of its end."""
    in_use: Callable[[Owner], Sandbox | None]
    """The extension's running sandbox."""
    places: Callable[[], int | None]
    """How many spares may live besides the sandboxes in use; None while one of those is being started."""


class SpareKeeper(Generic[HeldT]):
    """``run`` it in a task of the manager's."""

    def __init__(
        self,
        plan: SparePlan,
        hands: Hands[HeldT],
        memory: Callable[[], Memory] | None = None,
    ) -> None:
        self.plan = plan
        self._hands = hands
        self._memory = memory or machine_memory
        self._shelf: dict[Owner, tuple[HeldT, float]] = {}
        self._ending: set[Sandbox] = set()
        self._changed = anyio.Event()
        self._taken = self._missed = 0

    # -- for the manager -------------------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """Spares that take a place, those among them that are being ended."""
        return len(self._shelf) + len(self._ending)

    def peek(self, owner: Owner, key: Hashable) -> HeldT | None:
        """The spare that was started for exactly this, if there is one."""
        found = self._shelf.get(owner)
        if found is None or found[0].key != key or found[0].sandbox.is_ending:
            return None
        return found[0]

    def take(self, owner: Owner) -> None:
        """The one of ``peek`` leaves the shelf, for good."""
        del self._shelf[owner]
        self._taken += 1
        self.plan.served(owner)
        self._look()

    def started(self, owner: Owner, extension: ExtensionName, *, from_spare: bool) -> None:
        """A sandbox of ``owner`` is in use from now on."""
        if self.plan.size:
            self._missed += not from_spare
            self.plan.used(owner, extension, time.monotonic())
            self._look()

    def give_way(self) -> bool:
        """Somebody needs a place: end a spare. False when there is none."""
        if self._ending:
            return True
        if self._shelf:
            self._end(first_to_go(self._begun()), "another sandbox needed its place")
            return True
        return False

    def forget(self, tenant: TenantId) -> None:
        """Nothing of this tenant is wished any more, and its spares end."""
        for owner in [owner for owner in self.plan.wishes if owner[0] == tenant]:
            self.plan.forget(owner)
        for owner in [owner for owner in self._shelf if owner[0] == tenant]:
            self._end(owner, "its tenant was removed")
        self._look()

    def wants(self, tenant: TenantId) -> bool:
        """Whether anything of this tenant is wished."""
        return any(owner[0] == tenant for owner in self.plan.wishes)

    def gone(self, held: HeldT) -> None:
        """A sandbox that was begun as a spare, and was not taken, has ended."""
        self._ending.discard(held.sandbox)
        for owner, (other, _) in list(self._shelf.items()):
            if other is held:
                del self._shelf[owner]
                if held.sandbox.is_deliberate:
                    self.plan.settle(
                        owner, time.monotonic()
                    )  # stopped by hand, or its extension is being removed
                    continue
                why = held.sandbox.ended_by.message if held.sandbox.ended_by else "it ended"
                log.warning("a spare sandbox died before its use: %s", why)
                self.plan.failed(owner, why, time.monotonic())
        self._look()

    def state(self) -> PoolState:
        """As it is now."""
        ready = sum(held.sandbox.is_prepared for held, _ in self._shelf.values())
        without = tuple(
            (tenant, unit.partition(":")[2], wish.why_not or "it is started soon")
            for (tenant, unit), wish in self.plan.wishes.items()
            if (tenant, unit) not in self._shelf
        )
        return PoolState(self.plan.size, ready, len(self._shelf) - ready, self._taken, self._missed, without)

    async def filled(self, count: int) -> None:
        """Wait until ``count`` spares are ready."""
        while self.state().ready < count:
            await self._changed.wait()

    # -- by itself -------------------------------------------------------------------------------------------------

    def _begun(self) -> dict[Owner, float]:
        return {owner: at for owner, (_, at) in self._shelf.items()}

    def _look(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def run(self) -> None:
        """Do what the plan says, until cancelled."""
        refreshed = time.monotonic()
        while self.plan.size:
            changed, now = self._changed, time.monotonic()
            if now - refreshed > _REFRESH_S:
                refreshed = now
                await self._refresh()
            for owner in self.plan.wishes:
                sandbox = self._hands.in_use(owner)
                if sandbox is not None:
                    self.plan.seen_busy(owner, now if sandbox.calls else sandbox.used_at)
            begun = self._begun()
            memory = await anyio.to_thread.run_sync(self._memory)
            if self._ending:  # what it leaves behind is not free yet
                with anyio.move_on_after(_REFRESH_S):
                    await changed.wait()
                continue
            places = self._hands.places()
            step = self.plan.next(now, begun, memory, places=places)
            if isinstance(step, Start):
                await self._start(step)
                continue
            if isinstance(step, End) and step.owner in self._shelf:
                self._end(step.owner, step.why)
                continue
            with anyio.move_on_after(self.plan.pause(now, begun, places=places)):
                await changed.wait()

    async def _start(self, step: Start) -> None:
        tenant, owner, wish = step.owner[0], step.owner, step.wish
        await self._learn(owner, wish)
        try:
            held = await self._hands.begin(tenant, wish.extension, wish.slow)
        except SandboxError as error:
            self.plan.forget(owner)  # removed, or not ready to run: its next use is its next wish
            log.debug("no spare for %s of tenant %s: %s", owner[1], tenant, error)
            return
        except RingfenceError as error:
            self.plan.failed(owner, error.message, time.monotonic())
            return
        self._shelf[owner] = (held, time.monotonic())
        with anyio.move_on_after(_ASK_S * 12):  # one at a time: a start is CPU work
            try:
                await held.sandbox.ready()
                await held.sandbox.prepared()
            except SandboxError:
                pass  # ``gone`` was told
        self._look()

    async def _learn(self, owner: Owner, wish: Wish) -> None:
        """What the extension has imported so far in its running sandbox, its spare shall have imported, too."""
        running = self._hands.in_use(owner)
        if running is not None and not running.is_starting and not running.is_ending:
            found = await running.slow_modules((), _ASK_S)
            # Too busy to say: better an import that nobody needs than one that somebody waits for.
            wish.slow = tuple(sorted({*wish.slow, *(wire.SLOW_MODULES if found is None else found)}))

    async def _refresh(self) -> None:
        for owner, (held, _) in list(self._shelf.items()):
            wish = self.plan.wishes.get(owner)
            try:
                current = wish is not None and await self._hands.key(owner[0], wish.extension) == held.key
            except RingfenceError:
                current = False
            if not current and self._shelf.get(owner, (None,))[0] is held:
                self._end(owner, "its code or policy has changed")
            elif wish is not None:
                before = wish.slow
                await self._learn(owner, wish)
                if wish.slow != before and held.sandbox.is_spare:
                    await held.sandbox.slow_modules(wish.slow, held.sandbox.policy.timeouts.import_s)

    def _end(self, owner: Owner, why: str) -> None:
        held, _ = self._shelf.pop(owner)
        self._ending.add(held.sandbox)
        held.sandbox.end(failure.stopped(held.sandbox.names, why), deliberate=True)


def default_size() -> int:
    """How many spares this machine keeps when nobody said. Blocking, but it reads memory only."""
    return size_for(machine_memory())


def machine_memory() -> Memory:
    """What the kernel says of the machine. Blocking, but it reads memory only."""
    figures = {}
    for line in Path("/proc/meminfo").read_text("ascii").splitlines():
        name, _, rest = line.partition(":")
        if name in ("MemTotal", "MemAvailable"):
            figures[name] = int(rest.split()[0]) * 1024
    return Memory(figures["MemTotal"], figures["MemAvailable"])

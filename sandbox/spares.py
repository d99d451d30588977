"""For which extensions a spare sandbox is kept: a plan without I/O. What happened goes in, the next step comes out.

A spare is a sandbox of exactly one tenant's extension (or group) and policy, started like every other, whose worker has
loaded nothing of it. The extensions used last have one, ``size`` of them in all; one that was used within ``HOLD_S``
keeps its spare, so that a prompt of many extensions does not end one spare for another all the time. Spares live in
memory that nobody else needs: none is started when little is left, and the oldest ends when less is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from policies import ExtensionName, RingfenceError, TenantId
from sandbox.figures import human_bytes

MIB: Final = 1024 * 1024
SETTLE_S: Final = 5.0
"""From the start of a sandbox to the start of its spare: its first calls have the processor for themselves."""
HOLD_S: Final = 300.0
COST: Final = 32 * MIB
"""What a spare takes of the machine's memory, rounded up, without torch and with it."""
COST_WITH_TORCH: Final = 288 * MIB
BACK_OFF_S: Final = (30.0, 120.0, 600.0)
"""After a spare that died or could not be started, the first time, the second, and from then on."""
KNOWN_MOST: Final = 1024

Owner = tuple[TenantId, str]
"""A tenant and ``extension:<name>`` or ``group:<name>``."""


class NoSpareError(RingfenceError):
    """What this extension may use cannot be set aside for a spare."""

    code = "no_spare"


@dataclass(frozen=True, slots=True)
class Memory:
    """The machine's, in bytes."""

    total: int
    available: int

    @property
    def reserve(self) -> int:
        """What stays free when a spare is started."""
        return max(512 * MIB, self.total // 10)


def size_for(memory: Memory) -> int:
    """How many spares a machine of this size keeps when nobody said."""
    return max(0, min(4, round(memory.total / (4 * 1024 * MIB)) - 1))


@dataclass(slots=True)
class Wish:
    """An extension that has been used, and would be started faster from a spare."""

    extension: ExtensionName
    """It, or a member of the group."""
    last: float
    """When it was used."""
    not_before: float
    slow: tuple[str, ...] = ()
    """What its worker imports ahead of need."""
    failures: int = 0
    why_not: str = ""
    """Why there is no spare; for whoever asks."""


@dataclass(frozen=True, slots=True)
class Start:
    """Start a spare."""

    owner: Owner
    wish: Wish


@dataclass(frozen=True, slots=True)
class End:
    """End a spare."""

    owner: Owner
    why: str


@dataclass(slots=True)
class SparePlan:
    """Whoever does what ``next`` says tells what came of it."""

    size: int
    settle_s: float = SETTLE_S
    wishes: dict[Owner, Wish] = field(default_factory=dict)

    def used(self, owner: Owner, extension: ExtensionName, now: float) -> None:
        """A sandbox of ``owner`` was started, or taken from the spares."""
        known = self.wishes.pop(owner, None)
        wish = known or Wish(extension, now, now)
        wish.last, wish.not_before = now, max(wish.not_before, now + self.settle_s)
        self.wishes[owner] = wish  # the one used last is last
        if len(self.wishes) > KNOWN_MOST:
            del self.wishes[next(iter(self.wishes))]

    def seen_busy(self, owner: Owner, at: float) -> None:
        """Its sandbox was used until ``at``."""
        wish = self.wishes.get(owner)
        if wish is not None:
            wish.last = max(wish.last, at)

    def failed(self, owner: Owner, why: str, now: float) -> None:
        """Its spare died before it was used, or did not start."""
        wish = self.wishes.get(owner)
        if wish is not None:
            wish.not_before = now + BACK_OFF_S[min(wish.failures, len(BACK_OFF_S) - 1)]
            wish.failures += 1
            wish.why_not = why

    def settle(self, owner: Owner, now: float) -> None:
        """Leave it alone for a while."""
        wish = self.wishes.get(owner)
        if wish is not None:
            wish.not_before = max(wish.not_before, now + self.settle_s)

    def served(self, owner: Owner) -> None:
        """Its spare was of use."""
        wish = self.wishes.get(owner)
        if wish is not None:
            wish.failures = 0

    def forget(self, owner: Owner) -> None:
        """The extension is gone."""
        self.wishes.pop(owner, None)

    def next(
        self, now: float, held: Mapping[Owner, float], memory: Memory, *, room: bool
    ) -> Start | End | None:
        """The next step; ``held`` are the spares there are, by their start. None: all is as it should be."""
        if held and memory.available < memory.reserve // 2:
            oldest = min(held, key=held.__getitem__)
            return End(oldest, f"the machine has {human_bytes(memory.available)} of memory left")
        lasts = {owner: wish.last for owner, wish in self.wishes.items()}
        for owner, wish in sorted(self.wishes.items(), key=lambda item: -item[1].last):
            if owner in held or now < wish.not_before:
                continue
            if len(held) >= self.size:
                stalest = min(held, key=lambda each: lasts.get(each, 0.0), default=None)
                if stalest is None:
                    return None
                if wish.last - lasts.get(stalest, 0.0) > HOLD_S:
                    return End(stalest, "another extension has been used since")
                wish.why_not = f"the pool holds {self.size}, of extensions used as lately (RINGFENCE_POOL)"
                continue
            cost = COST_WITH_TORCH if "torch" in wish.slow else COST
            if not room:
                wish.why_not = "as many sandboxes run as may (RINGFENCE_MAX_SANDBOXES)"
            elif memory.available - cost < memory.reserve:
                wish.why_not = f"the machine has {human_bytes(memory.available)} of memory left"
            else:
                wish.why_not = ""
                return Start(owner, wish)
        return None

    def pause(self, now: float, held: Mapping[Owner, float], *, room: bool = True) -> float:
        """Seconds until ``next`` may say something else by itself."""
        if not room and any(owner not in held for owner in self.wishes):
            return max(0.05, self.settle_s / 5)
        coming = [
            wish.not_before - now
            for owner, wish in self.wishes.items()
            if owner not in held and wish.not_before > now
        ]
        return max(0.05, min([30.0, *coming]))

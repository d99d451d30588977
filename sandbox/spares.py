"""For which extensions a spare sandbox is kept: a plan without I/O. What happened goes in, the next step comes out.

A spare is a sandbox of exactly one tenant's extension (or group) and policy, started like every other, whose worker has
loaded nothing of it. The extensions used last have one, ``size`` of them in all; one that was used within ``HOLD_S``
keeps its spare, so that a prompt of many extensions does not end one spare for another all the time. While several
tenants want spares no one of them has more than its part: who has two more than another gives one up to it, and who has
fewest comes first, among those used within ``HOLD_S``. Spares live in memory that nobody else needs: none is started
when little is left, and the oldest ends when less is.
"""

from __future__ import annotations

from collections import Counter
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

    @property
    def cost(self) -> int:
        """Of its spare, in bytes."""
        return COST_WITH_TORCH if "torch" in self.slow else COST


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
    turns: dict[TenantId, float] = field(default_factory=dict)
    """When a spare of each tenant was last started."""

    def used(self, owner: Owner, extension: ExtensionName, now: float) -> None:
        """A sandbox of ``owner`` was started, or taken from the spares."""
        known = self.wishes.pop(owner, None)
        wish = known or Wish(extension, now, now)
        wish.last, wish.not_before = now, max(wish.not_before, now + self.settle_s)
        self.wishes[owner] = wish  # the one used last is last
        if len(self.wishes) > KNOWN_MOST:
            ((greediest, _),) = Counter(tenant for tenant, _ in self.wishes).most_common(1)
            del self.wishes[next(each for each in self.wishes if each[0] == greediest)]
            self.turns = {tenant: self.turns[tenant] for tenant, _ in self.wishes if tenant in self.turns}

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
        self, now: float, held: Mapping[Owner, float], memory: Memory, *, places: int | None
    ) -> Start | End | None:
        """The next step; ``held`` are the spares there are, by their start. None: all is as it should be.

        ``places`` is how many spares may live besides the sandboxes in use; None while one of those starts.
        """
        if held and memory.available < memory.reserve // 2:
            return End(first_to_go(held), f"the machine has {human_bytes(memory.available)} of memory left")
        parts = Counter(tenant for tenant, _ in held)
        for owner, wish in sorted(self.wishes.items(), key=lambda item: self._turn(item[0], now, parts)):
            if owner in held or now < wish.not_before or self.size == 0:
                continue
            why_not = self._why_not(wish, len(held), memory, places)
            wish.why_not = why_not
            if not why_not:
                self.turns[owner[0]] = now
                return Start(owner, wish)
            end = self._in_favour_of(owner, now, held, parts) if held and places is not None else None
            if end is not None and memory.available + self._cost(end.owner) - wish.cost >= memory.reserve:
                return end
        return None

    def _turn(
        self, owner: Owner, now: float, parts: Mapping[TenantId, int]
    ) -> tuple[bool, int, float, float]:
        """First what was used within HOLD_S, then whose tenant has the fewest, then whose tenant's turn is longer ago,
        then what was used last."""
        tenant, last = owner[0], self.wishes[owner].last
        return (now - last > HOLD_S, parts.get(tenant, 0), self.turns.get(tenant, float("-inf")), -last)

    def _why_not(self, wish: Wish, held: int, memory: Memory, places: int | None) -> str:
        if held >= self.size:
            return f"the pool holds {self.size}, of extensions used as lately (RINGFENCE_POOL)"
        if places is None:
            return "a sandbox is being started"
        if held >= places:
            return "as many sandboxes run as may (RINGFENCE_MAX_SANDBOXES)"
        if memory.available - wish.cost < memory.reserve:
            return f"the machine has {human_bytes(memory.available)} of memory left"
        return ""

    def _cost(self, owner: Owner) -> int:
        known = self.wishes.get(owner)
        return known.cost if known is not None else COST

    def _in_favour_of(
        self, owner: Owner, now: float, held: Mapping[Owner, float], parts: Mapping[TenantId, int]
    ) -> End | None:
        """The spare that makes way for one of ``owner``'s: a richer tenant's, or one that nobody used for long."""

        def last(each: Owner) -> float:
            known = self.wishes.get(each)
            return known.last if known is not None else float("-inf")

        wish, most = self.wishes[owner], max(parts.values())
        if parts.get(owner[0], 0) + 2 <= most and now - wish.last <= HOLD_S:
            stalest = min((each for each in held if parts[each[0]] == most), key=last)
            return End(stalest, "its tenant had more than its part of the spares")
        stalest = min(held, key=last)
        if wish.last - last(stalest) > HOLD_S and self._comes_before(owner, stalest, now, parts):
            return End(stalest, "another extension has been used since")
        return None

    def _comes_before(self, owner: Owner, other: Owner, now: float, parts: Mapping[TenantId, int]) -> bool:
        """Whether the place of ``other``'s spare would not go to ``other`` again."""
        without = {**parts, other[0]: parts.get(other[0], 0) - 1}
        return other not in self.wishes or self._turn(owner, now, without) < self._turn(other, now, without)

    def pause(self, now: float, held: Mapping[Owner, float], *, places: int | None) -> float:
        """Seconds until ``next`` may say something else by itself."""
        if (places is None or places <= len(held)) and any(owner not in held for owner in self.wishes):
            return max(0.05, self.settle_s / 5)
        coming = [
            wish.not_before - now
            for owner, wish in self.wishes.items()
            if owner not in held and wish.not_before > now
        ]
        return max(0.05, min([30.0, *coming]))


def first_to_go(held: Mapping[Owner, float]) -> Owner:
    """Of the tenant that has the most, the oldest."""
    parts = Counter(tenant for tenant, _ in held)
    return min(held, key=lambda owner: (-parts[owner[0]], held[owner]))

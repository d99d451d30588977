"""Which waiting sandbox gets the next place, and which idle one gives way: by tenants' quotas and weights. Pure.

Among those that wait and fit their own tenant's quotas, the one whose tenant has fewest sandboxes for its weight goes
first; of one tenant, the one that came first. An idle sandbox gives way to another of its tenant, or to a tenant that
has fewer for its weight: nobody's flood pushes out the only warm sandbox of somebody else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from policies import SandboxId, TenantId
from sandbox.figures import human_bytes


@dataclass(frozen=True, slots=True)
class Share:
    """What one tenant may have of the sandboxes; None: no limit of its own."""

    sandboxes: int | None = None
    memory: int | None = None
    weight: int = 1
    sandboxes_name: str = "quota 'sandboxes'"
    memory_name: str = "quota 'memory'"


@dataclass(frozen=True, slots=True)
class Place:
    """A sandbox that has, or wants, a place."""

    sandbox: SandboxId
    tenant: TenantId
    memory: int
    is_idle: bool = False
    used_at: float = 0.0


ShareOf = Callable[[TenantId], Share]


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do for a sandbox that waits: let it in, end that one first, or wait, and for what."""

    may_enter: bool = False
    ends: SandboxId | None = None
    because: str = ""
    is_final: bool = False
    """Waiting will not help."""


def decide(
    wanted: Place, held: Sequence[Place], waiting: Sequence[Place], most: int, share_of: ShareOf
) -> Decision:
    """What to do for ``wanted``, one of those ``waiting`` (oldest first), with ``held`` places taken of ``most``."""
    counts = Counter(place.tenant for place in held)
    share = share_of(wanted.tenant)
    own = [place for place in held if place.tenant == wanted.tenant]
    over = _over_own(wanted, own, share)
    if over:
        idle_own = [place for place in own if place.is_idle]
        return Decision(ends=_oldest(idle_own), because=over, is_final=not own)
    if len(held) < most:
        first = min(
            (
                place
                for place in waiting
                if not _over_own(place, _of(held, place.tenant), share_of(place.tenant))
            ),
            key=lambda place: counts[place.tenant] / share_of(place.tenant).weight,
            default=wanted,
        )
        return Decision(may_enter=first.sandbox == wanted.sandbox, because="others are first")
    level = counts[wanted.tenant] / share.weight
    idle = [
        place
        for place in held
        if place.is_idle
        and (place.tenant == wanted.tenant or counts[place.tenant] / share_of(place.tenant).weight > level)
    ]
    because = f"{most} sandboxes run and all are busy"
    if not idle:
        return Decision(because=because)
    heaviest = max(counts[place.tenant] / share_of(place.tenant).weight for place in idle)
    return Decision(
        ends=_oldest(
            [place for place in idle if counts[place.tenant] / share_of(place.tenant).weight == heaviest]
        ),
        because=because,
    )


def _over_own(wanted: Place, own: Sequence[Place], share: Share) -> str:
    if share.sandboxes is not None and len(own) >= share.sandboxes:
        return (
            f"tenant '{wanted.tenant}' has {len(own)} sandboxes, as many as its quota 'sandboxes' allows "
            f"({share.sandboxes_name}), and all are busy"
        )
    memory = sum(place.memory for place in own)
    if share.memory is not None and memory + wanted.memory > share.memory:
        return (
            f"tenant '{wanted.tenant}': its quota 'memory' is {human_bytes(share.memory)} ({share.memory_name}); its "
            f"sandboxes have {human_bytes(memory)} and this one wants {human_bytes(wanted.memory)}"
        )
    return ""


def _of(held: Sequence[Place], tenant: TenantId) -> list[Place]:
    return [place for place in held if place.tenant == tenant]


def _oldest(places: Sequence[Place]) -> SandboxId | None:
    return min(places, key=lambda place: place.used_at).sandbox if places else None

"""Whose turn it is between tenants: weighted, without starvation, and cheap to decide. Pure.

Stride scheduling: every turn costs a tenant ``1 / weight`` of a common clock, and who is least far on that clock goes
next. A tenant that comes back after a pause starts at the clock of those that are there: it has saved nothing up, and
owes nothing. Before that counts who has less running for its weight, since prompts take unequal time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from policies import TenantId

KEPT = 10_000
"""Tenants that are remembered; one that was forgotten starts as a new one does."""


class Turns:
    """Who has had how many turns for its weight."""

    def __init__(self, weight_of: Callable[[TenantId], int] = lambda _tenant: 1) -> None:
        self._weight_of = weight_of
        self._spent: dict[TenantId, float] = {}
        self._clock = 0.0
        self._last: dict[TenantId, int] = {}
        self._count = 0

    def order(self, waiting: Collection[TenantId], running: Mapping[TenantId, int]) -> list[TenantId]:
        """The waiting tenants, the one whose turn it is first."""

        if len(waiting) == 1:
            return list(waiting)

        def place(tenant: TenantId) -> tuple[float, float, int]:
            load = running.get(tenant, 0) / self._weight(tenant)
            return load, max(self._spent.get(tenant, 0.0), self._clock), self._last.get(tenant, 0)

        return sorted(waiting, key=place)

    def took(self, tenant: TenantId, waiting: Collection[TenantId]) -> None:
        """``tenant``, one of those that waited, had its turn."""
        clock = self._clock
        least = self._spent[tenant] = max(self._spent.get(tenant, 0.0), clock) + 1 / self._weight(tenant)
        # The clock follows whoever is least far of those that want something: an idle tenant earns nothing meanwhile.
        for each in waiting:
            least = min(least, max(self._spent.get(each, 0.0), clock))
        self._clock = max(clock, least)
        self._count += 1
        self._last.pop(tenant, None)
        self._last[tenant] = self._count  # in the order of their turns, so that the first is the longest ago
        if len(self._spent) > KEPT:
            gone = next(iter(self._last))
            del self._spent[gone], self._last[gone]

    def _weight(self, tenant: TenantId) -> int:
        return max(1, self._weight_of(tenant))

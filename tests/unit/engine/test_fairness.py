"""Weighted turns between tenants."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.fairness import Turns
from policies import TenantId

A, B, C = TenantId("a"), TenantId("b"), TenantId("c")


def turns_of(turns: Turns, waiting: list[TenantId], count: int) -> list[TenantId]:
    taken = []
    for _ in range(count):
        tenant = turns.order(waiting, {})[0]
        turns.took(tenant, waiting)
        taken.append(tenant)
    return taken


def test_a_tenant_of_weight_three_gets_three_turns_for_one_of_the_other() -> None:
    turns = Turns(lambda tenant: 3 if tenant == A else 1)
    assert Counter(turns_of(turns, [A, B], 400)) == {A: 300, B: 100}


def test_who_runs_less_for_its_weight_goes_first() -> None:
    turns = Turns(lambda tenant: 2 if tenant == A else 1)
    assert turns.order([A, B], {A: 3, B: 1})[0] == B
    assert turns.order([A, B], {A: 1, B: 1})[0] == A


def test_a_tenant_that_comes_back_has_saved_nothing_up() -> None:
    turns = Turns()
    turns_of(turns, [A], 1000)
    taken = turns_of(turns, [A, B], 20)
    assert Counter(taken) == {A: 10, B: 10}
    assert "".join(taken[:4]) in ("baba", "abab")


def test_many_tenants_are_remembered_in_bounded_memory() -> None:
    turns = Turns()
    for number in range(12_000):
        tenant = TenantId(f"t{number}")
        turns.took(tenant, [tenant])
    assert len(turns._spent) <= 10_000
    assert len(turns._last) <= 10_000


@settings(deadline=None)
@given(
    weights=st.lists(st.integers(1, 20), min_size=2, max_size=6),
    arrivals=st.lists(st.sets(st.integers(0, 5), min_size=1), min_size=1, max_size=120),
)
def test_nobody_starves_and_nobody_gets_more_than_its_share(
    weights: list[int], arrivals: list[set[int]]
) -> None:
    names = [TenantId(f"t{number}") for number in range(len(weights))]
    turns = Turns(lambda tenant: weights[names.index(tenant)])
    waited: Counter[TenantId] = Counter()
    most = sum(weights) + len(weights)
    for present in arrivals:
        waiting = [names[number] for number in present if number < len(names)]
        if not waiting:
            continue
        taken = turns.order(waiting, {})[0]
        turns.took(taken, waiting)
        for tenant in names:
            waited[tenant] = waited[tenant] + 1 if tenant in waiting and tenant != taken else 0
            assert waited[tenant] <= most, "a tenant that always waited was passed over for too long"

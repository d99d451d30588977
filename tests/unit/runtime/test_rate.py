from __future__ import annotations

from runtime.rate import Budget


def test_a_burst_then_a_steady_rate() -> None:
    now = 0.0
    budget = Budget(3, 2, clock=lambda: now)
    assert [budget.take() for _ in range(4)] == [True, True, True, False]
    now = 0.5
    assert [budget.take() for _ in range(2)] == [True, False]
    now = 1000.0
    assert [budget.take() for _ in range(4)] == [True, True, True, False]


def test_what_is_refused_costs_nothing() -> None:
    budget = Budget(10, 0)
    assert not budget.take(11)
    assert budget.take(10)

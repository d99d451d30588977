"""A state machine: tenants submit, prompts run and end, CPU time passes; no quota is ever exceeded, nobody starves."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.fairness import Turns
from engine.quotas import QuotaBook
from policies import Quotas, TenantId
from tests.properties import tried

NAMES = [TenantId(f"t{number}") for number in range(4)]
TENANT = st.sampled_from(NAMES)
CONCURRENCY = 3


class Machine(RuleBasedStateMachine):
    """The dispatcher's decision over a book and turns, without its tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.quotas = {
            name: Quotas(prompts=1 + number % 3, queued=3, cpu_seconds=10, window=100.0, weight=1 + number)
            for number, name in enumerate(NAMES)
        }
        self.book = QuotaBook(clock=lambda: self.now)
        for name, quotas in self.quotas.items():
            self.book._keep(name, quotas)
        self.turns = Turns(self.book.weight)
        self.pending: Counter[TenantId] = Counter()
        self.running: Counter[TenantId] = Counter()
        self.spent: list[tuple[float, TenantId, int]] = []

    @rule(tenant=TENANT)
    def submit(self, tenant: TenantId) -> None:
        is_late = self.book.over_time(tenant) is not None
        if not is_late and self.pending[tenant] < (self.quotas[tenant].queued or 0):
            self.pending[tenant] += 1

    @rule()
    def dispatch(self) -> None:
        waiting = [name for name in NAMES if self.pending[name]]
        for tenant in self.turns.order(waiting, self.running):
            room = CONCURRENCY - self.running.total()
            if room <= 0 and (self.running[tenant] or room + CONCURRENCY <= 0):
                continue
            if self.running[tenant] >= (self.quotas[tenant].prompts or 0) or self.book.over_time(tenant):
                continue
            self.pending[tenant] -= 1
            self.running[tenant] += 1
            self.turns.took(tenant, waiting)
            return
        for (
            tenant
        ) in waiting:  # nobody could be served: each has a reason of its own, or all places are taken
            full = self.running.total() >= CONCURRENCY and self.running[tenant]
            assert full or self.running[tenant] or self.book.over_time(tenant)

    @precondition(lambda self: self.running.total())
    @rule(data=st.data(), cpu=st.integers(0, 4))
    def end(self, data: st.DataObject, cpu: int) -> None:
        tenant = data.draw(st.sampled_from([name for name in NAMES if self.running[name]]))
        self.running[tenant] -= 1
        self.spent.append((self.now, tenant, cpu))
        self.book.charge_time(tenant, cpu, 0)

    @rule(seconds=st.integers(1, 60))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @invariant()
    def no_quota_is_exceeded(self) -> None:
        assert self.running.total() <= 2 * CONCURRENCY
        for name, quotas in self.quotas.items():
            assert self.running[name] <= (quotas.prompts or 0)
            assert self.pending[name] <= (quotas.queued or 0)

    @invariant()
    def the_window_counts_what_was_spent_in_it(self) -> None:
        for name in NAMES:
            since = [amount for at, tenant, amount in self.spent if tenant == name and at > self.now - 100.0]
            surely = [amount for at, tenant, amount in self.spent if tenant == name and at > self.now - 98.0]
            counted = self.book._accounts[name].cpu.total(100.0)
            assert sum(surely) <= counted + 1e-9 or self.book.over_time(name) is not None
            assert counted <= sum(since) + 1e-9
            assert (self.book.over_time(name) is not None) == (counted >= 10)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=tried(25, 1000), stateful_step_count=40, deadline=None)

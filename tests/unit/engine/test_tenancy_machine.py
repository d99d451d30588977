"""A state machine over the real engine and database: tenants come and go, prompts come, end, are cancelled, the host
starts anew. No id crosses, no quota is exceeded, each accepted prompt ends exactly once, and a tenant's own keep order.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import anyio
import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine import Scope, TenantExistsError, TokenError, TokenExistsError, TokenUnknownError, database
from engine.testing import until_ended
from policies import TenantId
from tests.properties import tried
from tests.unit.engine.tenancy import CONCURRENCY, NAMES, PROMPTS, QUEUED, RESERVE, Book, Life, life
from tests.unit.prepared_database import copy_or_migrate

TENANT = st.sampled_from(NAMES)


@pytest.fixture(autouse=True)
def blocking_calls_fail() -> None:
    """Off: the database and this machine work in threads of their own."""


class Tenancy(RuleBasedStateMachine):
    """What a studio's users and its operator do, one after another; what the engine does of it at once is its own."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self._patch = patch.object(database, "_migrate_in_thread", copy_or_migrate)
        self._patch.start()
        self._portals = start_blocking_portal()
        self.portal = self._portals.__enter__()
        self.book = self.portal.call(_book)
        self._begin()
        self.live: list[TenantId] = []
        self.tokens: dict[TenantId, dict[str, str]] = {}
        self.dead_tokens: list[str] = []
        self.accepted: dict[TenantId, list[str]] = {name: [] for name in NAMES}
        """Ids in the order in which they came; those of a removed tenant are gone."""
        self.ended: dict[TenantId, set[str]] = {name: set() for name in NAMES}
        self.removed: dict[TenantId, set[str]] = {name: set() for name in NAMES}
        """Taken out of the queue before they ran."""
        self.count = 0

    def _begin(self) -> None:
        self._life = self.portal.wrap_async_context_manager(life(self.directory, self.book))
        self.host: Life = self._life.__enter__()

    def call(self, function: Any, *arguments: Any) -> Any:
        return self.portal.call(function, *arguments)

    def settle(self) -> None:
        self.call(self.host.settled, self.live)

    @initialize()
    def two_to_begin_with(self) -> None:
        self.add(NAMES[0])
        self.add(NAMES[1])

    # -- the operator ------------------------------------------------------------------------------------------------

    @rule(tenant=TENANT)
    def add(self, tenant: TenantId) -> None:
        try:
            _, secret = self.call(self.host.tenants.create, tenant)
        except TenantExistsError:
            assert tenant in self.live
            return
        assert tenant not in self.live
        self.live.append(tenant)
        self.tokens[tenant] = {"first": secret}

    @precondition(lambda self: len(self.live) > 1)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        tenant = data.draw(st.sampled_from(self.live))
        self.call(self.host.remove, tenant)
        self.live.remove(tenant)
        self.dead_tokens += self.tokens.pop(tenant).values()
        for by_tenant in (self.ended, self.removed):
            by_tenant[tenant].clear()
        self.accepted[tenant].clear()
        assert self.call(self.host.seen, tenant) == ([], [], [])
        self.settle()

    @rule()
    def restart(self) -> None:
        self._life.__exit__(None, None, None)
        assert not self.book.waiting
        self._begin()
        self.settle()

    # -- tokens --------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.live)
    @rule(data=st.data(), name=st.sampled_from(["one", "two"]))
    def make_a_token(self, data: st.DataObject, name: str) -> None:
        tenant = data.draw(st.sampled_from(self.live))
        try:
            _, secret = self.call(self.host.tenants.create_token, tenant, name, frozenset((Scope.RUN,)))
        except TokenExistsError:
            assert name in self.tokens[tenant]
            return
        assert name not in self.tokens[tenant]
        self.tokens[tenant][name] = secret

    @precondition(lambda self: self.live)
    @rule(data=st.data(), name=st.sampled_from(["first", "one", "two"]))
    def revoke(self, data: st.DataObject, name: str) -> None:
        tenant = data.draw(st.sampled_from(self.live))
        try:
            self.call(self.host.tenants.revoke_token, tenant, name)
        except (TokenUnknownError, TokenError):
            return
        if name in self.tokens[tenant]:
            self.dead_tokens.append(self.tokens[tenant].pop(name))

    # -- tenants -------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.live)
    @rule(data=st.data(), count=st.integers(1, 3))
    def submit(self, data: st.DataObject, count: int) -> None:
        tenant = data.draw(st.sampled_from(self.live))
        for _ in range(count):
            self.count += 1
            name = f"p{self.count}"
            waiting = len(self.call(self.host.seen, tenant)[1])
            self.book.prompt_of[name] = (tenant, "")
            prompt_id = self.call(_submit, self.host, self.book, tenant, name)
            if prompt_id is None:
                assert waiting >= QUEUED
                continue
            assert waiting < QUEUED
            self.accepted[tenant].append(prompt_id)
            self.settle()

    @precondition(lambda self: self.book.waiting)
    @rule(data=st.data())
    def let_one_end(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.book.waiting)))
        tenant, prompt_id = self.book.prompt_of[name]
        self.call(self.book.gates[name].set)
        self._await_end(tenant, prompt_id)

    @precondition(lambda self: self.book.waiting)
    @rule(data=st.data())
    def interrupt(self, data: st.DataObject) -> None:
        tenant, prompt_id = self.book.prompt_of[data.draw(st.sampled_from(sorted(self.book.waiting)))]
        other = next((name for name in self.live if name != tenant), None)
        if other is not None:
            assert not self.call(self.host.engine.interrupt, other, prompt_id)  # not theirs: nothing happens
        assert self.call(self.host.engine.interrupt, tenant, prompt_id)
        self._await_end(tenant, prompt_id)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def cancel_one_that_waits(self, data: st.DataObject) -> None:
        tenant = data.draw(st.sampled_from(self.live))
        pending = self.call(self.host.seen, tenant)[1]
        for other in self.live:
            if other != tenant:
                assert self.call(self.host.engine.delete_pending, other, pending) == 0
        if pending:
            chosen = data.draw(st.sampled_from(pending))
            assert self.call(self.host.engine.delete_pending, tenant, [chosen]) == 1
            self.removed[tenant].add(chosen)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def clear(self, data: st.DataObject) -> None:
        tenant = data.draw(st.sampled_from(self.live))
        pending = self.call(self.host.seen, tenant)[1]
        assert self.call(self.host.engine.clear_pending, tenant) == len(pending)
        self.removed[tenant].update(pending)

    def _await_end(self, tenant: TenantId, prompt_id: str) -> None:
        self.call(_ended, self.host, tenant, prompt_id)
        self.ended[tenant].add(prompt_id)
        self.settle()

    # -- what always holds -------------------------------------------------------------------------------------------

    @invariant()
    def every_accepted_prompt_is_in_one_place_and_nobody_sees_anothers(self) -> None:
        total = 0
        for tenant in NAMES:
            running, pending, history = self.call(self.host.seen, tenant)
            places = [*running, *pending, *history]
            assert len(places) == len(set(places))
            assert set(places) == set(self.accepted[tenant]) - self.removed[tenant]
            assert set(history) == self.ended[tenant]
            # In order: what runs or has ended came before what waits.
            order = self.accepted[tenant]
            assert pending == sorted(pending, key=order.index)
            assert len(running) <= PROMPTS.get(tenant, CONCURRENCY)
            # What ran before a restart waits again, and may wait longer than others now.
            assert len(running) + len(pending) <= QUEUED + PROMPTS.get(tenant, CONCURRENCY)
            total += len(running)
            if pending and not running:
                # Nobody starves: who waits and runs nothing waits because every place is taken.
                assert self._all_running() >= CONCURRENCY + RESERVE
        assert total <= CONCURRENCY + RESERVE

    def _all_running(self) -> int:
        return sum(len(self.call(self.host.seen, tenant)[0]) for tenant in self.live)

    @invariant()
    def nobody_hears_of_another_and_each_end_is_told_once(self) -> None:
        assert self.book.strays == []
        assert all(count == 1 for count in self.book.ends.values())

    @invariant()
    def a_token_is_its_tenants_until_it_is_revoked(self) -> None:
        for tenant, tokens in self.tokens.items():
            for secret in tokens.values():
                found = self.call(self.host.tenants.authenticate, secret)
                assert found is not None
                assert found.tenant == tenant
        for secret in self.dead_tokens[-3:]:
            assert self.call(self.host.tenants.authenticate, secret) is None

    def teardown(self) -> None:
        """Everything that was accepted ends, also after another start."""
        try:
            self._life.__exit__(None, None, None)
            self._begin()
            self.call(_open_all, self.host, self.book, self.live, self.accepted, self.removed)
            for tenant in self.live:
                running, pending, history = self.call(self.host.seen, tenant)
                assert (running, pending) == ([], [])
                assert set(history) == set(self.accepted[tenant]) - self.removed[tenant]
            self.nobody_hears_of_another_and_each_end_is_told_once()
        finally:
            self._life.__exit__(None, None, None)
            self._portals.__exit__(None, None, None)
            self._patch.stop()
            shutil.rmtree(self.directory)


async def _book() -> Book:
    return Book()


async def _submit(host: Life, book: Book, tenant: TenantId, name: str) -> str | None:
    prompt_id = await host.submit(tenant, name)
    if prompt_id is None:
        del book.prompt_of[name]
    else:
        book.prompt_of[name] = (tenant, prompt_id)
        book.changed.set()
    return prompt_id


async def _ended(host: Life, tenant: TenantId, prompt_id: str) -> None:
    await until_ended(host.engine, tenant, prompt_id, timeout_s=30)


async def _open_all(
    host: Life,
    book: Book,
    live: list[TenantId],
    accepted: dict[TenantId, list[str]],
    removed: dict[TenantId, set[str]],
) -> None:
    for name in book.prompt_of:
        book.gates.setdefault(name, anyio.Event()).set()
    for tenant in live:
        for prompt_id in accepted[tenant]:
            if prompt_id not in removed[tenant]:
                await _ended(host, tenant, prompt_id)


TestTenancy = Tenancy.TestCase
TestTenancy.settings = settings(
    max_examples=tried(5, 100),
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[
        Phase.explicit,
        Phase.reuse,
        Phase.generate,
    ],  # to shrink one means to wait for each deadline again
)

"""Who is held while others are there, for how long, and who never is; then the same through the guard."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import httpx2
import pytest
from fastapi import FastAPI

from api import loop_share
from api.loop_share import AMID_S, HELD_S, LONG_S, LoopShare, Passage, TooManyHeldError, of_tenant
from api.metered import Metered
from engine import events
from engine.events import NodeStarted, ProgressChanged, PromptEvent
from engine.streams import EventHub
from policies import TenantId

pytestmark = pytest.mark.anyio

A, B = of_tenant(TenantId("a")), of_tenant(TenantId("b"))


class Time:
    """A clock that goes on while somebody sleeps, and only then."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await anyio.lowlevel.checkpoint()


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def share(time: Time) -> LoopShare:
    return LoopShare(most_held=2, clock=time, sleep=time.sleep)


async def begun(share: LoopShare, party: str, *, used: float = 0.0, weight: int = 1) -> Passage:
    passage = Passage(share)
    passage.charge(used)
    await passage.begin(party, weight=weight)
    return passage


async def used(share: LoopShare, party: str, seconds: float, *, weight: int = 1) -> None:
    """A request that is over."""
    (await begun(share, party, used=seconds, weight=weight)).end()


async def test_whoever_is_alone_never_waits_however_much_it_uses(share: LoopShare, time: Time) -> None:
    for _ in range(20):
        await begun(share, A, used=0.5)
    assert not time.slept


async def test_whoever_uses_little_never_waits(share: LoopShare, time: Time) -> None:
    await used(share, A, 0.5)
    await begun(share, B, used=0.01)
    await begun(share, B, used=0.01)
    assert not time.slept


async def test_whoever_uses_much_waits_until_the_other_is_done(share: LoopShare, time: Time) -> None:
    await used(share, A, 0.5)
    other = await begun(share, B)
    waited: list[float] = []
    async with anyio.create_task_group() as tasks:

        async def ask() -> None:
            await begun(share, A)
            waited.append(time.now)

        tasks.start_soon(ask)
        while len(time.slept) < 5:
            await anyio.lowlevel.checkpoint()
        assert not waited
        other.end()
        ended = time.now
    assert ended + AMID_S <= waited[0] < ended + AMID_S + 3 * loop_share.LOOK_S


async def test_nobody_is_held_for_long_though_others_always_do_something(
    share: LoopShare, time: Time
) -> None:
    await used(share, A, 0.5)
    await begun(share, B)

    async def sleep(seconds: float) -> None:
        share.heard(B)
        await time.sleep(seconds)

    share.sleep = sleep
    before = time.now
    await begun(share, A)
    assert HELD_S <= time.now - before < HELD_S + 2 * loop_share.LOOK_S


async def test_others_who_always_do_a_little_leave_the_heavy_one_half_of_the_time(
    share: LoopShare, time: Time
) -> None:
    await used(share, A, 0.5)
    await begun(share, B)
    waited = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal waited
        share.heard(B)
        waited += seconds
        time.now += seconds
        await anyio.lowlevel.checkpoint()

    share.sleep = sleep
    began = time.now
    for _ in range(200):
        passage = await begun(share, A, used=0.005)
        share.heard(B)
        time.now += 0.005
        passage.end()
    assert waited < 0.6 * (time.now - began)


async def test_in_company_the_requests_of_the_heavy_one_go_one_at_a_time(
    share: LoopShare, time: Time
) -> None:
    await used(share, A, 0.5)
    await used(share, B, 0.0)
    first = await begun(share, A)
    second: list[Passage] = []
    async with anyio.create_task_group() as tasks:

        async def ask() -> None:
            second.append(await begun(share, A))

        tasks.start_soon(ask)
        before = len(time.slept)
        while len(time.slept) < before + 3:
            await anyio.lowlevel.checkpoint()
        assert not second
        first.step_aside()  # it waits for its client
    assert second


async def test_a_request_that_takes_long_does_not_keep_its_partys_next_one_back(
    share: LoopShare, time: Time
) -> None:
    await used(share, A, 0.9)
    await used(share, B, 0.0)
    long = await begun(share, A)
    began = time.now
    await begun(share, A)
    assert time.now - began <= LONG_S + 2 * loop_share.LOOK_S
    long.end()


async def test_only_so_many_wait_and_the_next_is_told_so(share: LoopShare, time: Time) -> None:
    await used(share, A, 0.9)
    await begun(share, B)
    blocked = anyio.Event()

    async def sleep(_: float) -> None:
        await blocked.wait()
        await time.sleep(1.0)

    share.sleep = sleep
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(begun, share, A)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(TooManyHeldError) as refused:
            await begun(share, A)
        blocked.set()
    assert refused.value.retry_after_s
    assert "tenant 'a'" in refused.value.message
    assert "2 requests waiting, at most 2 (RINGFENCE_MAX_HELD_REQUESTS)" in refused.value.message


async def test_a_request_whose_client_went_while_it_waited_leaves_the_line(
    share: LoopShare, time: Time
) -> None:
    await used(share, A, 0.9)
    await begun(share, B)
    blocked = anyio.Event()

    async def sleep(_: float) -> None:
        await blocked.wait()
        time.now += 1.0

    share.sleep = sleep
    with anyio.CancelScope() as gone:
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(begun, share, A)
            await anyio.wait_all_tasks_blocked()
            gone.cancel()
    blocked.set()
    assert share.part(A).held == 0
    assert await begun(share, A)


async def test_a_partys_weight_is_its_right_to_more(share: LoopShare, time: Time) -> None:
    await used(share, A, 0.5, weight=10)
    await used(share, B, 0.04)
    await begun(share, A, weight=10)
    assert not time.slept


async def test_what_was_used_is_forgotten_with_time(share: LoopShare, time: Time) -> None:
    await used(share, A, 0.5)
    time.now += 3
    await begun(share, B)
    await begun(share, A)
    assert not time.slept


async def test_whoever_did_nothing_of_late_is_not_waited_for(share: LoopShare, time: Time) -> None:
    await used(share, B, 0.0)
    time.now += 2
    await begun(share, A, used=0.9)
    assert not time.slept


async def test_with_none_to_be_held_nobody_is(time: Time) -> None:
    share = LoopShare(most_held=0, clock=time, sleep=time.sleep)
    await used(share, A, 0.9)
    await begun(share, B)
    await begun(share, A)
    assert not time.slept


async def test_a_step_of_a_prompt_is_waited_for_and_mere_progress_is_not(
    share: LoopShare, time: Time
) -> None:
    tenant, hub = TenantId("b"), EventHub(witnesses={kind: [share.see] for kind in loop_share.STEPS})
    hub.publish(
        NodeStarted(tenant, None, "p", 0, "1", "1")
    )  # it has asked for nothing: nothing is kept of it
    await used(share, B, 0.0)
    time.now += 2 * AMID_S
    await used(share, A, 0.9)
    assert not time.slept
    hub.publish(ProgressChanged(tenant, None, "p", 0, {}, "1"))
    await used(share, A, 0.0)
    assert not time.slept
    hub.publish(NodeStarted(tenant, None, "p", 0, "1", "1"))
    await used(share, A, 0.0)
    assert time.slept


def test_all_that_happens_to_a_prompt_is_a_step_of_it_but_progress() -> None:
    kinds = {
        kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, PromptEvent)
    }
    assert set(loop_share.STEPS) == kinds - {PromptEvent, ProgressChanged}


async def test_parties_beyond_measure_are_forgotten_the_longest_idle_first(
    share: LoopShare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_share, "_PARTIES", 3)
    await used(share, A, 0.9)
    for number in range(10):
        await used(share, f"the address 10.0.0.{number}", 0.0)
        await used(share, A, 0.0)
    assert len(share._parts) == 3
    assert share.part(A).load(share.clock()) > 0.5


# -- measured -----------------------------------------------------------------------------------------------------


async def test_what_a_coroutine_computes_is_charged_and_what_it_waits_is_not() -> None:
    steps: list[float] = []

    async def work() -> str:
        sum(range(300_000))
        await anyio.sleep(0.05)
        sum(range(300_000))
        return "done"

    assert await Metered(work(), steps.append) == "done"
    assert len(steps) >= 2
    assert all(step >= 0 for step in steps)
    assert steps[0] > 0
    assert steps[-1] > 0


async def test_errors_and_cancellation_pass_through_what_measures() -> None:
    steps: list[float] = []
    seen: list[str] = []

    async def fails() -> None:
        await anyio.lowlevel.checkpoint()
        raise LookupError

    with pytest.raises(LookupError):
        await Metered(fails(), steps.append)

    async def waits() -> None:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            seen.append("cancelled")
            raise

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_awaited, lambda: Metered(waits(), steps.append))
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert seen == ["cancelled"]


async def _awaited(make: Callable[[], Awaitable[Any]]) -> None:
    await make()


# -- through the guard --------------------------------------------------------------------------------------------


def stopped(app: FastAPI) -> tuple[LoopShare, Time]:
    """The application's, with a clock that goes on only while somebody is held: no machine is too slow for that."""
    share: LoopShare = app.state.services.share
    time = Time()
    share.clock, share.sleep = time, time.sleep
    return share, time


async def test_one_tenants_requests_are_measured_and_wait_for_anothers(
    app: FastAPI, studio: tuple[httpx2.AsyncClient, httpx2.AsyncClient]
) -> None:
    a, b = studio
    share, time = stopped(app)
    for _ in range(3):
        assert (await a.get("/history")).status_code == 200
    part = share.part(A)
    assert part.load(share.clock()) > 0
    assert not time.slept
    part.charge(5.0, share.clock())
    assert (await b.get("/history")).status_code == 200
    assert not time.slept
    assert (await a.get("/history")).status_code == 200
    assert time.slept
    assert part.under_way == 0
    assert part.holder is None


async def test_a_refused_token_is_held_by_its_address(
    app: FastAPI, studio: tuple[httpx2.AsyncClient, httpx2.AsyncClient], client: httpx2.AsyncClient
) -> None:
    _, b = studio
    share, time = stopped(app)
    wrong = {"Authorization": "Bearer wrong"}
    assert (await client.get("/history", headers=wrong)).status_code == 401
    share.part("the address 127.0.0.1").charge(5.0, share.clock())
    await b.get("/history")
    assert (await client.get("/history", headers=wrong)).status_code == 401
    assert time.slept


async def test_too_many_held_requests_are_a_429_that_says_which_limit(
    app: FastAPI, studio: tuple[httpx2.AsyncClient, httpx2.AsyncClient]
) -> None:
    a, b = studio
    share, _ = stopped(app)
    share.part(A).charge(5.0, share.clock())
    share.part(A).held = share.most_held
    await b.get("/history")
    answer = await a.get("/history")
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "1"
    assert "RINGFENCE_MAX_HELD_REQUESTS" in answer.text
    assert (await b.get("/history")).status_code == 200


async def test_the_operator_and_whoever_asks_whether_we_live_are_never_held(
    app: FastAPI, studio: tuple[httpx2.AsyncClient, httpx2.AsyncClient], operator: httpx2.AsyncClient
) -> None:
    _, b = studio
    share, time = stopped(app)
    share.part("the operator").charge(5.0, share.clock())
    await b.get("/history")
    assert (await operator.get("/history")).status_code == 200
    assert (await operator.get("/healthz")).status_code == 200
    assert not time.slept


async def test_a_body_is_taken_in_turns(
    app: FastAPI,
    studio: tuple[httpx2.AsyncClient, httpx2.AsyncClient],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    a, b = studio
    share, _ = stopped(app)
    turns: list[str] = []
    wait, leave = Passage.go_on, Passage.step_aside

    async def go_on(passage: Passage) -> None:
        await wait(passage)
        turns.append("taken" if share.part(A).holder is passage else "not taken")

    def step_aside(passage: Passage) -> None:
        leave(passage)
        turns.append("left")

    monkeypatch.setattr(Passage, "go_on", go_on)
    monkeypatch.setattr(Passage, "step_aside", step_aside)
    await b.get("/history")
    share.part(A).charge(5.0, share.clock())
    turns.clear()

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * 10

    assert (await a.post("/userdata/a.txt", content=parts())).status_code == 200
    assert turns[:6] == ["left", "taken"] * 3
    assert share.part(A).holder is None


async def test_alone_nothing_is_measured_and_nothing_held(app: FastAPI, client: httpx2.AsyncClient) -> None:
    await client.get("/history")  # now it is known that nobody else is there
    share: LoopShare = app.state.services.share
    share._parts.clear()
    for _ in range(3):
        assert (await client.get("/history")).status_code == 200
    assert not share._parts

"""Listeners that are slow, and maps that are shared."""

from __future__ import annotations

import asyncio
import random

import anyio
import pytest

from engine import events as ev
from engine.progress import EAGER_NODES, KEPT_CHANGES, ProgressLog
from engine.streams import COLLECTED, EventHub
from policies import LOCAL_TENANT, TenantId

pytestmark = pytest.mark.anyio


def event(number, tenant=LOCAL_TENANT):
    return ev.QueueChanged(tenant, None, number)


async def test_a_stream_hears_its_tenant_in_order():
    hub = EventHub()
    async with hub.subscribe(LOCAL_TENANT) as stream:
        hub.publish(event(1))
        hub.publish(event(9, TenantId("other")))
        hub.publish(event(2))
        assert [(await anext(stream)).remaining, (await anext(stream)).remaining] == [1, 2]


async def test_a_slow_reader_is_dropped_and_the_others_are_not():
    hub = EventHub(limit=2)
    async with hub.subscribe(LOCAL_TENANT) as slow, hub.subscribe(LOCAL_TENANT) as quick:
        for number in range(3):
            hub.publish(event(number))
            await anext(quick)
        assert slow.is_dropped
        assert [item async for item in slow] == []
        assert not quick.is_dropped


async def test_a_reader_that_waits_is_woken():
    hub = EventHub()
    heard = []

    async def read(stream):
        heard.extend([item.remaining async for item in stream])

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks, hub.subscribe(LOCAL_TENANT) as stream:
            tasks.start_soon(read, stream)
            await anyio.wait_all_tasks_blocked()
            hub.publish(event(1))
            hub.close()
    assert heard == [1]


async def test_a_stream_that_was_left_hears_nothing():
    hub = EventHub()
    async with hub.subscribe(LOCAL_TENANT) as stream:
        pass
    hub.publish(event(1))
    assert [item async for item in stream] == []


def state(node_id, value=0.0, state="running"):
    return ev.NodeProgress(str(node_id), value, 1.0, state, str(node_id), None, str(node_id))


async def test_a_view_stays_as_it_was():
    log = ProgressLog()
    log.moved(state("a"))
    first = log.view()
    log.moved(state("a", 1.0, "finished"))
    log.moved(state("b"))
    second = log.view()
    assert {name: item.state for name, item in first.items()} == {"a": "running"}
    assert {name: item.state for name, item in second.items()} == {"a": "finished", "b": "running"}
    assert "b" not in first
    assert len(first) == 1


async def test_a_flood_of_reports_is_not_kept():
    log = ProgressLog()
    log.moved(state("a"))
    first = log.view()
    for number in range(10_000):
        log.moved(state("a", number / 10_000))
    assert len(log.states["a"].entries) <= 64
    assert first["a"].state == "running"


async def test_long_prompts_do_not_pay_for_the_map_at_each_step():
    log = ProgressLog()
    shown = 0
    for number in range(20_000):
        view = log.moved(state(number))
        if view is not None:
            shown += len(view)
    last = log.last()
    assert last is None or len(last) == 20_000
    assert shown < 40 * 20_000 + EAGER_NODES**2


async def test_a_progress_bar_is_always_shown():
    log = ProgressLog()
    for number in range(1000):
        log.moved(state(number))
    assert log.moved(state("a")) is None
    assert log.moved(state("a"), must_show=True) is not None


def say(item, about):
    return f"{about}:{item.node_id}={item.value:g} {item.state}".encode()


def anew(view, about="p"):
    return b",".join([say(item, about) for item in view.values()])


@pytest.mark.parametrize("changes", [1, 2, 7, KEPT_CHANGES, KEPT_CHANGES + 1, 3 * KEPT_CHANGES])
async def test_a_map_that_was_said_before_is_said_as_if_it_were_the_first(changes):
    log, dice, views = ProgressLog(), random.Random(changes), []
    for _ in range(12):
        for _ in range(changes):
            log.moved(state(dice.randrange(40), dice.random(), dice.choice(["running", "finished"])))
        views.append((log.view(), log.view()))
        for view in views[-1]:  # two clients are told of it
            assert view.said(say, "p") == anew(view)
    for older, _ in reversed(views):  # and one is late
        assert older.said(say, "p") == anew(older)


async def test_a_map_is_said_as_it_was_however_late():
    log = ProgressLog()
    log.moved(state("a"))
    first = log.view()
    log.moved(state("b"))
    log.moved(state("a", 1.0, "finished"))
    second = log.view()
    assert second.said(say, "p") == b"p:a=1 finished,p:b=0 running"
    assert first.said(say, "p") == b"p:a=0 running"
    assert second.said(say, "q") == b"q:a=1 finished,q:b=0 running"
    log.moved(state("b", 1.0, "finished"))
    assert log.view().said(say, "q") == b"q:a=1 finished,q:b=1 finished"


@pytest.mark.usefixtures("every_fast_path")
async def test_each_state_is_said_once():
    log, asked = ProgressLog(), []
    for number in range(100):
        log.moved(state(number))

    def count(item, about):
        asked.append(item.node_id)
        return b"x"

    for number in range(100):
        log.moved(state(number, 1.0, "finished"))
        log.view().said(count, "p")
    assert len(asked) == 200 - 1  # all, the first of them with its last state only


def message(nbytes):
    return ev.PackMessage(LOCAL_TENANT, None, "pack.says", {"text": "x" * nbytes})


async def test_a_slow_reader_is_dropped_when_it_keeps_too_many_bytes():
    hub = EventHub(byte_limit=10_000)
    async with hub.subscribe(LOCAL_TENANT) as slow, hub.subscribe(LOCAL_TENANT) as quick:
        for _ in range(3):
            hub.publish(message(4_000))
            await anext(quick)
        assert slow.is_dropped
        assert not quick.is_dropped


async def test_one_event_always_fits():
    hub = EventHub(byte_limit=10_000)
    async with hub.subscribe(LOCAL_TENANT) as stream:
        for _ in range(3):
            hub.publish(message(40_000))
            await anext(stream)
        assert not stream.is_dropped


async def test_previews_count_for_what_they_are():
    hub = EventHub(byte_limit=10_000)
    async with hub.subscribe(LOCAL_TENANT) as stream:
        for _ in range(2):
            hub.publish(
                ev.ProgressChanged(
                    LOCAL_TENANT, None, "p", 0, nodes={}, changed="1", preview=("PNG", b"x" * 6_000)
                )
            )
        assert stream.is_dropped


async def test_a_reader_is_not_woken_by_what_its_gate_keeps_from_it():
    hub = EventHub()
    woken = []

    async def read(stream):
        while True:
            woken.append([item.remaining for item in await stream.some(64)])

    async with anyio.create_task_group() as tasks, hub.subscribe(LOCAL_TENANT) as stream:
        stream.hear = lambda item: stream.keep(item) if item.remaining % 10 == 0 else None
        tasks.start_soon(read, stream)
        await anyio.wait_all_tasks_blocked()
        for number in range(1, 21):
            hub.publish(event(number))
            await anyio.wait_all_tasks_blocked()
        stream.keep(event(7))
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert woken == [[10], [20], [7]]


async def test_a_gate_may_let_out_what_it_held_before_the_event_and_all_of_it_counts_as_kept():
    hub = EventHub(limit=3)
    async with hub.subscribe(LOCAL_TENANT) as stream:
        stream.hear = lambda item: [stream.keep(event(-1)), stream.keep(item)]
        hub.publish(event(1))
        assert [item.remaining for item in await stream.some(64)] == [-1, 1]
        hub.publish(event(2))
        hub.publish(event(3))
        assert stream.is_dropped


async def test_a_witness_sees_its_kinds_before_anybody_hears_and_nothing_else():
    seen = []
    hub = EventHub(witnesses={ev.PromptStarted: [seen.append, lambda item: seen.append(item.prompt_id)]})
    async with hub.subscribe(LOCAL_TENANT) as stream:
        stream.hear = lambda item: seen.append("heard")
        begins = ev.PromptStarted(LOCAL_TENANT, None, "p", 0)
        hub.publish(begins)
        hub.publish(event(1))
    hub.publish(begins)  # with nobody there
    assert seen == [begins, "p", "heard", "heard", begins, "p"]


async def collected(hub, stream, first, *more, pause_s):
    """What a reader who collects is given when these happen while it pauses."""
    given = []

    async def read():
        given.append(await stream.some(64, pause_s=pause_s))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        for item in (first, *more):
            hub.publish(item)
            if pause_s > 60:  # a shorter one may be over on a busy machine
                await asyncio.sleep(0)
    return given


async def test_what_comes_while_a_reader_pauses_is_given_together_and_an_end_at_once():
    hub, end = EventHub(), ev.PromptEnded(LOCAL_TENANT, None, "p", 0)
    async with hub.subscribe(LOCAL_TENANT) as stream:
        with anyio.fail_after(60):
            assert await collected(hub, stream, event(1), event(2), pause_s=0.2) == [[event(1), event(2)]]
            assert await collected(hub, stream, event(3), end, pause_s=3600) == [[event(3), end]]
            hub.publish(end)
            assert await stream.some(64, pause_s=3600) == [end]
            hub.publish(event(4))  # what is there when it begins to pause waits, too, and is not forgotten
            assert await collected(hub, stream, end, pause_s=3600) == [[event(4), end]]
            many = [event(number) for number in range(COLLECTED)]
            assert await collected(hub, stream, *many, pause_s=3600) == [many]


async def test_a_reader_that_pauses_is_woken_by_the_end_of_everything():
    hub = EventHub()
    async with hub.subscribe(LOCAL_TENANT) as stream:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.some, 64)
            await anyio.wait_all_tasks_blocked()
            hub.close()
        hub.publish(event(1))
        with anyio.fail_after(60):
            assert await stream.some(64, pause_s=3600) == []


async def test_a_reader_that_gave_up_waiting_comes_back():
    hub = EventHub()
    async with hub.subscribe(LOCAL_TENANT) as stream:
        hub.publish(event(1))
        with anyio.move_on_after(0.01):
            await stream.some(64, pause_s=3600)
        with anyio.fail_after(60):
            assert await stream.some(64, pause_s=0.01) == [event(1)]
            assert stream._bytes == stream._urgent == 0


async def test_a_reader_that_takes_few_of_many_is_given_them_in_order():
    hub = EventHub()
    async with hub.subscribe(LOCAL_TENANT) as stream:
        ends = [ev.PromptEnded(LOCAL_TENANT, None, str(number), 0) for number in range(5)]
        for item in ends:
            hub.publish(item)
        assert await stream.some(2) == ends[:2]
        assert stream._urgent == 3
        assert await anext(stream) == ends[2]
        assert await stream.some(64, pause_s=3600) == ends[3:]
        assert stream._bytes == stream._urgent == 0

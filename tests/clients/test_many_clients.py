"""Many clients at once, and clients that come back: everybody hears their own prompt, all of it, and nothing else."""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tests.e2e.comfy import WAIT_S, Comfy, Event, node, succeeded, until
from tests.stack import Stack

CLIENTS = 20
PROMPTS = 3
LIFE = ("execution_start", "execution_cached", "executing", "executed", "execution_success")


@dataclass
class Heard:
    """What one client sent and heard."""

    client_id: str
    texts: dict[str, str]  # by prompt
    events: list[Event]


def queue_and_listen(url: str, start: threading.Barrier) -> Heard:
    with Comfy(url) as comfy, comfy.events() as events:
        events.until(lambda event: event["type"] == "status")
        start.wait(WAIT_S)
        texts = {}
        for _ in range(PROMPTS):
            text = uuid.uuid4().hex
            texts[comfy.queue({"1": node("RFReport", text=text)}, events)] = text
        open_ones = set(texts)
        while open_ones:
            ended = events.until(lambda event: event["type"] == "executing" and event["data"]["node"] is None)
            open_ones.discard(ended["data"]["prompt_id"])
        return Heard(events.client_id, texts, events.seen)


def test_twenty_clients_at_once_hear_each_their_own_prompts_and_nothing_else(
    stack: Stack, comfy: Comfy
) -> None:
    start = threading.Barrier(CLIENTS)
    with ThreadPoolExecutor(CLIENTS) as threads:
        running = [threads.submit(queue_and_listen, stack.url, start) for _ in range(CLIENTS)]
        heard = [one.result(timeout=2 * WAIT_S) for one in running]
    for one in heard:
        about = [event for event in one.events if "prompt_id" in event["data"]]
        assert {event["data"]["prompt_id"] for event in about} == set(one.texts)
        assert all(event["type"] == "status" for event in one.events if event not in about)
        for prompt_id, text in one.texts.items():
            mine = [event for event in about if event["data"]["prompt_id"] == prompt_id]
            kinds = list(dict.fromkeys(event["type"] for event in mine if event["type"] in LIFE))
            assert kinds == list(LIFE)
            (executed,) = [event["data"] for event in mine if event["type"] == "executed"]
            assert executed["output"]["text"] == [text]
            assert succeeded(comfy.entry(prompt_id))["1"]["text"] == [text]
    queue = comfy.get("/queue")
    assert queue == {"queue_running": [], "queue_pending": []}


def test_prompts_of_one_client_never_overlap_and_another_client_does_not_wait_for_them(comfy: Comfy) -> None:
    gate = uuid.uuid4().hex
    with comfy.events() as mine, comfy.events() as other:
        first = comfy.queue({"1": node("RFGateWaitAsync", name=gate)}, mine)
        mine.until_progress(first)
        second = comfy.queue({"1": node("RFReport", text="second")}, mine)
        other.until_ended(comfy.queue({"1": node("RFReport", text=gate)}, other))
        queue = comfy.get("/queue")
        assert [item[1] for item in queue["queue_running"]] == [first]
        assert [item[1] for item in queue["queue_pending"]] == [second]
        succeeded(comfy.run({"1": node("RFGateOpenAsync", name=gate)}))
        mine.until_ended(second)
    told = [event["data"].get("prompt_id") for event in mine.seen]
    of_mine = [one for one in told if one in (first, second)]  # all hear of the opener, too
    assert of_mine == [first] * of_mine.count(first) + [second] * of_mine.count(second)


def test_a_client_that_loses_its_connection_and_comes_back_gets_the_rest(comfy: Comfy) -> None:
    gate = uuid.uuid4().hex
    with comfy.events() as before:
        prompt_id = comfy.queue(
            {"1": node("RFGateWait", name=gate), "2": node("RFReport", text=["1", 0])}, before
        )
        before.until_progress(prompt_id)
    with comfy.events(before.client_id) as after:
        running = after.until(lambda event: event["type"] == "executing")
        first, *_ = after.seen
        assert (first["type"], first["data"]["sid"]) == ("status", before.client_id)
        assert first["data"]["status"]["exec_info"]["queue_remaining"] == 1
        assert running["data"]["node"] == "1"
        succeeded(comfy.run({"1": node("RFGateOpenAsync", name=gate)}))
        after.until_ended(prompt_id)
    told = [event["type"] for event in after.seen if event["data"].get("prompt_id") == prompt_id]
    assert told.index("executed") < told.index("execution_success")
    assert [event["data"]["node"] for event in after.seen if event["type"] == "executed"] == ["2"]
    assert succeeded(comfy.entry(prompt_id))["2"]["text"] == [gate]


def test_a_client_that_comes_back_after_the_end_is_told_that_nothing_runs(comfy: Comfy) -> None:
    with comfy.events() as before:
        prompt_id = comfy.queue({"1": node("RFReport", text=uuid.uuid4().hex)}, before)
        before.until_ended(prompt_id)
    with comfy.events(before.client_id) as after:
        first = after.until(lambda event: event["type"] == "status")
        assert first["data"]["status"]["exec_info"]["queue_remaining"] == 0
    assert succeeded(comfy.entry(prompt_id))


def test_a_client_that_stays_away_does_not_keep_its_prompt_from_ending(comfy: Comfy) -> None:
    gate = uuid.uuid4().hex
    with comfy.events() as gone:
        prompt_id = comfy.queue({"1": node("RFGateWait", name=gate)}, gone)
        gone.until_progress(prompt_id)
    with comfy.events() as other:
        opener = comfy.queue({"1": node("RFGateOpenAsync", name=gate)}, other)
        other.until_ended(opener)
    until(lambda: comfy.get(f"/history/{prompt_id}"), "the prompt has ended")
    assert succeeded(comfy.entry(prompt_id)) == {}


def test_the_newer_of_two_connections_of_one_client_hears_what_happens(comfy: Comfy) -> None:
    gate = uuid.uuid4().hex
    with comfy.events() as older:
        prompt_id = comfy.queue({"1": node("RFGateWait", name=gate)}, older)
        older.until_progress(prompt_id)
        with comfy.events(older.client_id) as newer:
            newer.until(lambda event: event["type"] == "executing")
            succeeded(comfy.run({"1": node("RFGateOpenAsync", name=gate)}))
            newer.until_ended(prompt_id)
        assert not [event for event in older.so_far() if event["type"] == "execution_success"]

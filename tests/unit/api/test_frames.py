"""An event is put into words once, however many sockets hear it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from api import messages
from api.messages import Abilities, Binary, Frames
from engine.events import (
    Event,
    NodeExecuted,
    NodeProgress,
    PackMessage,
    ProgressChanged,
    QueueChanged,
)
from engine.progress import ProgressLog
from policies import TenantId

A = TenantId("a")


def test_an_event_is_serialised_once_for_all_sockets_of_one_ability(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = messages.messages_for
    monkeypatch.setattr(
        messages,
        "messages_for",
        lambda event, abilities: asked.append((event, abilities)) or real(event, abilities),
    )
    frames, event = Frames(), QueueChanged(A, None, 3)
    plain, able = Abilities(), Abilities(preview_metadata=True)
    told = [frames.of(event, plain) for _ in range(64)]
    assert all(each is told[0] for each in told)
    assert told[0] == real(event, plain)
    frames.of(event, able)
    assert asked == [(event, plain), (event, able)]


def test_frames_of_one_event_are_never_taken_for_anothers() -> None:
    frames = Frames()
    for number in range(1_000):  # each may be made where the one before was
        assert frames.of(QueueChanged(A, None, number), Abilities()) == [messages.status(number)]


def state(node_id: str, value: float = 0.0) -> NodeProgress:
    return NodeProgress(node_id, value, 4.0, "running", node_id, None, node_id)


def test_a_map_that_grows_is_written_as_a_whole_each_time() -> None:
    log = ProgressLog()
    names = ["1", "ä", "2.0.1", '"', "__proto__", "3", "constructor", "prototype", "\ud800"]
    for name in names:
        for value in (0.0, 1.5, 4.0):
            log.moved(state(name, value))
            view = log.view()
            assert view is not None
            (frame,) = messages.messages_for(ProgressChanged(A, None, "p", 0, view, name), Abilities())
            (plain,) = messages.messages_for(ProgressChanged(A, None, "p", 0, dict(view), name), Abilities())
            assert frame == plain
            nodes = json.loads(frame)["data"]["nodes"]
            assert list(nodes) == [each.replace("\ud800", "?") for each in view if each != "__proto__"]
            if name in nodes:
                assert nodes[name] == {
                    "value": value, "max": 4, "state": "running", "node_id": name, "prompt_id": "p",
                    "display_node_id": name, "parent_node_id": None, "real_node_id": name,
                }  # fmt: skip


def test_events_are_told_together_as_they_are_alone() -> None:
    log = ProgressLog()
    log.moved(state("1"))
    view = log.view()
    assert view is not None
    progress = ProgressChanged(A, None, "p", 0, view, "1")
    events: list[Event] = [
        QueueChanged(A, None, 3),
        progress,
        replace(progress, legacy=True),
        replace(progress, preview=("PNG", b"png")),
        PackMessage(A, None, "progress_text", "words", "1"),
        PackMessage(A, None, "executing", {}),
        NodeExecuted(A, None, "p", 0, "1", "1", {"__proto__": 1, "x": float("nan")}),
    ]
    for abilities in (Abilities(), Abilities(preview_metadata=True)):
        alone = [frame for event in events for frame in messages.messages_for(event, abilities)]
        told = messages.messages_of(events, abilities)
        assert told == alone
        assert [type(frame) for frame in told] == [type(frame) for frame in alone]
        assert [type(frame) for frame in told].count(Binary) == 2
    assert json.loads(told[-1])["data"]["output"] == {"x": None}

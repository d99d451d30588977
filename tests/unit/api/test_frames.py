"""An event is put into words once, however many sockets hear it."""

from __future__ import annotations

import pytest

from api import messages
from api.messages import Abilities, Frames
from engine.events import QueueChanged
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

"""What a worker says unasked costs the host what its rates allow, whatever is in it."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from policies import ExtensionName, SandboxId, TenantId
from runtime import wire
from sandbox import ProtocolViolationError, services
from sandbox.calls import PackEvent
from sandbox.logbook import CHARS_AT_ONCE, Logbook
from sandbox.services import EVENT_PARTS, EVENTS_PER_S, PROGRESS_PER_S, Services

pytestmark = pytest.mark.anyio


class Desk:
    def __init__(self) -> None:
        self.logbook = Logbook(max_bytes=1 << 20, lines_per_s=10)
        self.events: list[PackEvent] = []
        self.services = Services(
            SandboxId("box"),
            TenantId("local"),
            cast("Any", SimpleNamespace(shared_memory=1)),
            cast("Any", None),
            self.logbook,
            lambda _tenant, _extension, event: self.events.append(event),
            lambda _: ExtensionName("pack"),
        )

    async def event(self, data: Any) -> None:
        await self.services.notification(wire.EVENT, {"event": "x", "data": data, "sid": None})

    def log(self) -> list[str]:
        return [line.text for line in self.logbook.lines(1000)]


def test_of_a_piece_with_endless_lines_only_the_allowed_ones_are_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    book = Logbook(max_bytes=1 << 20, lines_per_s=10)
    book.add("stdout", "a\r\nb\rc\u2028" + "\n" * 60_000 + "end")
    texts = [line.text for line in book.lines(100)]
    assert texts[:3] == ["a", "b", "c"]
    assert texts[-1] == f"{60_001 - 17} lines were dropped: over limits.log_rate"
    assert len(texts) == 21


def test_the_characters_of_a_log_have_a_rate_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    book = Logbook(max_bytes=1 << 30, lines_per_s=10_000)
    for _ in range(1_000):
        book.add("stdout", "x" * 8_000)
    assert sum(line.text.startswith("x") for line in book.lines(2_000)) == CHARS_AT_ONCE // 8_000


def test_remarks_about_lost_output_have_the_rate_of_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    book = Logbook(max_bytes=1 << 20, lines_per_s=10)
    for _ in range(1_000):
        book.add("stdout", "", 1)
    assert len(book.lines(1_000)) == 20
    now = 1.0
    book.add("stdout", "", 1)
    assert book.lines(1)[0].text.startswith("981 bytes")


async def test_a_log_piece_is_bounded() -> None:
    with pytest.raises(ProtocolViolationError, match="bad log"):
        await Desk().services.notification(
            wire.LOG, {"stream": "stdout", "text": "x" * (64 * 1024 + 1), "dropped": 0}
        )


async def test_an_event_over_its_rate_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    seen: list[Any] = []
    monkeypatch.setattr(services, "plain", lambda data: seen.append(data))
    desk = Desk()
    for _ in range(1_000):
        await desk.event([1])
    assert len(seen) == len(desk.events) == 2 * EVENTS_PER_S


async def test_an_event_of_too_many_values_is_not_passed_on_and_the_log_says_so() -> None:
    desk = Desk()
    await desk.event([0] * EVENT_PARTS)
    await desk.event([0] * (EVENT_PARTS - 1))
    assert len(desk.events) == 1
    assert desk.log() == [f"event 'x' was not passed on: {EVENT_PARTS + 1} values in it, at most 4096 may be"]


async def test_the_characters_of_texts_have_a_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    desk = Desk()
    for _ in range(50):
        await desk.services.notification(wire.TEXT, {"node_id": "1", "text": "\u00e9" * 20_000})
    assert len(desk.events) == 10


async def test_last_steps_have_a_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    desk = Desk()
    heard: list[Any] = []
    desk.services.listen(1, heard.append)
    last = {"call": 1, "node_id": "1", "value": 2, "max": 2, "preview": None, "legacy": True}
    for _ in range(1_000):
        await desk.services.notification(wire.PROGRESS, last)
    assert len(heard) == 4 * PROGRESS_PER_S

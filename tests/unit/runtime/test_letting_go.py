"""Under gVisor the worker asks for the names of what it read until they are gone; elsewhere it does nothing."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from runtime import letting_go
from runtime.letting_go import LettingGo
from tests.unit.runtime.memoryfiles import Trip

COUNT = 200_000


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


def test_linux_lets_go_by_itself(tmp_path: Path) -> None:
    assert not letting_go.is_needed()
    trip = Trip(tmp_path / "trip")
    trip.there_and_back(b"x" * COUNT)
    assert trip.files._letting_go is None


def test_every_file_that_was_opened_is_asked_for_until_it_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letting_go, "is_needed", lambda: True)
    monkeypatch.setattr(LettingGo, "_run", lambda _self: None)
    trip = Trip(tmp_path / "trip")
    waits = trip.files._letting_go
    assert waits is not None
    small, large = trip.send(b"x" * 100_000), trip.send(b"y" * COUNT)
    trip.receive(small)
    trip.receive(large)
    assert waits.ask() == 2  # granted still
    (trip.store.inbox / small["$bytes"]["file"]).unlink()
    assert waits.ask() == 1
    (trip.store.inbox / large["$bytes"]["file"]).unlink()
    assert waits.ask() == 0


def test_a_name_that_is_granted_again_while_it_is_asked_for_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LettingGo, "_run", lambda _self: None)
    waits = LettingGo(str(tmp_path))
    waits.opened("name")
    was_there = waits._is_there

    def granted_meanwhile(name: str) -> bool:
        found = was_there(name)
        waits.opened(name)
        return found

    monkeypatch.setattr(waits, "_is_there", granted_meanwhile)
    assert waits.ask() == 1
    monkeypatch.undo()
    assert waits.ask() == 0


def test_its_thread_begins_with_the_first_file_and_finds_out_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_gone = threading.Event()
    ask = LettingGo.ask

    def asked(self: LettingGo) -> int:
        left = ask(self)
        if not left:
            all_gone.set()
        return left

    monkeypatch.setattr(LettingGo, "ask", asked)
    waits = LettingGo(str(tmp_path))
    assert "ringfence-letting-go" not in threads()
    for round_ in ("first", "second"):
        (tmp_path / round_).touch()
        waits.opened(round_)
        assert "ringfence-letting-go" in threads()
        (tmp_path / round_).unlink()
        assert all_gone.wait(30)
        all_gone.clear()

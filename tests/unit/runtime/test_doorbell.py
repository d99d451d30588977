"""The bell that wakes a thread, and the door that may be watched for it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from runtime.doorbell import Doorbell

PATIENCE_S = 60.0


class Door:
    """A pipe, and a bell at its end."""

    def __init__(self) -> None:
        self.end, self.outside = os.pipe()
        self.bell = Doorbell(self.end)

    def knock(self) -> None:
        os.write(self.outside, b"x")

    def open(self) -> None:
        os.read(self.end, 1)

    def waiter(self) -> threading.Thread:
        thread = threading.Thread(target=self.bell.wait, args=(None,), daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        self.bell.close()
        os.close(self.end)
        os.close(self.outside)


@pytest.fixture
def door() -> Iterator[Door]:
    made = Door()
    yield made
    made.close()


def is_woken(thread: threading.Thread) -> bool:
    thread.join(PATIENCE_S)
    return not thread.is_alive()


def sleeps_on(thread: threading.Thread) -> bool:
    thread.join(0.1)
    return thread.is_alive()


def test_whoever_waits_is_woken_by_the_bell_and_one_that_rang_before_is_heard(door: Door) -> None:
    thread = door.waiter()
    door.bell.ring()
    assert is_woken(thread)
    door.bell.ring()
    door.bell.ring()
    door.bell.wait(None)
    thread = door.waiter()
    assert sleeps_on(thread)  # both were heard
    door.bell.ring()
    assert is_woken(thread)


def test_a_message_wakes_nobody_where_the_door_is_not_watched(door: Door) -> None:
    thread = door.waiter()
    door.knock()
    assert sleeps_on(thread)
    door.bell.ring()
    assert is_woken(thread)


@pytest.mark.parametrize("is_there_before", [False, True])
def test_a_message_wakes_whoever_waits_where_it_is_watched(door: Door, is_there_before: bool) -> None:
    thread = door.waiter()
    if is_there_before:
        door.knock()
    door.bell.watch()
    if not is_there_before:
        assert sleeps_on(thread)
        door.knock()
    assert is_woken(thread)


def test_a_door_that_was_left_is_not_watched(door: Door) -> None:
    thread = door.waiter()
    door.bell.watch()
    door.bell.leave()
    door.knock()
    assert sleeps_on(thread)
    door.bell.ring()
    assert is_woken(thread)


def test_it_is_watched_for_one_wait_only(door: Door) -> None:
    door.bell.watch()
    door.knock()
    door.bell.wait(None)
    thread = door.waiter()
    assert sleeps_on(thread)  # the message is still there
    door.bell.ring()
    assert is_woken(thread)
    door.open()
    door.bell.watch()
    door.bell.ring()
    door.bell.wait(None)  # woken by the bell alone
    thread = door.waiter()
    door.knock()
    assert sleeps_on(thread)
    door.bell.ring()
    assert is_woken(thread)


def test_a_door_that_is_broken_does_not_keep_anybody_awake(door: Door) -> None:
    os.close(door.outside)
    door.outside = os.open(os.devnull, os.O_WRONLY)
    door.bell.wait(0.1)  # it may be told, once
    thread = door.waiter()
    assert sleeps_on(thread)
    door.bell.ring()
    assert is_woken(thread)


def test_a_file_is_no_door(tmp_path: os.PathLike[str]) -> None:
    with open(os.path.join(tmp_path, "file"), "wb") as file, pytest.raises(PermissionError):
        Doorbell(file.fileno())

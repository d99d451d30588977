"""The clock that wakes a thread without its being woken."""

from __future__ import annotations

import errno
import os
import resource
import threading
import time
from collections.abc import Iterator

import pytest

from runtime.alarm import Alarm, after

LONG = after(3600.0)


@pytest.fixture
def alarm() -> Iterator[Alarm]:
    made = Alarm()
    yield made
    made.close()


def waiter(alarm: Alarm) -> threading.Thread:
    thread = threading.Thread(target=alarm.wait, daemon=True)
    thread.start()
    return thread


def test_it_goes_off_when_it_was_set_for_and_not_before(alarm: Alarm) -> None:
    began = time.monotonic()
    alarm.set(after(0.05))
    alarm.wait()
    assert time.monotonic() - began >= 0.05


def test_whoever_sleeps_is_woken_by_an_alarm_that_is_set_meanwhile(alarm: Alarm) -> None:
    thread = waiter(alarm)
    alarm.set(LONG)
    alarm.set(after(0.001))
    thread.join(60)
    assert not thread.is_alive()


def test_one_that_rings_before_anybody_waits_is_not_lost(alarm: Alarm) -> None:
    alarm.ring()
    alarm.wait()


def test_the_last_setting_counts_and_one_that_was_heard_goes_off_no_more(alarm: Alarm) -> None:
    alarm.ring()
    alarm.wait()
    alarm.ring()
    alarm.set(LONG)
    thread = waiter(alarm)
    thread.join(0.1)
    assert thread.is_alive()
    alarm.ring()
    thread.join(60)
    assert not thread.is_alive()


def test_no_time_at_all_is_not_never(alarm: Alarm) -> None:
    """A clock that is set to nought is one that is switched off."""
    alarm.set(after(0.0))
    alarm.wait()


def test_without_a_descriptor_it_says_so() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            Alarm()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_cannot_be_set_is_no_alarm_that_never_goes_off() -> None:
    closed = Alarm()
    closed.close()
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        closed.ring()

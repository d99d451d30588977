"""Which calls are still known: all that run, and the newest of those that are over."""

from __future__ import annotations

from policies import ExtensionName
from sandbox.call_book import CallBook

PACK = ExtensionName("pack")


def test_the_newest_calls_stay_known_a_while_and_older_ones_do_not() -> None:
    book = CallBook()
    numbers = [book.open(PACK) for _ in range(200)]
    for number in numbers:
        book.close(number)
    known = [number for number in numbers if book.extension_of(number) is not None]
    assert known == numbers[-64:]


def test_calls_that_end_in_any_order_leave_no_more_behind() -> None:
    book = CallBook()
    for _ in range(20):
        numbers = [book.open(PACK) for _ in range(50)]
        for number in reversed(numbers):
            book.close(number)
    assert len([number for number in range(2_000) if book.extension_of(number) is not None]) <= 64

"""Every live sandbox has a uid of its own, and an extension gets its old one back."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox import StartError
from sandbox.launcher.uids import UidBook


def test_owners_get_different_uids_and_the_same_again(tmp_path: Path) -> None:
    book = UidBook(tmp_path / "uids.json", 1000, 10)
    first, second = book.assign("local/a", set()), book.assign("local/b", set())
    assert first != second
    again = UidBook(tmp_path / "uids.json", 1000, 10)
    assert (again.assign("local/b", set()), again.assign("local/a", set())) == (second, first)


def test_a_uid_in_use_is_not_given_twice(tmp_path: Path) -> None:
    book = UidBook(tmp_path / "uids.json", 1000, 3)
    one = book.assign("a", set())
    other = book.assign("a", {one})
    assert other != one
    with pytest.raises(StartError, match="in use"):
        book.assign("b", {1000, 1001, 1002})


def test_a_uid_remembered_for_somebody_is_the_last_resort(tmp_path: Path) -> None:
    book = UidBook(tmp_path / "uids.json", 1000, 2)
    book.assign("a", set())
    book.assign("b", set())
    assert book.assign("c", set()) in (1000, 1001)


def test_a_damaged_book_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "uids.json").write_text("[")
    assert UidBook(tmp_path / "uids.json", 1000, 2).assign("a", set()) == 1000

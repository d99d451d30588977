from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from policies import safe_text


def test_terminal_escapes_are_shown_and_not_obeyed() -> None:
    assert safe_text("\x1b[2J\x07ok\x9b1m") == r"\x1b[2J\x07ok\x9b1m"


def test_text_direction_tricks_are_shown_and_not_obeyed() -> None:
    assert safe_text("a\u202egnp.exe") == r"a\u202egnp.exe"
    assert safe_text("a\u2066b\u200bc\ufeff") == r"a\u2066b\u200bc\ufeff"


def test_a_log_line_cannot_be_split() -> None:
    assert safe_text("a\nERROR: b\r\u2028c\x85") == r"a\nERROR: b\r\u2028c\x85"


def test_newlines_and_tabs_stay_when_asked_for() -> None:
    assert safe_text("a\n\tb\r", newlines=True) == "a\n\tb\\r"


def test_ordinary_text_of_any_script_is_left_alone() -> None:
    for text in ["plain", "Grüße", "日本語", "می\u200cخواهم", "👩\u200d🚀", "مرحبا"]:  # noqa: RUF001
        assert safe_text(text) == text


def test_a_lone_surrogate_cannot_crash_whoever_encodes_the_text_later() -> None:
    assert safe_text("a\ud800b").encode() == rb"a\ud800b"


def test_a_cut_is_announced_with_what_is_missing() -> None:
    assert safe_text("x" * 100, 10) == "x" * 10 + "... (90 more characters)"


@given(st.text(), st.integers(min_value=0, max_value=50), st.booleans())
def test_the_result_is_bounded_and_printable_whatever_comes_in(text: str, limit: int, newlines: bool) -> None:
    shown = safe_text(text, limit, newlines=newlines)
    body, cut, _ = shown.partition("... (")
    assert len(body) <= limit or not cut
    assert len(shown) <= limit + 40
    for char in "\x00\x1b\x7f\x9b\r\u202e\u2028":
        assert char not in shown
    assert newlines or "\n" not in shown
    shown.encode()

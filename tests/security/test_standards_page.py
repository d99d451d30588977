"""The page for auditors says what the tests check, no more and no less."""

from __future__ import annotations

import os

from tests.security.standards_page import PAGE, page


def test_the_page_of_standards_is_the_tests_own_tables() -> None:
    if os.environ.get("RINGFENCE_UPDATE_SNAPSHOTS"):
        PAGE.write_text(page(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page()

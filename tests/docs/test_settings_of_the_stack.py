"""A setting that the operator's page names is one that the composed stack obeys, not one that it drops in silence."""

from __future__ import annotations

import re

import pytest

from tests.stack import ROOT

_OF_THE_IMAGE = {"RINGFENCE_CORE_DIR", "RINGFENCE_SHUTDOWN_S"}  # fixed there


def documented() -> list[str]:
    page = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
    return re.findall(r"^\| `(RINGFENCE_[A-Z_]+)` \|", page, re.MULTILINE)


@pytest.mark.parametrize("name", sorted(set(documented()) - _OF_THE_IMAGE))
def test_the_stack_hands_on_each_documented_setting(name: str) -> None:
    compose = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    assert re.search(rf"^ {{2,6}}{name}:|\$\{{{name}[:}}]", compose, re.MULTILINE)


def test_the_page_has_settings() -> None:
    assert len(documented()) > 30

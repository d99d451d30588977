"""A measurement's policies are the shipped ones but for what it names; a line that is no longer there is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.policy_files import WITHOUT_RATES, changed, isolated_by
from policies import ExtensionName, PolicyStore


@pytest.mark.parametrize("name", ["anything", "core"])
def test_every_sandbox_is_of_the_kind_that_is_asked_for(tmp_path: Path, name: str) -> None:
    store = PolicyStore(changed(tmp_path / "policies", {**isolated_by("gvisor"), **WITHOUT_RATES}))
    assert store.effective(ExtensionName(name)).isolation == "gvisor"


def test_nothing_else_is_changed(tmp_path: Path) -> None:
    store = PolicyStore(changed(tmp_path / "policies", isolated_by("runc")))
    assert store.effective(ExtensionName("anything")).memory == 2 << 30
    assert store.effective(ExtensionName("anything")).isolation == "runc"


def test_a_line_that_no_policy_has_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="colour"):
        changed(tmp_path / "policies", {"^  colour: ": "  colour: red"})

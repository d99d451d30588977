"""The versions that a worker says are those that an import would find."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from runtime import versions


@pytest.mark.parametrize("name", ["numpy", "pydantic_core"])
def test_it_says_what_the_standard_library_would_say(name: str) -> None:
    assert versions.installed(name) == importlib.metadata.version(name)


def test_a_package_that_is_not_there_has_none() -> None:
    assert versions.installed("no_such_package") is None


def test_an_environment_before_the_image_counts_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy-9.9.9.dist-info").mkdir()
    (tmp_path / "numpy_financial-1.0.dist-info").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path / "missing"))
    assert versions.installed("numpy") == "9.9.9"

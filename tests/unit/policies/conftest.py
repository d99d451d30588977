"""A policy directory to write files into, and the store over it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from policies import PolicyStore

# A busy machine is no counterexample.
settings.register_profile("ringfence", deadline=None)
settings.load_profile("ringfence")

Write = Callable[..., Path]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "policies"
    path.mkdir()
    return path


@pytest.fixture
def store(directory: Path) -> PolicyStore:
    return PolicyStore(directory)


@pytest.fixture
def write(directory: Path) -> Write:
    def _write(name: str, text: str) -> Path:
        file = directory / f"{name}.yaml"
        file.write_text(text)
        return file

    return _write

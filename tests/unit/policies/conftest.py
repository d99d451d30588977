"""A policy directory to write files into, and the store over it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from policies import PolicyStore

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

"""What the import system sees of a copy that has just been made."""

from __future__ import annotations

import os
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

from runtime import loader
from runtime.sdk import paths


def test_a_copy_is_importable_although_its_folder_was_looked_into_in_the_same_instant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "_root", str(tmp_path))
    source = tmp_path / "source"
    source.mkdir()
    (source / "__init__.py").touch()
    folder = Path(paths.custom_nodes())
    folder.mkdir(parents=True)
    assert PathFinder.find_spec("pack", [str(folder)]) is None
    looked = folder.stat().st_mtime_ns
    copy = loader._working_copy(source, "custom_nodes.pack", loader.Extension("pack", "v1"))
    assert copy == folder / "pack"
    os.utime(folder, ns=(looked, looked))
    assert PathFinder.find_spec("pack", [str(folder)]) is not None


def test_a_copy_is_importable_although_its_folder_was_looked_for_before_it_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "_root", str(tmp_path))
    source = tmp_path / "source"
    source.mkdir()
    (source / "__init__.py").touch()
    assert PathFinder.find_spec("custom_nodes", [paths.app()]) is None
    loader._working_copy(source, "custom_nodes.pack", loader.Extension("pack", "v1"))
    assert PathFinder.find_spec("custom_nodes", [paths.app()]) is not None

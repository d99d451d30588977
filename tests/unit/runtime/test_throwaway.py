from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime import throwaway


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A pack with a bit of everything."""
    place = tmp_path / "source"
    (place / ".git").mkdir(parents=True)
    (place / ".git" / "config").write_text("x")
    (place / "sub" / "__pycache__").mkdir(parents=True)
    (place / "__init__.py").write_text("code")
    (place / "sub" / "tool.sh").write_text("#!/bin/sh")
    (place / "sub" / "tool.sh").chmod(0o555)
    (place / "weights.bin").write_bytes(b"w" * (5 << 20))
    (place / "link").symlink_to("__init__.py")
    (place / "sub").chmod(0o555)
    return place


def test_the_copy_can_be_written_and_the_original_stays(source: Path, tmp_path: Path) -> None:
    copy = throwaway.make(source, tmp_path / "app" / "pack")
    assert copy.path == tmp_path / "app" / "pack"
    assert copy.note is None
    (copy.path / "__init__.py").write_text("changed")
    (copy.path / "sub" / "new").write_text("new")
    assert (source / "__init__.py").read_text() == "code"
    assert not (source / "sub" / "new").exists()
    assert (copy.path / "sub" / "tool.sh").stat().st_mode & 0o100
    assert (copy.path / "link").read_text() == "changed"


def test_repository_and_caches_are_not_copied_and_large_files_are_links(source: Path, tmp_path: Path) -> None:
    copy = throwaway.make(source, tmp_path / "pack").path
    assert not (copy / ".git").exists()
    assert not (copy / "sub" / "__pycache__").exists()
    assert (copy / "weights.bin").readlink() == source / "weights.bin"


def test_what_does_not_fit_is_used_in_place_with_a_note(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throwaway, "_free_bytes", lambda _: 1 << 20)
    copy = throwaway.make(source, tmp_path / "pack")
    assert copy.path.readlink() == source
    assert copy.note is not None
    assert "1.0 MiB free" in copy.note


def test_a_copy_that_fails_half_way_is_replaced_by_a_link(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: str, target: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(throwaway, "_copy_file", fail)
    copy = throwaway.make(source, tmp_path / "pack")
    assert copy.path.readlink() == source
    assert copy.note is not None


def test_links_stay_links_wherever_they_lead(source: Path, tmp_path: Path) -> None:
    (source / "folder").symlink_to("sub", target_is_directory=True)
    (source / "up").symlink_to("..")
    (source / "nowhere").symlink_to("/no/such/file")
    copy = throwaway.make(source, tmp_path / "pack")
    assert copy.note is None
    found = {name: str((copy.path / name).readlink()) for name in ("folder", "up", "nowhere")}
    assert found == {"folder": "sub", "up": "..", "nowhere": "/no/such/file"}


def test_a_pipe_in_a_pack_is_no_file_to_wait_for(source: Path, tmp_path: Path) -> None:
    os.mkfifo(source / "pipe")
    copy = throwaway.make(source, tmp_path / "pack")
    assert copy.path.readlink() == source
    assert "pipe is no regular file" in str(copy.note)


def test_a_copy_left_by_an_earlier_worker_is_replaced(source: Path, tmp_path: Path) -> None:
    first = throwaway.make(source, tmp_path / "pack").path
    (first / "leftover").write_text("x")
    assert not (throwaway.make(source, tmp_path / "pack").path / "leftover").exists()
    assert throwaway.make(source, source) == (source, None)
    assert (source / "__init__.py").exists()


def test_a_single_file_is_copied_as_one(source: Path, tmp_path: Path) -> None:
    copy = throwaway.make(source / "__init__.py", tmp_path / "pack.py")
    assert copy.path.read_text() == "code"

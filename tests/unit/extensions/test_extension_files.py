"""What is copied of a pack, what is refused, and what its hash covers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.extension_errors import SourceRefusedError
from engine.extension_files import SourceLimits, copy_source, hash_tree

LIMITS = SourceLimits(files=20, nbytes=10_000, depth=4)


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    directory = tmp_path / "pack"
    (directory / "sub").mkdir(parents=True)
    (directory / "__init__.py").write_text("x = 1\n")
    (directory / "sub" / "data.txt").write_text("data\n")
    return directory


def names(target: Path) -> list[str]:
    return sorted(path.relative_to(target).as_posix() for path in target.rglob("*"))


def test_regular_files_are_copied_readable_for_all(pack: Path, tmp_path: Path) -> None:
    (pack / "run.sh").write_text("#!/bin/sh\n")
    (pack / "run.sh").chmod(0o700)
    copied = copy_source(pack, tmp_path / "copy", LIMITS)
    assert names(tmp_path / "copy") == ["__init__.py", "run.sh", "sub", "sub/data.txt"]
    assert copied.files == 3
    assert (tmp_path / "copy" / "__init__.py").stat().st_mode & 0o777 == 0o444
    assert (tmp_path / "copy" / "run.sh").stat().st_mode & 0o777 == 0o555
    assert copied.content_hash == hash_tree(tmp_path / "copy")


def test_histories_caches_and_environments_stay_behind(pack: Path, tmp_path: Path) -> None:
    for name in (".git", "__pycache__", ".venv", "sub/__pycache__"):
        (pack / name).mkdir()
        (pack / name / "file").write_text("x")
    before = copy_source(pack, tmp_path / "one", LIMITS).content_hash
    (pack / ".git" / "file").write_text("y")
    assert copy_source(pack, tmp_path / "two", LIMITS).content_hash == before
    assert names(tmp_path / "two") == ["__init__.py", "sub", "sub/data.txt"]


def test_the_hash_covers_names_and_contents(pack: Path, tmp_path: Path) -> None:
    first = copy_source(pack, tmp_path / "1", LIMITS).content_hash
    (pack / "sub" / "data.txt").rename(pack / "sub" / "date.txt")
    second = copy_source(pack, tmp_path / "2", LIMITS).content_hash
    (pack / "sub" / "date.txt").write_text("date\n")
    third = copy_source(pack, tmp_path / "3", LIMITS).content_hash
    assert len({first, second, third}) == 3


def test_one_file_becomes_a_pack(tmp_path: Path) -> None:
    (tmp_path / "nodes.py").write_text("x = 1\n")
    copy_source(tmp_path / "nodes.py", tmp_path / "copy", LIMITS)
    assert names(tmp_path / "copy") == ["__init__.py"]


def test_links_inside_the_pack_become_what_they_point_at(pack: Path, tmp_path: Path) -> None:
    (pack / "alias.txt").symlink_to("sub/data.txt")
    (pack / "folder").symlink_to("sub")
    copy_source(pack, tmp_path / "copy", LIMITS)
    assert (tmp_path / "copy" / "alias.txt").read_text() == "data\n"
    assert not (tmp_path / "copy" / "folder").is_symlink()
    assert not any(path.is_symlink() for path in (tmp_path / "copy").rglob("*"))


@pytest.mark.parametrize(
    ("target", "message"),
    [("../secret", "out of the pack"), ("/etc/hostname", "out of the pack"), ("nowhere", "leads nowhere")],
)
def test_links_that_leave_are_refused(pack: Path, tmp_path: Path, target: str, message: str) -> None:
    (tmp_path / "secret").write_text("secret")
    (pack / "sub" / "link").symlink_to(target if target.startswith("/") else f"../{target}")
    with pytest.raises(SourceRefusedError, match=message):
        copy_source(pack, tmp_path / "copy", LIMITS)
    assert not (tmp_path / "copy").exists()


def test_a_link_to_a_folder_above_it_ends_at_the_depth_limit(pack: Path, tmp_path: Path) -> None:
    (pack / "sub" / "again").symlink_to("..")
    with pytest.raises(SourceRefusedError, match=r"deep|more than"):
        copy_source(pack, tmp_path / "copy", LIMITS)


def test_pipes_and_the_like_are_refused(pack: Path, tmp_path: Path) -> None:
    os.mkfifo(pack / "pipe")
    with pytest.raises(SourceRefusedError, match="'pipe' is not a regular file"):
        copy_source(pack, tmp_path / "copy", LIMITS)


def test_sizes_are_bounded(pack: Path, tmp_path: Path) -> None:
    (pack / "big").write_bytes(b"x" * 10_001)
    with pytest.raises(SourceRefusedError, match="MiB"):
        copy_source(pack, tmp_path / "copy", LIMITS)
    (pack / "big").unlink()
    for number in range(20):
        (pack / f"file{number}").touch()
    with pytest.raises(SourceRefusedError, match="more than 20 files"):
        copy_source(pack, tmp_path / "copy", LIMITS)
    assert not (tmp_path / "copy").exists()


def test_what_is_no_pack_is_refused_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "nodes.py").write_text("")
    with pytest.raises(SourceRefusedError, match=r"no __init__\.py.*one file: nodes\.py"):
        copy_source(tmp_path / "repo", tmp_path / "copy", LIMITS)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(SourceRefusedError, match="not a Python file"):
        copy_source(tmp_path / "notes.txt", tmp_path / "copy", LIMITS)
    with pytest.raises(SourceRefusedError, match="nothing at"):
        copy_source(tmp_path / "nothere", tmp_path / "copy", LIMITS)

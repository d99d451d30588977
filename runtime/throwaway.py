"""The copy of an extension that it may write into.

Packs write settings, caches and generated files into their own folder; the real one is read-only and stays as it is.
The copy lies in the sandbox's capped memory file system, so only what a pack might change is copied: large files
(weights, media) are links to the original.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NamedTuple

_LINK_FROM = 4 * 1024 * 1024
_SKIPPED = frozenset({".git", ".github", "__pycache__", ".venv", "node_modules"})
_RESERVE = 8 * 1024 * 1024


class WorkingCopy(NamedTuple):
    """Where an extension is loaded from."""

    path: Path
    note: str | None
    """What the operator should know, if the copy could not be made."""


def make(source: Path, destination: Path) -> WorkingCopy:
    """Copy the extension at ``source`` to ``destination``; where it does not fit, link to the read-only original."""
    if destination.exists() and destination.samefile(source):
        return WorkingCopy(source, None)
    _remove(destination)  # of a worker before this one, where the place is not thrown away with it
    needed, linked = _measure(source)
    destination.parent.mkdir(parents=True, exist_ok=True)
    free = _free_bytes(destination.parent)
    if needed + _RESERVE > free:
        note = (
            f"the extension's folder ({_mebibytes(needed)}) does not fit its throwaway copy "
            f"({_mebibytes(free)} free): it is loaded read-only, and cannot write into its own folder"
        )
        return WorkingCopy(_link(source, destination), note)
    try:
        if source.is_dir():
            _copy_tree(source, destination, linked)
        else:
            shutil.copyfile(source, destination)
    except OSError as error:
        _remove(destination)
        note = f"the extension's folder could not be copied ({error}): it is loaded read-only"
        return WorkingCopy(_link(source, destination), note)
    return WorkingCopy(destination, None)


def _measure(source: Path) -> tuple[int, set[str]]:
    """Bytes to copy, and the files that are linked instead."""
    if not source.is_dir():
        return source.stat().st_size, set()
    total, linked = 0, set()
    for folder, names, files in os.walk(source):
        names[:] = [name for name in names if name not in _SKIPPED]
        for name in files:
            path = f"{folder}/{name}"
            size = os.lstat(path).st_size
            if size >= _LINK_FROM:
                linked.add(path)
            else:
                total += max(size, 4096)  # a page at least
        total += 4096
    return total, linked


def _copy_tree(source: Path, destination: Path, linked: set[str]) -> None:
    def copy(path: str, target: str) -> str:
        if path in linked:
            Path(target).symlink_to(path)
        else:
            shutil.copyfile(path, target)
            Path(target).chmod(0o700 if os.access(path, os.X_OK) else 0o600)
        return target

    shutil.copytree(
        source,
        destination,
        symlinks=True,
        ignore=lambda _, names: _SKIPPED.intersection(names),
        copy_function=copy,
    )
    # Folders of the original may be read-only; the copy exists to be written to.
    for folder, _, _ in os.walk(destination):
        Path(folder).chmod(0o700)


def _link(source: Path, destination: Path) -> Path:
    try:
        destination.symlink_to(source)
    except OSError:
        return source
    return destination


def _remove(destination: Path) -> None:
    if destination.is_symlink() or destination.is_file():
        destination.unlink()
    else:
        shutil.rmtree(destination, ignore_errors=True)


def _free_bytes(directory: Path) -> int:
    figures = os.statvfs(directory)
    return figures.f_bavail * figures.f_frsize


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"

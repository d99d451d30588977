"""The copy of an extension that it may write into.

Packs write settings, caches and generated files into their own folder; the real one is read-only and stays as it is.
The copy lies in the sandbox's capped memory file system, so only what a pack might change is copied: large files
(weights, media) are links to the original.
"""

from __future__ import annotations

import os
import stat
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
            _copy_file(source, destination)
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
    # Not by shutil, which would be half a MiB with its archivers in every sandbox.
    def give_up(error: OSError) -> None:
        raise error

    destination.mkdir(mode=0o700)  # those of the original may be read-only; the copy exists to be written to
    for folder, names, files in os.walk(source, onerror=give_up):
        here = destination / Path(folder).relative_to(source)
        names[:] = [name for name in names if name not in _SKIPPED]
        for name in names:
            path, target = Path(folder, name), here / name
            if path.is_symlink():
                target.symlink_to(path.readlink())
            else:
                target.mkdir(mode=0o700)
        for name in set(files) - _SKIPPED:
            path, target = Path(folder, name), here / name
            if path.is_symlink():
                target.symlink_to(path.readlink())
            elif str(path) in linked:
                target.symlink_to(path)
            else:
                _copy_file(path, target)
                target.chmod(0o700 if os.access(path, os.X_OK) else 0o600)


def _copy_file(path: Path, target: Path) -> None:
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(f"{path.name} is no regular file")  # reading a pipe would wait for ever
    with path.open("rb") as source, target.open("wb") as copy:
        while piece := source.read(_LINK_FROM):
            copy.write(piece)


def _link(source: Path, destination: Path) -> Path:
    try:
        destination.symlink_to(source)
    except OSError:
        return source
    return destination


def _remove(destination: Path) -> None:
    if destination.is_symlink() or destination.is_file():
        destination.unlink()
    elif destination.exists():
        import shutil  # seldom: a sandbox starts with nothing there

        shutil.rmtree(destination, ignore_errors=True)


def _free_bytes(directory: Path) -> int:
    figures = os.statvfs(directory)
    return figures.f_bavail * figures.f_frsize


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"

"""Digests of directories: what was written there once, and whether it is still that; and how much it is.

Only directories, regular files and links (which are never followed) may lie in such a tree; anything else changes the
digest like a changed byte does, and so does a file that came or went.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path


def tree_digest(root: Path, *, compiled: bool = True) -> str:
    """The digest of all names, kinds, executable bits and contents below ``root``.

    ``compiled=False`` leaves out what the interpreter made of the sources (``__pycache__``), which differs from one
    compilation to the next.
    """
    whole = hashlib.sha256()
    for directory, directories, files in os.walk(root):
        directories.sort()
        if not compiled and "__pycache__" in directories:
            directories.remove("__pycache__")
        for name in sorted((*directories, *files)):
            path = f"{directory}/{name}"
            status = os.lstat(path)
            line = f"{os.path.relpath(path, root)!r} {_kind(path, status)}\n"
            whole.update(line.encode("utf-8", "surrogateescape"))
    return whole.hexdigest()


def tree_size(root: Path) -> int:
    """The bytes of all files below ``root``, as they say of themselves; what goes meanwhile is not counted."""
    total = 0
    for directory, _, files in os.walk(root):
        for name in files:
            try:
                total += os.lstat(f"{directory}/{name}").st_size
            except OSError:
                continue
    return total


def tree_stamp(root: Path) -> str:
    """Changes whenever anything below ``root`` is touched, and costs no reading: inodes, sizes and change times."""
    whole = hashlib.sha256()
    for directory, directories, files in os.walk(root):
        directories.sort()
        for name in ("", *sorted((*directories, *files))):
            path = f"{directory}/{name}"
            status = os.lstat(path)
            # The launcher holds the root itself while it is mounted, which changes nothing below; names stand here all.
            is_root = directory == str(root) and not name
            changed = 0 if is_root else status.st_ctime_ns
            mode = status.st_mode & ~stat.S_ISVTX if is_root else status.st_mode
            stamp = (status.st_dev, status.st_ino, mode, status.st_size, changed)
            whole.update(f"{os.path.relpath(path, root)!r} {stamp}\n".encode("utf-8", "surrogateescape"))
    return whole.hexdigest()


def _kind(path: str, status: os.stat_result) -> str:
    if stat.S_ISDIR(status.st_mode):
        return "directory"
    if stat.S_ISLNK(status.st_mode):
        return f"link {os.readlink(path)!r}"  # noqa: PTH115  (text, not a path of ours)
    if not stat.S_ISREG(status.st_mode):
        return f"special {status.st_mode:o}"
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return f"file {'x' if status.st_mode & 0o111 else '-'} {digest}"

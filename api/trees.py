"""A directory of a tenant's files, which sandboxes may write to as well: so no link below it is ever followed.

Every operation walks from a descriptor of the root, component by component; swapping a directory for a link while we
walk leads nowhere. All of this blocks: routes call it in a thread. Not here: what a file means, how it is answered.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from api.tree_contents import TEMPORARY, bytes_left, digest_of, fill, link, same_size, temporary_name
from api.tree_errors import FileExistsInTheWayError, FileRefusedError, FileUnknownError, StorageFullError
from api.tree_paths import DEPTH_LIMIT, checked_name, parts_of, split, unknown_file
from policies import PathEscapeError, open_beneath
from sandbox import patiently

__all__ = [
    "Entry",
    "FileExistsInTheWayError",
    "FileRefusedError",
    "FileUnknownError",
    "StorageFullError",
    "Tree",
]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_LIST_LIMIT = 50_000
_COMPARED = 16  # files of the same name and size that are read to see whether they are the one that comes


@dataclass(frozen=True, slots=True)
class Entry:
    """One file or directory; ``path`` is relative to the directory that was listed."""

    path: str
    is_directory: bool
    size: int
    modified: float
    created: float


class Tree:
    """One root directory and what may be done below it. Paths are relative, with '/' between components.

    Every method raises PathEscapeError for a path that is absolute, climbs or meets a link, and FileUnknownError when
    what it needs is not there.
    """

    def __init__(self, root: Path, *, max_bytes: int | None = None) -> None:
        self.root = root
        self._max_bytes = max_bytes

    def open_file(self, path: str) -> int:
        """A read-only descriptor of a regular file; the caller closes it."""
        try:
            return open_beneath(self.root, path)
        except (FileNotFoundError, NotADirectoryError):
            raise unknown_file(path) from None
        except OSError as error:
            raise FileRefusedError(f"this file name cannot be used: {error.strerror}") from None

    def entry(self, path: str) -> Entry:
        """Size and times of one file."""
        descriptor = self.open_file(path)
        try:
            return _entry(path, os.fstat(descriptor))
        finally:
            os.close(descriptor)

    def read(self, path: str, *, limit: int) -> bytes:
        """A small file's bytes."""
        with os.fdopen(self.open_file(path), "rb") as stream:
            data = stream.read(limit + 1)
        if len(data) > limit:
            raise FileRefusedError(f"the file is larger than {limit} bytes")
        return data

    def entries(self, path: str = "", *, recurse: bool = False) -> list[Entry]:
        """Files (and, when not recursing, directories) below ``path``, in no particular order."""
        found: list[Entry] = []
        with self._directory(path) as top:
            self._collect(top, "", found, recurse=recurse, depth=0)
        return found

    def walk(self, path: str = "") -> list[Entry]:
        """Files and directories of the whole subtree.

        Raises:
            FileRefusedError: it is a file.
        """
        found: list[Entry] = []
        try:
            with self._directory(path) as top:
                self._collect(top, "", found, recurse=True, depth=0, directories=True)
        except PathEscapeError:
            self.entry(path)  # raises for all but a file
            raise FileRefusedError("this is a file", hint="name a directory") from None
        return found

    def write(self, path: str, source: IO[bytes], *, overwrite: bool) -> Entry:
        """Store a file whole or not at all; parents are created.

        Raises:
            FileExistsInTheWayError: it exists and ``overwrite`` is false, or is a directory.
            StorageFullError: the tree's quota, or the disk.
        """
        folder, name = split(path)
        self._check_quota(source)
        with self._directory(folder, create=True) as parent, temporary_name(parent) as temporary:
            fill(parent, temporary, source)
            if overwrite:
                self._replace(parent, temporary, name)
            else:
                link(parent, temporary, name)
        return self.entry(path)

    def add(self, folder: str, name: str, source: IO[bytes]) -> str:
        """Store a file under ``name``, or, if another file has it, under "name (1)" and so on; returns the name.

        A file of the same name and content is taken as it is.
        """
        stem, suffix = os.path.splitext(checked_name(name))  # noqa: PTH122 - a name, not a path
        size = bytes_left(source)
        digest = digest_of(source, size)
        compared = 0
        self._check_quota(source)
        with self._directory(folder, create=True) as parent, temporary_name(parent) as temporary:
            fill(parent, temporary, source)
            for number in range(10_000):
                candidate = checked_name(f"{stem} ({number}){suffix}") if number else name
                try:
                    link(parent, temporary, candidate)
                except FileExistsInTheWayError:
                    if compared < _COMPARED and (there := same_size(parent, candidate, size)) is not None:
                        compared += 1
                        with os.fdopen(there, "rb") as stream:
                            if digest_of(stream, size) == digest:
                                return candidate
                else:
                    return candidate
        raise FileExistsInTheWayError("too many files have this name", hint="choose another name")

    def delete(self, path: str) -> None:
        """Remove one file."""
        folder, name = split(path)
        with self._directory(folder) as parent:
            try:
                patiently(lambda: os.unlink(name, dir_fd=parent), parent)
            except FileNotFoundError:
                raise unknown_file(path) from None
            except (IsADirectoryError, PermissionError):
                raise FileRefusedError("this is a directory") from None

    def move(self, path: str, target: str, *, overwrite: bool) -> Entry:
        """Give a file another place in this tree.

        Raises:
            FileExistsInTheWayError: as ``write``.
        """
        self.entry(path)
        (folder, name), (to_folder, to_name) = split(path), split(target)
        with self._directory(folder) as parent, self._directory(to_folder, create=True) as to_parent:
            try:
                if not overwrite:
                    os.link(name, to_name, src_dir_fd=parent, dst_dir_fd=to_parent, follow_symlinks=False)
                    patiently(lambda: os.unlink(name, dir_fd=parent), parent)
                else:
                    patiently(
                        lambda: os.replace(name, to_name, src_dir_fd=parent, dst_dir_fd=to_parent),
                        parent,
                        to_parent,
                    )
            except (FileExistsError, IsADirectoryError):
                raise FileExistsInTheWayError("something of that name exists") from None
        return self.entry(target)

    def _replace(self, parent: int, temporary: str, name: str) -> None:
        try:
            patiently(lambda: os.replace(temporary, name, src_dir_fd=parent, dst_dir_fd=parent), parent)
        except IsADirectoryError:
            raise FileExistsInTheWayError("a directory of that name exists") from None

    @contextmanager
    def _directory(self, path: str, *, create: bool = False) -> Iterator[int]:
        parts = parts_of(path)
        here = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in parts:
                there = _enter(here, part, create=create)
                os.close(here)
                here = there
            yield here
        finally:
            os.close(here)

    def _collect(
        self,
        directory: int,
        prefix: str,
        found: list[Entry],
        *,
        recurse: bool,
        depth: int,
        directories: bool = False,
    ) -> None:
        below: list[str] = []
        with os.scandir(directory) as entries:
            for item in entries:
                status = item.stat(follow_symlinks=False)
                is_directory = stat.S_ISDIR(status.st_mode)
                if is_directory and recurse:
                    below.append(item.name)
                wanted = (directories or not recurse) if is_directory else stat.S_ISREG(status.st_mode)
                if wanted and not item.name.startswith(TEMPORARY):
                    found.append(_entry(prefix + item.name, status))
                if len(found) > _LIST_LIMIT:
                    raise FileRefusedError(f"the directory holds more than {_LIST_LIMIT} files")
        for name in below if depth < DEPTH_LIMIT else ():
            try:
                there = os.open(name, _DIRECTORY, dir_fd=directory)
            except OSError:
                continue  # gone or swapped since the listing
            try:
                self._collect(
                    there, f"{prefix}{name}/", found, recurse=True, depth=depth + 1, directories=directories
                )
            finally:
                os.close(there)

    def _check_quota(self, source: IO[bytes]) -> None:
        if self._max_bytes is None:
            return
        coming = bytes_left(source)
        used = sum(entry.size for entry in self.walk())
        if used + coming > self._max_bytes:
            raise StorageFullError(
                f"{used} of {self._max_bytes} bytes are used and {coming} more do not fit",
                hint="delete some files",
            )


def _enter(here: int, part: str, *, create: bool) -> int:
    for _ in range(2):
        try:
            return os.open(part, _DIRECTORY, dir_fd=here)
        except FileNotFoundError:
            if not create:
                raise FileUnknownError("there is no such directory") from None
        except OSError:  # ELOOP, ENOTDIR: a link or a file
            raise PathEscapeError(
                "a part of the path is not a directory", hint="links are not followed"
            ) from None
        try:
            os.mkdir(part, 0o755, dir_fd=here)
        except FileExistsError:
            pass
    raise FileUnknownError("there is no such directory")


def _entry(path: str, status: os.stat_result) -> Entry:
    return Entry(path, stat.S_ISDIR(status.st_mode), status.st_size, status.st_mtime, status.st_ctime)

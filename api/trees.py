"""A directory of a tenant's files, which sandboxes may write to as well: so no link below it is ever followed.

Every operation walks from a descriptor of the root, component by component; swapping a directory for a link while we
walk leads nowhere. All of this blocks: routes call it in a thread. Not here: what a file means, how it is answered.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from policies import PathEscapeError, RingfenceError, open_beneath, safe_text
from sandbox import patiently

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_LIST_LIMIT = 50_000
_DEPTH_LIMIT = 32
_NAME_LIMIT = 255
_CHUNK = 1024 * 1024
_COMPARED = 16  # files of the same name and size that are read to see whether they are the one that comes


class FileUnknownError(RingfenceError):
    """There is no such file."""

    code = "not-found"


class FileRefusedError(RingfenceError):
    """A name or place for a file that we do not accept."""

    code = "file-refused"


class FileExistsInTheWayError(RingfenceError):
    """Something of that name is there and shall not be replaced."""

    code = "file-exists"


class StorageFullError(RingfenceError):
    """A quota is used up, or the disk is full."""

    code = "storage-full"


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
            raise _unknown(path) from None
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
        folder, name = _split(path)
        self._check_quota(source)
        with self._directory(folder, create=True) as parent, _temporary(parent) as temporary:
            _fill(parent, temporary, source)
            if overwrite:
                self._replace(parent, temporary, name)
            else:
                _link(parent, temporary, name)
        return self.entry(path)

    def add(self, folder: str, name: str, source: IO[bytes]) -> str:
        """Store a file under ``name``, or, if another file has it, under "name (1)" and so on; returns the name.

        A file of the same name and content is taken as it is.
        """
        stem, suffix = os.path.splitext(_checked_name(name))  # noqa: PTH122 - a name, not a path
        size = _left(source)
        digest = _digest(source, size)
        compared = 0
        self._check_quota(source)
        with self._directory(folder, create=True) as parent, _temporary(parent) as temporary:
            _fill(parent, temporary, source)
            for number in range(10_000):
                candidate = _checked_name(f"{stem} ({number}){suffix}") if number else name
                try:
                    _link(parent, temporary, candidate)
                except FileExistsInTheWayError:
                    if compared < _COMPARED and (there := _same_size(parent, candidate, size)) is not None:
                        compared += 1
                        with os.fdopen(there, "rb") as stream:
                            if _digest(stream, size) == digest:
                                return candidate
                else:
                    return candidate
        raise FileExistsInTheWayError("too many files have this name", hint="choose another name")

    def delete(self, path: str) -> None:
        """Remove one file."""
        folder, name = _split(path)
        with self._directory(folder) as parent:
            try:
                patiently(lambda: os.unlink(name, dir_fd=parent), parent)
            except FileNotFoundError:
                raise _unknown(path) from None
            except (IsADirectoryError, PermissionError):
                raise FileRefusedError("this is a directory") from None

    def move(self, path: str, target: str, *, overwrite: bool) -> Entry:
        """Give a file another place in this tree.

        Raises:
            FileExistsInTheWayError: as ``write``.
        """
        self.entry(path)
        (folder, name), (to_folder, to_name) = _split(path), _split(target)
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
        parts = _parts(path)
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
                if wanted and not item.name.startswith(_TEMPORARY):
                    found.append(_entry(prefix + item.name, status))
                if len(found) > _LIST_LIMIT:
                    raise FileRefusedError(f"the directory holds more than {_LIST_LIMIT} files")
        for name in below if depth < _DEPTH_LIMIT else ():
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
        coming = _left(source)
        used = sum(entry.size for entry in self.walk())
        if used + coming > self._max_bytes:
            raise StorageFullError(
                f"{used} of {self._max_bytes} bytes are used and {coming} more do not fit",
                hint="delete some files",
            )


_TEMPORARY = ".ringfence-upload-"


@contextmanager
def _temporary(parent: int) -> Iterator[str]:
    name = _TEMPORARY + secrets.token_hex(8)
    try:
        yield name
    finally:
        try:
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            pass


def _fill(parent: int, name: str, source: IO[bytes]) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(name, flags, 0o644, dir_fd=parent), "wb") as stream:
            while chunk := source.read(_CHUNK):
                stream.write(chunk)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFullError("the disk is full", hint="ask whoever runs this server") from None
        raise


def _link(parent: int, temporary: str, name: str) -> None:
    """Give the finished file its name, unless that is taken; there is no moment in which both could win."""
    try:
        os.link(temporary, name, src_dir_fd=parent, dst_dir_fd=parent, follow_symlinks=False)
    except FileExistsError:
        raise FileExistsInTheWayError("a file of that name exists", hint="choose another name") from None


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


def _same_size(parent: int, name: str, size: int) -> int | None:
    """A descriptor of the file if it has that size. A pack can leave a file of terabytes (sparse, so it costs nothing).

    Whoever reads it reads no more than ``size`` bytes: the file may grow meanwhile.
    """
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=parent)
    except OSError:
        return None
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_size == size:
        return descriptor
    os.close(descriptor)
    return None


def _digest(stream: IO[bytes], size: int) -> bytes:
    position = stream.tell()
    digest = hashlib.sha256()
    while size > 0 and (chunk := stream.read(min(_CHUNK, size))):
        digest.update(chunk)
        size -= len(chunk)
    stream.seek(position)
    return digest.digest()


def _left(source: IO[bytes]) -> int:
    position = source.tell()
    size = source.seek(0, os.SEEK_END) - position
    source.seek(position)
    return size


def _entry(path: str, status: os.stat_result) -> Entry:
    return Entry(path, stat.S_ISDIR(status.st_mode), status.st_size, status.st_mtime, status.st_ctime)


def _split(path: str) -> tuple[str, str]:
    parts = _parts(path)
    if not parts:
        raise FileRefusedError("the file needs a name")
    return "/".join(parts[:-1]), _checked_name(parts[-1])


def _parts(path: str) -> list[str]:
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or ".." in parts or "\0" in path:
        raise PathEscapeError(
            f"the path '{safe_text(path, 200)}' leads out of its directory",
            hint="write it relative, without '..'",
        )
    if len(parts) > _DEPTH_LIMIT:
        raise FileRefusedError(f"the path has more than {_DEPTH_LIMIT} components")
    for part in parts:
        _checked_name(part)
    return parts


def _checked_name(name: str) -> str:
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        encoded = b""
    if not encoded or len(encoded) > _NAME_LIMIT or "/" in name or any(ord(char) < 32 for char in name):
        raise FileRefusedError(
            f"the name '{safe_text(name, 80)}' cannot be used for a file",
            hint=f"use 1 to {_NAME_LIMIT} bytes without control characters",
        )
    if name in (".", ".."):
        raise PathEscapeError("a file cannot have this name")
    return name


def _unknown(path: str) -> FileUnknownError:
    return FileUnknownError(f"there is no file '{safe_text(path, 200)}'")

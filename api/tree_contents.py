"""A file's bytes on their way into a directory: under a name of our own until they are whole.

Each function takes a descriptor of the directory (``trees.py`` found it without following a link) and follows none.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from api.tree_errors import FileExistsInTheWayError, StorageFullError

_CHUNK = 1024 * 1024


TEMPORARY = ".ringfence-upload-"
"""How the names of unfinished files begin; no list shows them."""


@contextmanager
def temporary_name(parent: int) -> Iterator[str]:
    """A name for an unfinished file, which is gone when the block ends."""
    name = TEMPORARY + secrets.token_hex(8)
    try:
        yield name
    finally:
        try:
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            pass


def fill(parent: int, name: str, source: IO[bytes]) -> None:
    """Write a new file. Raises: StorageFullError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(name, flags, 0o644, dir_fd=parent), "wb") as stream:
            while chunk := source.read(_CHUNK):
                stream.write(chunk)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFullError("the disk is full", hint="ask whoever runs this server") from None
        raise


def link(parent: int, temporary: str, name: str) -> None:
    """Give the finished file its name, unless that is taken; there is no moment in which both could win."""
    try:
        os.link(temporary, name, src_dir_fd=parent, dst_dir_fd=parent, follow_symlinks=False)
    except FileExistsError:
        raise FileExistsInTheWayError("a file of that name exists", hint="choose another name") from None


def same_size(parent: int, name: str, size: int) -> int | None:
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


def digest_of(stream: IO[bytes], size: int) -> bytes:
    """The hash of what comes next, ``size`` bytes at most; the stream is back where it was."""
    position = stream.tell()
    digest = hashlib.sha256()
    while size > 0 and (chunk := stream.read(min(_CHUNK, size))):
        digest.update(chunk)
        size -= len(chunk)
    stream.seek(position)
    return digest.digest()


def bytes_left(source: IO[bytes]) -> int:
    """How many bytes are still to be read."""
    position = source.tell()
    size = source.seek(0, os.SEEK_END) - position
    source.seek(position)
    return size

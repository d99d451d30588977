"""Packing a directory into a tar archive for the server: files only, and nothing that no pack needs."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from api.cli.failure import Failure, Status
from api.cli.screen import note

_SKIPPED = frozenset(
    {".git", ".hg", ".svn", "__pycache__", ".venv", "venv", "node_modules", ".mypy_cache", ".pytest_cache"}
)
_SPOOL = 32 * 1024 * 1024


@contextmanager
def packed(source: Path) -> Iterator[IO[bytes]]:
    """A gzipped tar of a directory, or of one .py file.

    Raises:
        Failure: there is no such directory, or it cannot be read.
    """
    import tempfile

    with tempfile.SpooledTemporaryFile(max_size=_SPOOL) as spool:
        with tarfile.open(fileobj=spool, mode="w:gz", compresslevel=1) as archive:
            for path, name in _files(source):
                try:
                    archive.add(path, arcname=name, recursive=False, filter=_plain)
                except OSError as error:
                    raise Failure(Status.USAGE, f"{path}: {error.strerror}") from None
        spool.seek(0)
        yield spool


def _files(source: Path) -> Iterator[tuple[Path, str]]:
    if source.is_file():
        if source.suffix != ".py":
            raise Failure(Status.USAGE, f"{source}: neither a directory nor a .py file")
        yield source, source.name
        return
    if not source.is_dir():
        raise Failure(
            Status.USAGE, f"{source}: there is no such directory", "name a directory, a .py file or a git URL"
        )
    for folder, directories, files in os.walk(source):
        directories[:] = sorted(name for name in directories if name not in _SKIPPED)
        for name in sorted([*directories, *files]):
            path = Path(folder, name)
            relative = path.relative_to(source).as_posix()
            if path.is_symlink():
                if not path.resolve().is_relative_to(source.resolve()):
                    raise Failure(
                        Status.USAGE,
                        f"{source}: '{relative}' is a link that leads out of the pack",
                        "replace it by what it points at, or remove it",
                    )
                if not path.is_file():
                    note(f"left out, because it is a link to a directory or to nothing: {relative}")
                    continue
                path = path.resolve()
            if path.is_file() and not name.endswith((".pyc", ".pyo")):
                yield path, relative


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if not member.isreg():
        return None
    # Whose file it was is nobody's business; the times make no difference to a pack.
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o644
    return member

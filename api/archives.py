"""Unpacking an extension that a client sent as a tar archive, on the host and therefore bounded in every direction.

Regular files and directories only; every other member (links, devices, sparse files) refuses the archive. Member names
are checked as text and written below a directory that only we can write to. Nothing of the content is looked at.
"""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import IO

from policies import RingfenceError, format_bytes, safe_text

_CHUNK = 1024 * 1024
_DEPTH = 32
_PATH = 512
_HEADER = 64 * 1024
_EXTENDED = frozenset({tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, b"L", b"K"})


class ArchiveError(RingfenceError):
    """The archive is not one that we unpack."""

    code = "archive-refused"


class _Member(tarfile.TarInfo):
    """A member whose extended header (a long name, PAX records) is small: tarfile reads such a header into memory."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _EXTENDED and self.size > _HEADER:
            raise ArchiveError("the archive has an oversized header")
        return super()._proc_member(archive)  # type: ignore[misc,no-any-return]  # typeshed leaves it out


def unpack(stream: IO[bytes], target: Path, *, max_bytes: int, max_files: int) -> int:
    """Unpack into the empty directory ``target``; returns the number of files. Blocks.

    Raises:
        ArchiveError: not a tar archive, a member of another kind, an unsafe name, or over a limit.
    """
    budget = max_bytes
    members = files = 0
    try:
        # r|* reads once, front to back: gzip bombs end at the budget, and no member can point at another.
        with tarfile.open(fileobj=stream, mode="r|*", tarinfo=_Member) as archive:
            for member in archive:
                members += 1
                if members > max_files:
                    raise ArchiveError(f"the archive has more than {max_files} entries")
                path = target.joinpath(*_parts(member.name))
                if member.isdir():
                    _make_directory(path)
                    continue
                if not member.isreg() or member.issparse():
                    raise ArchiveError(
                        f"'{safe_text(member.name, 200)}' is a link or a special file",
                        hint="an extension holds only files and directories; replace the link by what it points at",
                    )
                budget -= member.size
                if budget < 0:
                    raise ArchiveError(f"the extension is larger than {format_bytes(max_bytes)} unpacked")
                source = archive.extractfile(member)
                if source is None or path == target:
                    raise ArchiveError(f"'{safe_text(member.name, 200)}' cannot be read")
                _make_directory(path.parent)
                _copy(source, path, member.size)
                files += 1
    except ArchiveError:
        raise
    except Exception as error:
        raise ArchiveError(f"this is not a readable tar archive: {type(error).__name__}") from error
    if files == 0:
        raise ArchiveError("the archive holds no files")
    return files


def _parts(name: str) -> list[str]:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    unsafe = name.startswith("/") or ".." in parts or any(ord(char) < 32 for char in name) or "\\" in name
    if unsafe or len(parts) > _DEPTH or len(name) > _PATH:
        raise ArchiveError(f"the name '{safe_text(name, 200)}' in the archive is not allowed")
    return parts


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
    except FileExistsError:
        raise ArchiveError(f"'{safe_text(path.name, 200)}' is a file and a directory at once") from None


def _copy(source: IO[bytes], path: Path, size: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        raise ArchiveError(f"'{safe_text(path.name, 200)}' is in the archive twice") from None
    with os.fdopen(descriptor, "wb") as out:
        left = size
        while left > 0:
            chunk = source.read(min(_CHUNK, left))
            if not chunk:
                raise ArchiveError("the archive ends in the middle of a file")
            out.write(chunk)
            left -= len(chunk)

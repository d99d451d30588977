"""Unpacking an extension that a client sent as a tar archive, on the host and therefore bounded in every direction.

Regular files and directories only; every other member (links, devices, sparse files) refuses the archive. Member names
are checked as text and written below a directory that only we can write to. Nothing of the content is looked at.
"""

from __future__ import annotations

import bz2
import lzma
import os
import tarfile
import zlib
from pathlib import Path
from typing import IO, NoReturn, Protocol, cast

from policies import RingfenceError, format_bytes, safe_text

_CHUNK = 1024 * 1024
_DEPTH = 32
_PATH = 512
_STEP = 64 * 1024
_HEADER = 64 * 1024
_GLOBAL = 4 * 1024  # all global headers together: tarfile copies them into every member
_EXTENDED_EACH = 256  # bytes of extended headers, per entry that is allowed
_FRAME_EACH = 4 * 1024  # bytes around the content (headers, padding), per entry that is allowed
_FRAME = 1024 * 1024
_LZMA_MEMORY = 128 * 1024 * 1024  # xz -9 needs 65 MiB
_EXTENDED = frozenset({tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, b"L", b"K"})
_ACCEPTED = frozenset({tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE})


class ArchiveError(RingfenceError):
    """The archive is not one that we unpack."""

    code = "archive-refused"


class _Archive(tarfile.TarFile):
    """Counts what extended headers take: tarfile keeps them in memory."""

    members: list[tarfile.TarInfo]
    extended = 0
    extended_limit = _HEADER
    global_size = 0


class _Member(tarfile.TarInfo):
    """A member, looked at before tarfile acts on its type.

    Sparse maps are refused here and not by the caller: tarfile reads a whole map, of any length, before it yields.
    """

    def _proc_member(self, archive: _Archive) -> tarfile.TarInfo:
        if self.type in _EXTENDED:
            archive.extended += self.size
            archive.global_size += self.size if self.type == tarfile.XGLTYPE else 0
            if (
                not 0 <= self.size <= _HEADER
                or archive.extended > archive.extended_limit
                or archive.global_size > _GLOBAL
            ):
                raise ArchiveError("the archive has an oversized header")
        elif self.type not in _ACCEPTED or self.size < 0:
            raise _special(self.name)
        return super()._proc_member(archive)  # type: ignore[misc,no-any-return]  # typeshed leaves it out

    def _refuse_sparse(self, *_: object) -> NoReturn:
        raise _special(self.name)

    _proc_sparse = _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse_sparse


class _Decompressor(Protocol):
    """What bz2 and lzma offer."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Gzip:
    """zlib, made to look like the other two."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._inner.eof

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        made = self._inner.decompress(self._inner.unconsumed_tail + data, max_length)
        self.needs_input = not self._inner.unconsumed_tail and len(made) < max_length
        return made


class _Plain:
    """The tar stream inside whatever it is compressed with, in steps of the reader's size, and counted.

    tarfile's own decompression makes all that ten KiB of input hold at once, which can be gigabytes.
    """

    def __init__(self, stream: IO[bytes], limit: int, max_bytes: int) -> None:
        self._stream = stream
        self._left = limit
        self._max_bytes = max_bytes
        start = stream.tell()
        self._inner = _decompressor(stream.read(6))
        stream.seek(start)

    def read(self, size: int) -> bytes:
        """Some bytes; none at the end. Raises: ArchiveError over the limit."""
        data = self._stream.read(size) if self._inner is None else self._made(self._inner, size)
        self._left -= len(data)
        if self._left < 0:
            raise _too_large(self._max_bytes)
        return data

    def _made(self, inner: _Decompressor, size: int) -> bytes:
        while not inner.eof:
            hungry = inner.needs_input
            fed = self._stream.read(_STEP) if hungry else b""
            made = inner.decompress(fed, size)
            if made or (hungry and not fed):
                return made
        return b""


def _decompressor(head: bytes) -> _Decompressor | None:
    if head.startswith(b"\x1f\x8b"):
        return _Gzip()
    if head.startswith(b"BZh"):
        return bz2.BZ2Decompressor()
    if head.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMADecompressor(memlimit=_LZMA_MEMORY)
    return None


def unpack(stream: IO[bytes], target: Path, *, max_bytes: int, max_files: int) -> int:
    """Unpack into the empty directory ``target``; returns the number of files. Blocks.

    Raises:
        ArchiveError: not a tar archive, a member of another kind, an unsafe name, or over a limit.
    """
    budget = max_bytes
    members = files = 0
    try:
        plain = _Plain(stream, max_bytes + max_files * _FRAME_EACH + _FRAME, max_bytes)
        # r| reads once, front to back: no member can point at another.
        with _Archive.open(fileobj=cast("IO[bytes]", plain), mode="r|", tarinfo=_Member) as archive:
            archive.extended_limit = _HEADER + max_files * _EXTENDED_EACH
            for member in archive:
                members += 1
                archive.members = []  # tarfile would keep every one, with its headers
                if members > max_files:
                    raise ArchiveError(f"the archive has more than {max_files} entries")
                path = target.joinpath(*_parts(member.name))
                if member.isdir():
                    _make_directory(path)
                    continue
                if not member.isreg() or member.issparse() or member.size < 0:
                    raise _special(member.name)
                budget -= member.size
                if budget < 0:
                    raise _too_large(max_bytes)
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


def _special(name: str) -> ArchiveError:
    return ArchiveError(
        f"'{safe_text(name, 200)}' is a link or a special file",
        hint="an extension holds only files and directories; replace the link by what it points at",
    )


def _too_large(max_bytes: int) -> ArchiveError:
    return ArchiveError(f"the extension is larger than {format_bytes(max_bytes)} unpacked")


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

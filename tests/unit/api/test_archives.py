"""Unpacking what a stranger sends."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from api.archives import ArchiveError, _Plain, unpack
from api.settings import Settings
from api.uploads import Uploads, pack_limits
from policies import LOCAL_TENANT, ExtensionName


def archive(fill: Callable[[tarfile.TarFile], None], mode: str = "w") -> io.BytesIO:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as tar:  # type: ignore[call-overload]
        fill(tar)
    stream.seek(0)
    return stream


def add(tar: tarfile.TarFile, name: str, content: bytes = b"x", **fields: object) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for key, value in fields.items():
        setattr(member, key, value)
    tar.addfile(member, io.BytesIO(content) if content else None)


def unpacked(stream: io.BytesIO, target: Path, *, max_bytes: int = 10_000, max_files: int = 20) -> int:
    return unpack(stream, target, max_bytes=max_bytes, max_files=max_files)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_files_and_directories_are_unpacked(tmp_path: Path, mode: str) -> None:
    def fill(tar: tarfile.TarFile) -> None:
        add(tar, "./__init__.py", b"code", mode=0o4777, uid=1000)
        add(tar, "sub", b"", type=tarfile.DIRTYPE)
        add(tar, "sub/a/b.txt", b"text")

    assert unpacked(archive(fill, mode), tmp_path) == 2
    assert (tmp_path / "__init__.py").read_bytes() == b"code"
    assert (tmp_path / "sub" / "a" / "b.txt").read_bytes() == b"text"
    assert (tmp_path / "__init__.py").stat().st_mode & 0o7777 == 0o644


@pytest.mark.parametrize(
    "name",
    ["/etc/x", "../x", "a/../../x", "a/../x", "..", "a\\..\\x", "a\nb", "a/" * 40 + "x", "n" * 600, ""],
)
def test_unsafe_names_refuse_the_archive(tmp_path: Path, name: str) -> None:
    target = tmp_path / "in" / "here"
    target.mkdir(parents=True)
    with pytest.raises(ArchiveError):
        unpacked(archive(lambda tar: add(tar, name)), target)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE],
)
def test_links_and_devices_refuse_the_archive(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(ArchiveError, match="link or a special file"):
        unpacked(archive(lambda tar: add(tar, "x", b"", type=kind, linkname="/etc/passwd")), tmp_path)


def test_a_link_cannot_be_written_through(tmp_path: Path) -> None:
    def fill(tar: tarfile.TarFile) -> None:
        add(tar, "d", b"", type=tarfile.SYMTYPE, linkname="/tmp")
        add(tar, "d/x", b"x")

    with pytest.raises(ArchiveError):
        unpacked(archive(fill), tmp_path)


@pytest.mark.parametrize(("first", "second"), [("a", "a"), ("a", "a/b"), ("a/b", "a")])
def test_a_name_twice_refuses_the_archive(tmp_path: Path, first: str, second: str) -> None:
    with pytest.raises(ArchiveError):
        unpacked(archive(lambda tar: (add(tar, first), add(tar, second))[0]), tmp_path)


def test_sizes_and_counts_are_bounded(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="larger than"):
        unpacked(archive(lambda tar: add(tar, "x", b"0" * 20_000)), tmp_path / "1")
    with pytest.raises(ArchiveError, match="more than 20"):
        unpacked(archive(lambda tar: [add(tar, str(n)) for n in range(30)] and None), tmp_path / "2")
    with pytest.raises(ArchiveError, match="no files"):
        unpacked(archive(lambda tar: None), tmp_path / "3")


def test_a_compressed_bomb_ends_at_the_budget(tmp_path: Path) -> None:
    bomb = archive(lambda tar: add(tar, "x", b"\0" * 50_000_000), "w:gz")
    assert len(bomb.getvalue()) < 100_000
    with pytest.raises(ArchiveError, match="larger than"):
        unpacked(bomb, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_oversized_header_is_not_read_into_memory(tmp_path: Path) -> None:
    huge = archive(lambda tar: add(tar, "x", b"\0" * 1_000_000, type=tarfile.XHDTYPE))
    with pytest.raises(ArchiveError, match="oversized header"):
        unpacked(huge, tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"not a tar" * 200, gzip.compress(b"x" * 2000), b"\x1f\x8b\x08garbage"],
    ids=["nothing", "text", "gzip of text", "broken gzip"],
)
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ArchiveError):
        unpacked(io.BytesIO(content), tmp_path)


def test_a_truncated_archive_is_refused(tmp_path: Path) -> None:
    whole = archive(lambda tar: add(tar, "x", b"0" * 5000)).getvalue()
    for length in (100, 600, 3000):
        with pytest.raises(ArchiveError):
            unpacked(io.BytesIO(whole[:length]), tmp_path / str(length))


def pax(**records: str) -> bytes:
    lines = b""
    for key, value in records.items():
        body = f" {key.replace('_', '.')}={value}\n".encode()
        length = next(n for n in range(len(body), len(body) + 9) if len(str(n)) + len(body) == n)
        lines += str(length).encode() + body
    return lines


def compressed(raw: bytes) -> io.BytesIO:
    return io.BytesIO(gzip.compress(raw))


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytearray:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return bytearray(member.tobuf(tarfile.USTAR_FORMAT))


def test_an_old_sparse_map_is_not_read(tmp_path: Path) -> None:
    head = header("s", 0, tarfile.GNUTYPE_SPARSE)
    head[482] = 1  # more of the map follows
    head[148:156] = b"        "
    head[148:156] = b"%06o\0 " % sum(head)
    block = (b"00000000001\0" * 42) + b"\1" + b"\0" * 7
    stream = compressed(bytes(head) + block * 100_000)
    with pytest.raises(ArchiveError, match="special file"):
        unpacked(stream, tmp_path)
    assert stream.tell() <= 128 * 1024


@pytest.mark.parametrize(
    "records",
    [
        {"GNU_sparse_size": "10", "GNU_sparse_offset": "1", "GNU_sparse_numbytes": "1"},
        {"GNU_sparse_map": "0,1", "GNU_sparse_size": "10"},
        {"GNU_sparse_major": "1", "GNU_sparse_minor": "0", "GNU_sparse_realsize": "10"},
    ],
    ids=["0.0", "0.1", "1.0"],
)
def test_a_sparse_map_in_pax_headers_is_not_read(tmp_path: Path, records: dict[str, str]) -> None:
    extended = pax(**records)
    raw = bytes(header("x", len(extended), tarfile.XHDTYPE)) + extended.ljust(512, b"\0")
    raw += bytes(header("f", 8 * 1024**3 - 1)) + b"1000000000000\n" + b"1\n" * 5_000_000
    with pytest.raises(ArchiveError, match="special file"):
        unpacked(compressed(raw), tmp_path)


@pytest.mark.parametrize("kind", [tarfile.CONTTYPE, b"D", b"V", b"M"])
def test_members_of_other_kinds_are_refused(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(ArchiveError, match="special file"):
        unpacked(io.BytesIO(bytes(header("x", 0, kind)) + b"\0" * 10240), tmp_path)


def test_all_that_is_decompressed_counts(tmp_path: Path) -> None:
    for pack in (gzip.compress, bz2.compress, lzma.compress):
        bomb = io.BytesIO(pack(bytes(header("d", 0, tarfile.DIRTYPE)) + bytes(header("x", 8 * 1024**3 - 1))))
        with pytest.raises(ArchiveError, match="larger than"):
            unpacked(bomb, tmp_path)
    plain = _Plain(io.BytesIO(bz2.compress(b"\0" * 50_000_000)), 100_000, 10_000)
    assert [len(plain.read(10_240)) for _ in range(9)] == [10_240] * 9  # never more than was asked for
    with pytest.raises(ArchiveError, match="larger than"):
        plain.read(10_240)


@pytest.mark.parametrize("kind", [tarfile.XGLTYPE, tarfile.XHDTYPE])
def test_many_extended_headers_are_refused(tmp_path: Path, kind: bytes) -> None:
    extended = pax(comment="c" * 60_000)
    one = bytes(header("x", len(extended), kind)) + extended + b"\0" * (-len(extended) % 512)
    raw = b"".join(one + bytes(header(f"f{number}", 0)) for number in range(10))
    with pytest.raises(ArchiveError, match="oversized header"):
        unpacked(compressed(raw), tmp_path)


def test_long_names_and_the_comment_of_git_are_fine(tmp_path: Path) -> None:
    for number, form in enumerate((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        stream = io.BytesIO()
        with tarfile.open(
            fileobj=stream, mode="w:bz2", format=form, pax_headers={"comment": "0" * 40}
        ) as tar:
            add(tar, "d/" * 20 + "n" * 200, b"text", mtime=1.5)
        stream.seek(0)
        assert unpacked(stream, tmp_path / str(number)) == 1


def test_uploads_and_all_other_packs_have_the_limits_that_the_settings_name(tmp_path: Path) -> None:
    limits = pack_limits(Settings(max_extension_files=7, max_extension_bytes=2048))
    assert (limits.files, limits.nbytes) == (7, 2048)
    with pytest.raises(ArchiveError, match="larger than"):
        Uploads(tmp_path, limits).stage(
            LOCAL_TENANT, ExtensionName("big"), archive(lambda tar: add(tar, "a", b"a" * 4096)), origin="here"
        )

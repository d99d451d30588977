"""The audit log's files: chained, bounded, rotated, and honest about what it could not keep."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from http import HTTPStatus
from pathlib import Path

import pytest

from sandbox import (
    AuditEvent,
    AuditLimits,
    AuditReader,
    AuditUnavailableError,
    AuditWriter,
    Entry,
    Filter,
    Outcome,
)
from sandbox.audit.reader import parse_cursor
from sandbox.audit.record import GENESIS, MAX_LINE, line_of, read_line


def write(root: Path, *entries: Entry, limits: AuditLimits | None = None, who: str = "host") -> None:
    with AuditWriter(root / f"audit-{who}", who, limits) as writer:  # type: ignore[arg-type]
        for entry in entries:
            writer.note(entry)
        assert writer.flush()


def changed(text: str, **more: object) -> Entry:
    return Entry(AuditEvent.CHANGED, text=text, **more)  # type: ignore[arg-type]


def files(root: Path, who: str = "host") -> list[Path]:
    return sorted((root / f"audit-{who}").glob("*.jsonl"))


def everything(root: Path, wanted: Filter | None = None) -> list[str]:
    found, _, more = AuditReader(root).read(wanted or Filter(), limit=10_000)
    assert not more
    return [record.text for record in found if record.event != AuditEvent.AUDIT_OPENED]


def test_what_was_noted_is_read_back_in_order_by_both_writers(tmp_path: Path) -> None:
    write(tmp_path, changed("first"))
    write(tmp_path, changed("second"), who="launcher")
    write(tmp_path, changed("third"))
    assert everything(tmp_path) == ["first", "second", "third"]
    assert all(not verdict.broken for verdict in AuditReader(tmp_path).verify())


def _flip(content: bytes) -> bytes:
    return content.replace(b"token 7 made", b"token 8 made")


def _drop(content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    return b"".join(lines[:5] + lines[6:])


def _swap(content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    lines[4], lines[5] = lines[5], lines[4]
    return b"".join(lines)


def _repeat(content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    return b"".join([*lines[:5], *lines[4:]])


def _rehash(content: bytes) -> bytes:
    """The record is changed and its own hash made anew: the next one still names the old hash."""
    import hashlib

    lines = content.splitlines()
    index = next(i for i, line in enumerate(lines) if b"token 7 made" in line)
    body = lines[index][: lines[index].rindex(b',"hash":')].replace(b"token 7", b"token 8")
    lines[index] = body + b',"hash":"' + hashlib.sha256(body).hexdigest().encode() + b'"}'
    return b"\n".join(lines) + b"\n"


@pytest.mark.parametrize("tamper", [_flip, _drop, _swap, _repeat, _rehash])
def test_verify_finds_a_record_that_was_changed_left_out_moved_or_repeated(
    tmp_path: Path, tamper: Callable[[bytes], bytes]
) -> None:
    write(tmp_path, *(changed(f"token {number} made") for number in range(12)))
    (file,) = files(tmp_path)
    assert not AuditReader(tmp_path).verify()[0].broken
    content = file.read_bytes()
    assert tamper(content) != content
    file.write_bytes(tamper(content))
    assert AuditReader(tmp_path).verify()[0].broken


def test_a_tail_that_was_cut_off_is_found_by_the_hash_that_was_kept_elsewhere(tmp_path: Path) -> None:
    write(tmp_path, *(changed(f"{number}") for number in range(5)))
    head = AuditReader(tmp_path).verify()[0].head
    (file,) = files(tmp_path)
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-2]))
    verdict = AuditReader(tmp_path).verify(head)[0]
    assert not verdict.broken
    assert verdict.has_head is False


def test_it_is_rotated_by_size_and_the_chain_goes_on(tmp_path: Path) -> None:
    limits = AuditLimits(file_bytes=4096, files=100)
    with AuditWriter(tmp_path / "audit-host", "host", limits) as writer:
        for number in range(60):
            writer.note(changed(f"number {number}"))
            assert writer.flush()
    assert len(files(tmp_path)) > 3
    assert everything(tmp_path) == [f"number {number}" for number in range(60)]
    (verdict, _) = AuditReader(tmp_path).verify()
    assert not verdict.broken
    assert verdict.records == 61


def test_the_oldest_files_go_and_what_is_left_still_verifies(tmp_path: Path) -> None:
    with AuditWriter(tmp_path / "audit-host", "host", AuditLimits(file_bytes=2048, files=3)) as writer:
        for number in range(60):
            writer.note(changed(f"number {number}"))
            assert writer.flush()
    assert len(files(tmp_path)) == 3
    (verdict, _) = AuditReader(tmp_path).verify()
    assert not verdict.broken
    assert verdict.first > 1


def test_a_cursor_goes_on_over_rotation_and_restart(tmp_path: Path) -> None:
    limits = AuditLimits(file_bytes=2048, files=100)
    reader = AuditReader(tmp_path)
    write(tmp_path, changed("before"), limits=limits)
    cursor = reader.end()
    write(tmp_path, *(changed(f"after {number}") for number in range(20)), limits=limits)
    write(tmp_path, changed("at last"), limits=limits)
    seen: list[str] = []
    more = True
    while more:
        found, cursor, more = reader.read(Filter(events=frozenset({"changed"})), after=cursor, limit=3)
        seen += [record.text for record in found]
    assert seen == [*(f"after {number}" for number in range(20)), "at last"]
    assert cursor == reader.end()


def test_half_a_record_of_a_cut_of_the_power_is_taken_away_and_said(tmp_path: Path) -> None:
    write(tmp_path, changed("whole"))
    (file,) = files(tmp_path)
    with file.open("ab") as stream:
        stream.write(b'{"seq":3,"at":"20')
    write(tmp_path, changed("after"))
    found, _, _ = AuditReader(tmp_path).read(Filter(events=frozenset({"audit-opened"})), limit=10)
    assert "17 bytes" in found[-1].text
    assert everything(tmp_path) == ["whole", "after"]
    assert not AuditReader(tmp_path).verify()[0].broken


def test_hostile_text_is_escaped_and_bounded(tmp_path: Path) -> None:
    nasty = "\x1b[31m\n\u202e\ud800" + "x" * 100_000
    write(
        tmp_path,
        changed(
            nasty,
            tenant=nasty,
            extensions=[nasty] * 500,
            details={nasty: nasty, "deep": {nasty: nasty}, "nan": float("nan"), "huge": 10**400},
        ),
    )
    (file,) = files(tmp_path)
    line = file.read_bytes().splitlines()[-1]
    assert len(line) < MAX_LINE
    assert line.isascii()
    assert b"\x1b" not in line
    record = read_line(line)
    assert record.text.startswith("\\x1b[31m\\n\\u202e\\ud800")


def test_a_full_disk_is_said_and_required_refuses_new_work_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_full = threading.Event()
    tried = threading.Event()
    real = os.write

    def write_unless_full(descriptor: int, data: bytes) -> int:
        if is_full.is_set() and data.startswith(b'{"seq"'):
            tried.set()
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data)

    monkeypatch.setattr("sandbox.audit.writer.os.write", write_unless_full)
    with AuditWriter(tmp_path / "audit-host", "host", AuditLimits(required=True)) as writer:
        assert writer.flush()
        writer.check()
        is_full.set()
        writer.note(changed("kept"))
        assert tried.wait(60)
        tried.clear()
        assert tried.wait(60)  # a second try: by then the first one's failure is known
        with pytest.raises(AuditUnavailableError, match="No space left"):
            writer.check()
        is_full.clear()
        assert writer.flush()
        writer.check()
    assert everything(tmp_path) == ["kept"]


def test_what_does_not_fit_the_queue_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.audit.writer._QUEUE", 5)
    writer = AuditWriter(tmp_path / "audit-host", "host")
    for number in range(12):
        writer.note(changed(str(number)))
    with writer:
        assert writer.flush()
    found, _, _ = AuditReader(tmp_path).read(Filter(), limit=100)
    assert [record.text for record in found if record.event == "changed"] == ["0", "1", "2", "3", "4"]
    assert [record.details["count"] for record in found if record.event == "audit-lost"] == [7]


def test_two_processes_never_write_one_log(tmp_path: Path) -> None:
    with AuditWriter(tmp_path / "audit-host", "host") as first:
        assert first.flush()
        with AuditWriter(tmp_path / "audit-host", "host") as second:
            second.note(changed("too early"))
            assert not second.flush(0.3)
            assert "another process" in second.failure
    assert everything(tmp_path) == []


def test_filters_choose_by_tenant_extension_event_and_denial(tmp_path: Path) -> None:
    write(
        tmp_path,
        changed("a", tenant="a", extensions=["blur"]),
        changed("b", tenant="b", outcome=Outcome.DENIED),
        Entry(AuditEvent.EGRESS, tenant="a", text="out", denied_by="default.yaml:3"),
    )
    assert everything(tmp_path, Filter(tenant="a")) == ["a", "out"]
    assert everything(tmp_path, Filter(extension="blur")) == ["a"]
    assert everything(tmp_path, Filter(events=frozenset({"egress"}))) == ["out"]
    assert everything(tmp_path, Filter(denied=True)) == ["b", "out"]


@pytest.mark.parametrize("text", ["host", "host:-1", "host:1e3", "me:1", "host:" + "9" * 400])
def test_a_cursor_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no place in the log"):
        parse_cursor(text)


class Part(float):
    """A number of a class of its own, as numpy's are."""


@pytest.mark.parametrize(
    "details",
    [
        {"status": HTTPStatus.OK, "share": 0.1, "is_held": True, "names": ["a", "b"], "of": {"x": "y"}},
        {"text": "é \u2028 \ud800 \x1b[0m", "größe": "ß"},
        {"part": Part(0.5), "nan": float("nan"), "large": 2**60, "small": -(2**52)},
    ],
)
def test_a_line_is_ascii_and_says_what_was_meant_whatever_it_was_given(details: dict[str, object]) -> None:
    at = datetime(2026, 11, 26, 1, 2, 3, tzinfo=timezone(timedelta(hours=2)))
    entry = changed("said", details=details)
    line, digest = line_of(entry, writer="host", seq=1, at=at, prev=GENESIS)
    assert line.isascii()
    assert line == json.dumps(json.loads(line), separators=(",", ":")).encode() + b"\n"
    record = read_line(line[:-1])
    assert record.hash == digest
    assert record.at == "2026-11-25T23:02:03.000000Z"
    assert record.when == at.astimezone(UTC)
    for name, value in details.items():
        if isinstance(value, str):
            assert record.details[name].startswith(value[0])
        elif (isinstance(value, float) and value != value) or value == 2**60:
            assert record.details[name] == str(value)
        else:
            assert record.details[name] == value

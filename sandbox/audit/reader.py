"""Reading an audit log: of both writers, by time; from a place on; and whether it is still what was written.

Whoever reads holds no lock: lines are whole or not there yet. A cursor names the last record seen of each writer, so it
outlives rotation, restarts and whoever reads. Blocking throughout.
"""

from __future__ import annotations

import heapq
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from policies import RingfenceError
from sandbox.audit.record import GENESIS, MAX_LINE, NotARecordError, Record, read_line, stamp
from sandbox.audit.writer import log_files

WRITERS: Final = ("host", "launcher")
_BACK: Final = 64 * 1024
_HEAD: Final = re.compile(rb'\{"seq":([0-9]{1,15}),"at":"([0-9T:.Z-]{27})"')
"""How a line begins, so that most need no more of a look."""
Cursor = dict[str, int]
"""The number of the last record seen, by writer."""


class AuditUnreadableError(RingfenceError):
    """The log cannot be read here."""

    code = "audit-unreadable"


@dataclass(frozen=True, slots=True)
class Filter:
    """Which records are wanted; what is empty matches all."""

    tenant: str = ""
    extension: str = ""
    events: frozenset[str] = frozenset()
    since: datetime | None = None
    sandbox: str = ""
    denied: bool = False

    def takes(self, record: Record) -> bool:
        """Whether the record is wanted."""
        return (
            (not self.tenant or record.tenant == self.tenant)
            and (not self.extension or self.extension in record.extensions)
            and (not self.events or record.event in self.events)
            and (not self.sandbox or record.sandbox == self.sandbox)
            and (self.since is None or record.at >= stamp(self.since))
            and (not self.denied or record.outcome == "denied" or bool(record.denied_by))
        )


@dataclass(frozen=True, slots=True)
class Broken:
    """A place at which a log is not what was written."""

    file: str
    line: int
    why: str


@dataclass(slots=True)
class Verdict:
    """What ``verify`` found in one writer's log."""

    writer: str
    records: int = 0
    first: int = 0
    last: int = 0
    head: str = ""
    """Hash of the newest record: keep it elsewhere, and ``verify --head`` tells whether the log still has it."""
    broken: list[Broken] = field(default_factory=list)
    has_head: bool | None = None
    """Whether the hash that was asked for is in it; None when none was."""


class AuditReader:
    """Reads the logs in ``audit-host`` and ``audit-launcher`` below one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def read(
        self, wanted: Filter, *, after: Cursor | None = None, limit: int, budget: int = 50_000
    ) -> tuple[list[Record], Cursor, bool]:
        """Up to ``limit`` records after the cursor, by time, where to go on, and whether there may be more.

        At most ``budget`` records are looked at in one call, wanted or not.
        Raises: AuditUnreadableError
        """
        cursor = dict(after or {})
        floor = stamp(wanted.since) if wanted.since is not None else ""
        streams = [self._records(writer, cursor.get(writer, 0), floor) for writer in WRITERS]
        found: list[Record] = []
        try:
            for looked, record in enumerate(heapq.merge(*streams, key=lambda each: each.at)):
                if looked >= budget or len(found) >= limit:
                    return found, cursor, True
                cursor[record.writer] = record.seq
                if wanted.takes(record):
                    found.append(record)
        except OSError as error:
            raise self._unreadable(error) from None
        return found, cursor, False

    def end(self) -> Cursor:
        """The cursor behind the newest records. Raises: AuditUnreadableError"""
        cursor = {}
        try:
            for writer in WRITERS:
                for file in reversed(log_files(self._directory / f"audit-{writer}")):
                    if record := _last(file):
                        cursor[writer] = record.seq
                        break
        except OSError as error:
            raise self._unreadable(error) from None
        return cursor

    def verify(self, head: str = "") -> list[Verdict]:
        """Every line of every file: its bytes, its number and its link to the one before.

        Raises: AuditUnreadableError
        """
        try:
            return [self._verify(writer, head) for writer in WRITERS]
        except OSError as error:
            raise self._unreadable(error) from None

    def _verify(self, writer: str, head: str) -> Verdict:
        verdict = Verdict(writer, has_head=False if head else None)
        previous: Record | None = None
        lost_link = False
        files = log_files(self._directory / f"audit-{writer}")
        for file in files:
            for number, line, whole in _lines(file):
                try:
                    if not whole:
                        if file == files[-1]:
                            continue  # it is being written, or the power was cut; the next start says so
                        raise NotARecordError("the line has no end")
                    record = read_line(line)
                    _check_link(record, previous, writer, is_first=verdict.records == 0, lost=lost_link)
                except NotARecordError as error:
                    verdict.broken.append(Broken(str(file), number, str(error)))
                    try:
                        previous, lost_link = read_line(line), False
                    except NotARecordError:
                        lost_link = True
                    continue
                previous, lost_link = record, False
                verdict.records += 1
                verdict.first = verdict.first or record.seq
                verdict.last, verdict.head = record.seq, record.hash
                if head and record.hash == head:
                    verdict.has_head = True
        return verdict

    def _records(self, writer: str, after: int, floor: str) -> Iterator[Record]:
        files = log_files(self._directory / f"audit-{writer}")
        for index, file in enumerate(files):
            following = files[index + 1] if index + 1 < len(files) else None
            if following is not None and int(following.stem) <= after + 1:
                continue  # all of it was seen
            if following is not None and floor and _starts_before(following, floor):
                continue  # all of it is older
            for _, line, whole in _lines(file):
                if not whole:
                    break
                head = _HEAD.match(line)
                if head is not None and (int(head[1]) <= after or head[2].decode("ascii") < floor):
                    continue
                try:
                    record = read_line(line)
                except NotARecordError:
                    continue  # 'verify' speaks of it
                if record.seq > after and record.writer == writer and record.at >= floor:
                    yield record

    def _unreadable(self, error: OSError) -> AuditUnreadableError:
        return AuditUnreadableError(
            f"the audit log below {self._directory} cannot be read: {error.strerror or type(error).__name__}",
            hint="read it as the user who runs Ringfence, or ask its server: ringfence audit --url ...",
        )


def _check_link(record: Record, previous: Record | None, writer: str, *, is_first: bool, lost: bool) -> None:
    if record.writer != writer:
        raise NotARecordError(f"it is a record of the {record.writer}, among those of the {writer}")
    if lost or (previous is None and is_first and record.seq > 1):
        return  # what came before is gone by age, or was complained of already
    if previous is None:
        if record.prev != GENESIS:
            raise NotARecordError("it is the first, and follows on something")
        return
    if record.seq != previous.seq + 1:
        raise NotARecordError(f"record {record.seq} follows on {previous.seq}")
    if record.prev != previous.hash:
        raise NotARecordError(f"it does not follow on record {previous.seq}: the link differs")


def _lines(file: Path) -> Iterator[tuple[int, bytes, bool]]:
    """(number, line without newline, whether it has its newline) of each."""
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as stream:
        number = 0
        while line := stream.readline(MAX_LINE * 4):
            number += 1
            whole = line.endswith(b"\n")
            yield number, line.rstrip(b"\n"), whole


def _starts_before(file: Path, floor: str) -> bool:
    for _, line, _ in _lines(file):
        try:
            return read_line(line).at < floor
        except NotARecordError:
            continue
    return False


def _last(file: Path) -> Record | None:
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - _BACK))
        lines = stream.read(_BACK).split(b"\n")
    for line in reversed(lines[:-1]):  # behind the last newline a line is still being written
        try:
            return read_line(line)
        except NotARecordError:
            continue
    return None


def parse_cursor(text: str) -> Cursor:
    """A cursor from its text, ``host:12,launcher:3``. Raises: ValueError."""
    cursor: Cursor = {}
    for part in filter(None, text.split(",")):
        writer, colon, number = part.partition(":")
        if (
            writer not in WRITERS
            or not colon
            or not number.isascii()
            or not number.isdigit()
            or len(number) > 15
        ):
            raise ValueError(f"'{part[:40]}' is no place in the log; write e.g. host:12,launcher:3")
        cursor[writer] = int(number)
    return cursor


def cursor_text(cursor: Cursor) -> str:
    """As ``parse_cursor`` reads it."""
    return ",".join(f"{writer}:{number}" for writer, number in sorted(cursor.items()))

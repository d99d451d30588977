"""The one writer of an audit log: a thread of its own, so that a slow disk holds up nothing but the log.

``note`` puts a record in a bounded queue and returns. The thread writes what is there in one piece (O_APPEND) and
calls ``fdatasync`` after each: what a cut of the power or ``kill -9`` can cost is what came in while the last piece was
written. When it cannot write it says so, keeps what it has and tries again; what then no longer fits in the queue is
counted, and the count is a record. A log that is ``required`` refuses new work meanwhile (``check``); else it goes on.
"""

from __future__ import annotations

import fcntl
import itertools
import logging
import math
import os
import queue
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

import anyio
import anyio.to_thread

from policies import RingfenceError
from sandbox.audit.record import (
    GENESIS,
    AuditEvent,
    Entry,
    NotARecordError,
    Outcome,
    line_of,
    read_line,
)
from sandbox.fast_paths import FastPath, takes

log = logging.getLogger(__name__)

FILE_NAME: Final = re.compile(r"([0-9]{12})\.jsonl\Z")
_QUEUE: Final = 10_000
_PIECE: Final = 256
_RETRY_S: Final = 1.0
_GATHER_S: Final = 0.05
"""For so long records are gathered that follow others closely: each writing waits for the disk, and takes its thread's
turns with the interpreter from whoever serves."""
_CLOSELY_S: Final = 0.1
_CLOSE_S: Final = 5.0
MIB: Final = 1024 * 1024


class AuditUnavailableError(RingfenceError):
    """The audit log is required and cannot be written."""

    code = "audit-unavailable"


@dataclass(frozen=True, slots=True)
class AuditLimits:
    """How much is kept, and what happens when nothing can be."""

    file_bytes: int = 16 * MIB
    files: int = 64
    """The oldest goes when there is one more."""
    required: bool = False


class AuditWriter:
    """Enter with ``with``; ``note`` from any thread."""

    def __init__(
        self,
        directory: Path | None,
        writer: Literal["host", "launcher"],
        limits: AuditLimits | None = None,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._directory = directory
        self._writer = writer
        self._limits = limits or AuditLimits()
        self._now = now
        self._queue: queue.SimpleQueue[tuple[datetime, Entry] | threading.Event | None] = queue.SimpleQueue()
        """In C, without a lock that an event loop could wait for; bounded by ``note``."""
        self._held: deque[tuple[datetime, Entry]] = deque()
        """Taken from the queue, not yet on disk."""
        self._waiting: list[threading.Event] = []
        """Set when what is held is on disk."""
        self._closing = threading.Event()
        self._hurry = threading.Event()
        """Set when somebody waits for what is being gathered."""
        self._failure = ""
        self._written_at = -math.inf
        self._losing = itertools.count(1)
        self._lost = 0
        """All that were lost; ``_lost_said`` of them were recorded as such."""
        self._lost_said = 0
        self._thread: threading.Thread | None = None
        self._descriptor = -1
        self._size = 0
        self._seq = 0
        self._prev = GENESIS

    def open(self) -> None:
        """Start the thread."""
        if self._directory is not None:
            self._thread = threading.Thread(target=self._run, name=f"audit-{self._writer}", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Have all that was noted written, within a few seconds, and end the thread. Blocking."""
        self._closing.set()
        self._queue.put(None)
        self._hurry.set()
        if self._thread is not None:
            self._thread.join(_CLOSE_S)
            if self._thread.is_alive():
                log.error("the audit log did not take its last records within %.0f s", _CLOSE_S)
            self._thread = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        await anyio.to_thread.run_sync(self.open)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self.close)

    @property
    def failure(self) -> str:
        """Why nothing can be written now; empty when it can."""
        return self._failure

    def note(self, entry: Entry) -> None:
        """Have it recorded; never waits, never raises."""
        if self._directory is None:
            return
        if self._queue.qsize() >= _QUEUE:
            self._lost = next(self._losing)
            return
        self._queue.put((self._now(), entry))

    def check(self) -> None:
        """Raises: AuditUnavailableError when the log is required and cannot be kept now."""
        if self._limits.required and (self._failure or self._queue.qsize() >= _QUEUE):
            why = self._failure or f"{_QUEUE} records wait to be written"
            raise AuditUnavailableError(
                f"the audit log of the {self._writer} cannot be written ({why}), and RINGFENCE_AUDIT is 'required'",
                hint="make room on its disk; it is tried again every second",
            )

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Wait until all that was noted before is on disk; False when it is not by then. Blocking."""
        if self._thread is None:
            return self._directory is None
        written = threading.Event()
        self._queue.put(written)
        self._hurry.set()
        return written.wait(timeout_s)

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        assert self._directory is not None  # noqa: S101 - no thread without one
        lock = -1
        try:
            while not self._closing.is_set() or not self._queue.empty() or self._held:
                try:
                    if lock < 0:
                        lock = self._alone(self._directory)
                        self._open_last(self._directory)
                    self._take()
                    self._write()
                except OSError as error:
                    self._say_failed(error)
                    if self._closing.wait(_RETRY_S):
                        break
        finally:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1
            if lock >= 0:
                os.close(lock)

    def _alone(self, directory: Path) -> int:
        """Hold the directory's lock: the process before us may still be ending."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise OSError(11, "another process writes it") from None
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _open_last(self, directory: Path) -> None:
        """Go on where the last run stopped; half a line at the end, of a cut of the power, is taken away and said."""
        files = log_files(directory)
        torn = 0
        note = ""
        if files:
            last = files[-1]
            content = last.read_bytes()
            whole = content.rfind(b"\n") + 1
            torn = len(content) - whole
            if torn:
                os.truncate(last, whole)
            previous = content[:whole].rstrip(b"\n").rpartition(b"\n")[2]
            if not previous and len(files) > 1:  # a file that was begun and got no record
                previous = files[-2].read_bytes().rstrip(b"\n").rpartition(b"\n")[2]
            try:
                if previous:
                    record = read_line(previous)
                    self._seq, self._prev = record.seq, record.hash
            except NotARecordError as error:
                note = f"the last record could not be read: {error}"
                # On with a number that none can have had, so that what follows is told from what was.
                self._seq = int(last.stem) + content.count(b"\n")
        self._begin(directory)
        self._held.appendleft(
            (
                self._now(),
                Entry(
                    AuditEvent.AUDIT_OPENED,
                    Outcome.FAILED if note or torn else Outcome.OK,
                    text=note or (f"half a record of {torn} bytes was taken away" if torn else ""),
                    details={"process": os.getpid(), "required": self._limits.required},
                ),
            )
        )

    def _begin(self, directory: Path) -> None:
        """Go on in the newest file if there is room, else in a new one."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        files = log_files(directory)
        path = files[-1] if files else directory / f"{self._seq + 1:012d}.jsonl"
        if files and path.stat().st_size >= self._limits.file_bytes:
            path = directory / f"{self._seq + 1:012d}.jsonl"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(path, flags, 0o600)
        self._size = os.fstat(self._descriptor).st_size
        for old in log_files(directory)[: -self._limits.files]:
            old.unlink(missing_ok=True)

    def _take(self) -> None:
        """Wait for something to write, and take what else there is."""
        if self._held:
            return
        item = self._queue.get()
        is_close = time.monotonic() - self._written_at < _CLOSELY_S
        if is_close and isinstance(item, tuple) and takes(FastPath.GATHERED_RECORDS):
            self._hurry.wait(_GATHER_S)
            self._hurry.clear()
        while True:
            if isinstance(item, threading.Event):
                self._waiting.append(item)
            elif item is not None:
                self._held.append(item)
            if len(self._held) >= _PIECE:
                return
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return

    def _write(self) -> None:
        if self._descriptor < 0 and self._directory is not None:
            self._begin(self._directory)
        lost = self._lost - self._lost_said
        entries = list(self._held)
        if lost:
            text = f"{lost} records were not kept: they came while {_QUEUE} others waited to be written"
            entries.append(
                (
                    self._now(),
                    Entry(AuditEvent.AUDIT_LOST, Outcome.FAILED, text=text, details={"count": lost}),
                )
            )
        self._put_down(entries)
        self._lost_said += lost
        self._held.clear()
        for written in self._waiting:
            written.set()
        self._waiting.clear()
        if self._failure:
            log.warning("the audit log of the %s is written again", self._writer)
            self._failure = ""
        if self._size >= self._limits.file_bytes and self._directory is not None:
            self._begin(self._directory)

    def _put_down(self, entries: list[tuple[datetime, Entry]]) -> None:
        if not entries:
            return
        seq, prev, lines = self._seq, self._prev, []
        for at, entry in entries:
            seq += 1
            line, prev = line_of(entry, writer=self._writer, seq=seq, at=at, prev=prev)
            lines.append(line)
        piece = b"".join(lines)
        self._append(piece)
        self._written_at = time.monotonic()
        self._seq, self._prev = seq, prev
        self._size += len(piece)

    def _append(self, piece: bytes) -> None:
        """All of it or none of it."""
        written = 0
        try:
            while written < len(piece):
                written += os.write(self._descriptor, piece[written:])
            os.fdatasync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, self._size)
            raise

    def _say_failed(self, error: OSError) -> None:
        why = error.strerror or type(error).__name__
        if why != self._failure:
            goes_on = "new work is refused meanwhile" if self._limits.required else "work goes on without it"
            log.error("the audit log of the %s cannot be written: %s; %s", self._writer, why, goes_on)
            self._failure = why


def log_files(directory: Path) -> list[Path]:
    """The files of a log, oldest first. Raises: OSError."""
    try:
        found = [path for path in directory.iterdir() if FILE_NAME.match(path.name)]
    except FileNotFoundError:
        return []
    return sorted(found, key=lambda path: path.name)

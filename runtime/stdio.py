"""What the pack prints becomes bounded, counted ``log`` notifications.

Captured at the level of descriptors, so C code and child processes are heard too. A pack that prints without end is
read (or it would hang) but not repeated: beyond the budget bytes are dropped and counted, never silently.
"""

from __future__ import annotations

import codecs
import ctypes
import io
import os
import select
import sys
import threading
from collections.abc import Callable
from typing import Any, Final

from .rate import Budget

Send = Callable[[str, str, int], None]

_READ: Final = 32 * 1024
_PIECE: Final = 8 * 1024
_ROUNDS: Final = 8  # reads per turn; together more than a pipe holds
_IOLBF: Final = 1  # stdio.h
_OVERHEAD: Final = 256  # what a notification costs besides its text
_BURST: Final = 512 * 1024
_PER_SECOND: Final = 128 * 1024


class _Pipe:
    """One captured descriptor: the pipe behind it, and what came out of it."""

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        self.fd = fd
        self.read_end, self.write_end = (
            os.pipe()
        )  # both close on exec; the write end stays open, so there is no EOF
        os.set_blocking(self.read_end, False)
        os.dup2(self.write_end, fd, inheritable=True)
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.dropped = 0


class Capture:
    """Owns descriptors 1 and 2 from construction on."""

    def __init__(self) -> None:
        self._pipes = [_Pipe("stdout", 1), _Pipe("stderr", 2)]
        self._budget = Budget(_BURST, _PER_SECOND)
        self._lock = threading.Lock()
        self._polls: list[select.poll] = []
        """Over all four descriptors, for ``settle``: one for each thread that is in it at once."""
        self._send: Send | None = None
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        for pipe in self._pipes:
            self._open_stream(pipe)
        _buffer_c_output_by_line()

    def start(self, send: Send) -> None:
        """Begin to pass on what is printed (and what has been, since construction)."""
        self._send = send
        threading.Thread(target=self._pump, name="ringfence-stdio", daemon=True).start()

    def drain(self) -> None:
        """Pass on what is in the pipes now, so that a node's words arrive before its result."""
        for stream in (sys.stdout, sys.stderr):
            _flush(stream)
        if self._send is not None:
            for pipe in self._pipes:
                self._drain(pipe)

    def settle(self) -> None:
        """After a node: repair what it may have closed, the two descriptors and Python's streams over them; ``drain``.

        One system call tells whether there is anything to do, and mostly there is not.
        """
        for pipe in self._pipes:
            stream = getattr(sys, pipe.name)
            if stream is None or getattr(stream, "closed", False):
                self._repair(pipe)
                self._open_stream(pipe)
                stream = getattr(sys, pipe.name)
            _flush(stream)
        try:
            poll = self._polls.pop()
        except IndexError:
            poll = self._poll()
        events = poll.poll(0)
        self._polls.append(poll)
        for fd, event in events:
            for pipe in self._pipes:
                if fd == pipe.fd and event & select.POLLNVAL:
                    self._repair(pipe)
                elif fd == pipe.read_end and self._send is not None:
                    self._drain(pipe)
        with self._lock:
            pass  # an empty pipe may mean that the pump has just read it: what it took is sent when it lets go

    def _poll(self) -> select.poll:
        poll = select.poll()
        for pipe in self._pipes:
            poll.register(pipe.fd, 0)
            poll.register(pipe.read_end, select.POLLIN)
        return poll

    @staticmethod
    def _repair(pipe: _Pipe) -> None:
        try:
            os.fstat(pipe.fd)
        except OSError:
            os.dup2(pipe.write_end, pipe.fd, inheritable=True)

    def _drain(self, pipe: _Pipe) -> None:
        self._read(pipe)
        if pipe.dropped:
            os.eventfd_write(self._wake, 1)  # the pump owes that figure; nothing else may wake it

    @staticmethod
    def _open_stream(pipe: _Pipe) -> None:
        raw = io.FileIO(pipe.fd, "w", closefd=False)
        stream = io.TextIOWrapper(
            io.BufferedWriter(raw), encoding="utf-8", errors="backslashreplace", line_buffering=True
        )
        setattr(sys, pipe.name, stream)
        setattr(sys, f"__{pipe.name}__", stream)

    def _pump(self) -> None:
        poll = select.poll()
        by_fd = {pipe.read_end: pipe for pipe in self._pipes}
        for fd in (*by_fd, self._wake):
            poll.register(fd, select.POLLIN)
        while True:
            owed = any(pipe.dropped for pipe in self._pipes)
            for fd, _ in poll.poll(500 if owed else None):
                if fd == self._wake:
                    os.eventfd_read(fd)
                else:
                    self._read(by_fd[fd])
            for pipe in self._pipes:
                self._confess(pipe)

    def _read(self, pipe: _Pipe) -> None:
        with self._lock:
            for _ in range(_ROUNDS):
                try:
                    data = os.read(pipe.read_end, _READ)
                except BlockingIOError:
                    return
                for start in range(0, len(data), _PIECE):
                    self._pass_on(pipe, data[start : start + _PIECE])

    def _pass_on(self, pipe: _Pipe, data: bytes) -> None:
        if self._send is None or not self._budget.take(len(data) + _OVERHEAD):
            pipe.dropped += len(data)
            return
        text = pipe.decoder.decode(data)
        dropped, pipe.dropped = pipe.dropped, 0
        if text or dropped:
            self._send(pipe.name, text, dropped)

    def _confess(self, pipe: _Pipe) -> None:
        """Report what was dropped when no further output comes to carry the figure."""
        with self._lock:
            if pipe.dropped and self._send is not None and self._budget.take(_OVERHEAD):
                dropped, pipe.dropped = pipe.dropped, 0
                self._send(pipe.name, "", dropped)


def _flush(stream: Any) -> None:
    try:
        stream.flush()
    except Exception:  # noqa: BLE001, S110 - a pack may have closed or replaced it
        pass


def _buffer_c_output_by_line() -> None:
    """C code would keep what it prints to a pipe until its buffer is full, or for ever when it crashes."""
    try:
        libc = ctypes.CDLL(None)
        libc.setvbuf(ctypes.c_void_p.in_dll(libc, "stdout"), None, _IOLBF, ctypes.c_size_t(0))
    except (OSError, ValueError, AttributeError):
        pass  # another C library: its output comes later, not never

"""What the packs in one sandbox printed: the last of it, within a number of bytes and a rate, drops counted."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from policies import safe_text
from sandbox.rates import Allowance

LINE_LIMIT: Final = 8_000
CHARS_PER_S: Final = 128 * 1024
"""As much as a worker repeats; making text safe takes time for each character."""
CHARS_AT_ONCE: Final = 512 * 1024
_BREAK = re.compile("\r\n|[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of what a pack printed, made safe."""

    at: datetime
    stream: str
    """``stdout``, ``stderr``, or ``ringfence`` for our own remarks."""
    text: str


class Logbook:
    """Keeps the newest lines."""

    def __init__(self, *, max_bytes: int, lines_per_s: int) -> None:
        self._lines: deque[LogLine] = deque()
        self._bytes = 0
        self._max_bytes = max_bytes
        self._allowance = Allowance(lines_per_s, 2 * lines_per_s)
        self._chars = Allowance(CHARS_PER_S, CHARS_AT_ONCE)
        self._dropped = 0
        self._lost = 0

    def add(self, stream: str, text: str, dropped: int = 0) -> None:
        """Add a piece of output; ``dropped`` bytes were lost before it."""
        self._lost += dropped
        if dropped and self._allowance.take():
            self._keep("ringfence", f"{self._lost} bytes of output were dropped in the sandbox")
            self._lost = 0
        start = 0
        while start < len(text):
            # Asked before the line is looked at, and the rest of a piece is only counted: splitting it would be work
            # that no rate bounds.
            if not self._allowance.take():
                self._dropped += text.count("\n", start) + (not text.endswith("\n"))
                return
            end = _BREAK.search(text, start)
            line = text[start : end.start() if end else len(text)]
            start = end.end() if end else len(text)
            if not self._chars.take(min(len(line), LINE_LIMIT)):
                self._dropped += 1
                continue
            if self._dropped:
                self._keep("ringfence", f"{self._dropped} lines were dropped: over limits.log_rate")
                self._dropped = 0
            self._keep(stream, safe_text(line, LINE_LIMIT))

    def lines(self, limit: int) -> list[LogLine]:
        """The newest ``limit`` lines, oldest first."""
        newest = list(self._lines)[-limit:] if limit > 0 else []
        if self._dropped:
            text = f"{self._dropped} lines were dropped: over limits.log_rate"
            newest.append(LogLine(datetime.now(UTC), "ringfence", text))
        return newest

    def _keep(self, stream: str, text: str) -> None:
        self._lines.append(LogLine(datetime.now(UTC), stream, text))
        self._bytes += len(text) + 64
        while self._bytes > self._max_bytes and len(self._lines) > 1:
            self._bytes -= len(self._lines.popleft().text) + 64

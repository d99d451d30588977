"""Who waits in a queue, in memory: figures of each tenant, and its line, so that nobody asks the database who is next.

The table is what survives; this is what one process, which owns it, knows of it. ``queue.py`` changes both together.
Pure: no database here.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

KEPT_BYTES: Final = 32 * 1024 * 1024
"""Of documents in memory, of all tenants; the others are read when their turn comes."""
KEPT_DOCUMENT: Final = 64 * 1024
"""A larger document is not kept."""


@dataclass(slots=True)
class Room:
    """Bytes of documents that may still be kept."""

    left: int = KEPT_BYTES


@dataclass(frozen=True, slots=True)
class Waiting:
    """A pending prompt that is on the disk. ``document`` and ``secrets`` as in the table, where they are kept."""

    number: float
    prompt_id: str
    sequence: int
    client: str | None
    counted: bool
    nbytes: int
    has_secrets: bool
    created_ms: int
    document: bytes | None = field(default=None, repr=False)
    secrets: bytes | None = field(default=None, repr=False)

    @property
    def place(self) -> tuple[float, str]:
        """What comes first runs first."""
        return self.number, self.prompt_id


@dataclass(slots=True)
class Crowd:
    """How many of a tenant's prompts are there, so that nobody who only wants to know that waits for the database.

    The line holds those that may be taken: what is being stored counts already and is not in it yet.
    """

    pending: int = 0
    running: int = 0
    nbytes: int = 0
    """Of the documents of those that are pending."""
    room: Room = field(default_factory=Room)
    _lines: dict[str | None, list[Waiting]] = field(default_factory=dict)
    """By client, each in its order."""

    def add(self, nbytes: int) -> None:
        """One more is about to wait."""
        self.pending += 1
        self.nbytes += nbytes

    def start(self, nbytes: int) -> None:
        """One that waited runs."""
        self.pending -= 1
        self.nbytes -= nbytes
        self.running += 1

    def end(self, *, was_running: bool, nbytes: int) -> None:
        """One is gone."""
        if was_running:
            self.running -= 1
        else:
            self.pending -= 1
            self.nbytes -= nbytes

    # -- the line ----------------------------------------------------------------------------------------------------

    def keeps(self, document: bytes, secrets: bytes | None) -> bool:
        """Whether there is room for them; where there is, it is taken."""
        size = len(document) + len(secrets or b"")
        if size > KEPT_DOCUMENT or size > self.room.left:
            return False
        self.room.left -= size
        return True

    def join(self, waiting: Waiting) -> None:
        """It is on the disk and may be taken."""
        line = self._lines.get(waiting.client)
        if line is None:
            self._lines[waiting.client] = [waiting]
        elif line[-1].place < waiting.place:
            line.append(waiting)
        else:
            insort(line, waiting, key=lambda each: each.place)

    def first(self, busy: Collection[str]) -> Waiting | None:
        """Whose turn it is, those of the ``busy`` clients passed over."""
        heads = [line[0] for client, line in self._lines.items() if client is None or client not in busy]
        return heads[0] if len(heads) == 1 else min(heads, key=lambda each: each.place, default=None)

    def leave(self, waiting: Waiting) -> None:
        """It waits no more, whatever becomes of it; the figures are the caller's to change."""
        line = self._lines[waiting.client]
        # Most often it is the first, whose place nobody has to look for.
        is_first = line[0] is waiting
        del line[0 if is_first else bisect_left(line, waiting.place, key=lambda each: each.place)]
        if not line:
            del self._lines[waiting.client]
        if waiting.document is not None:
            self.room.left += len(waiting.document) + len(waiting.secrets or b"")

    def waiting(self, prompt_ids: Collection[str] | None) -> list[Waiting]:
        """Those in the line with these ids (None: all), in their order."""
        found = [
            each
            for line in self._lines.values()
            for each in line
            if prompt_ids is None or each.prompt_id in prompt_ids
        ]
        return sorted(found, key=lambda each: each.place)

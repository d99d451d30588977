"""A client's next prompt begins while the end of its last is on its way to the disk. What it says waits meanwhile.

ComfyUI's clients hear all of one prompt, with ``executing`` null after its history can be read, before anything of the
next: messages that name no prompt are told apart by their order. So what a prompt that begins early says, and what its
packs send, waits in memory, and it calls no further node when much waits: a disk that does not answer fills no memory.

Of one client one end at most is untold while its next prompt runs: that one waits here with its own end, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from engine.events import Event, ProgressChanged
from engine.storage import QueuedPrompt
from engine.streams import size_of
from policies import TenantId

Publish = Callable[[Event], None]

HELD_EVENTS: Final = 64
"""So many may wait to be told, of so many bytes, when a prompt calls its next node."""
HELD_BYTES: Final = 256 * 1024
MOST_OF_PACKS: Final = 1_024
"""So many wait when a pack sends another one: more are passed on out of their turn."""


class Voice:
    """What one prompt says, told at once or, where it began early, when it is its turn."""

    __slots__ = ("_held", "_nbytes", "_publish", "_turn", "must_wait", "say")

    def __init__(self, publish: Publish, *, is_early: bool = False) -> None:
        self._publish = publish
        self._held: list[Event] = []
        self._nbytes = 0
        self._turn = asyncio.Event() if is_early else None
        self.must_wait = is_early
        """Whether the end of the prompt before is not told yet."""
        self.say: Publish = self._say_in_turn if is_early else publish
        """Asked for each time: it is another one once it is its turn."""

    @property
    def is_full(self) -> bool:
        """Whether so much waits to be told that no further node should be called."""
        return self.must_wait and (len(self._held) >= HELD_EVENTS or self._nbytes > HELD_BYTES)

    def takes(self, event: Event) -> bool:
        """Hold back what a pack of the prompt may have sent; False when it is to be told at once."""
        if not self.must_wait or len(self._held) >= MOST_OF_PACKS or self._nbytes > HELD_BYTES:
            return False
        self.say(event)
        return True

    async def turn(self) -> None:
        """Wait until all of the prompt before is told."""
        if self._turn is not None:
            await self._turn.wait()

    def speak(self) -> None:
        """It is its turn: tell what was held back, in its order, and from here on everything at once."""
        self.must_wait = False
        held, self._held, self._nbytes = self._held, [], 0
        try:
            for event in held:
                self._publish(event)
        finally:
            self.say = self._publish
            if self._turn is not None:
                self._turn.set()

    def _say_in_turn(self, event: Event) -> None:
        if not self.must_wait:
            self._publish(event)
            return
        if type(event) is ProgressChanged and self.is_full:
            event = self._instead_of_an_older(event)
        self._held.append(event)
        self._nbytes += size_of(event)

    def _instead_of_an_older(self, event: ProgressChanged) -> ProgressChanged:
        """A node reports as often as it likes: of each that runs one report is kept."""
        for place in range(len(self._held) - 1, -1, -1):
            older = self._held[place]
            if isinstance(older, ProgressChanged) and older.changed == event.changed:
                del self._held[place]
                self._nbytes -= size_of(older)
                if event.preview is None and older.preview is not None:
                    return replace(event, preview=older.preview)
                break
        return event


class Ending:
    """The end of a client's prompt that is being stored and told, and who comes next."""

    __slots__ = ("client", "next")

    def __init__(self, client: tuple[TenantId, str]) -> None:
        self.client = client
        self.next: Voice | None = None
        """Of the client's next prompt, if it began early."""


class EarlyStarts:
    """Which clients' ends are on their way."""

    def __init__(self, publish: Publish, most: int) -> None:
        """``most``: so many ends at a time let the next begin; a prompt beyond them keeps its place until its end is
        told, so that a slow disk fills no memory."""
        self._publish = publish
        self._most = most
        self._endings: dict[tuple[TenantId, str], Ending] = {}

    def voice(self, row: QueuedPrompt) -> Voice:
        """Of a prompt that begins."""
        client = row.client_id if self._endings else None
        ending = None if client is None else self._endings.get((row.tenant, client))
        if ending is None:
            return Voice(self._publish)
        ending.next = Voice(self._publish, is_early=True)
        return ending.next

    def begin(self, row: QueuedPrompt) -> Ending | None:
        """A prompt has run and only its end is to be stored; None where its client's next must wait for that."""
        client = row.client_id
        if client is None or len(self._endings) >= self._most or (row.tenant, client) in self._endings:
            return None
        ending = self._endings[row.tenant, client] = Ending((row.tenant, client))
        return ending

    def told(self, ending: Ending) -> None:
        """All of it is told."""
        del self._endings[ending.client]
        if ending.next is not None:
            ending.next.speak()

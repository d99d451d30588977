"""A client's next prompt begins while the end of its last is on its way to the disk. What it says waits meanwhile.

ComfyUI's clients hear all of one prompt, with ``executing`` null after its history can be read, before anything of the
next: messages that name no prompt are told apart by their order. So a prompt that begins early is prepared, and no
more: no node is called before the end of the one before is told, however long the disk takes. What waits to be told is
what a prompt says before its first node, which is no more than a few words for each node that it has.

Of one client one end at most is untold while its next prompt is prepared: that one waits here with its own end, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from engine.events import Event
from engine.storage import QueuedPrompt
from policies import TenantId

Publish = Callable[[Event], None]


class Voice:
    """What one prompt says, told at once or, where it began early, when it is its turn."""

    __slots__ = ("_held", "_publish", "_turn", "must_wait", "say")

    def __init__(self, publish: Publish, *, is_early: bool = False) -> None:
        self._publish = publish
        self._held: list[Event] = []
        self._turn = asyncio.Event() if is_early else None
        self.must_wait = is_early
        """Whether the end of the prompt before is not told yet."""
        self.say: Publish = self._say_in_turn if is_early else publish

    async def turn(self) -> None:
        """Wait until all of the prompt before is told."""
        if self._turn is not None:
            await self._turn.wait()

    def speak(self) -> None:
        """It is its turn: tell what was held back, in its order, and from here on everything at once."""
        self.must_wait = False
        held, self._held = self._held, []
        for event in held:
            self._publish(event)
        if self._turn is not None:
            self._turn.set()

    def _say_in_turn(self, event: Event) -> None:
        if self.must_wait:
            self._held.append(event)
        else:
            self._publish(event)


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

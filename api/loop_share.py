"""A party's share of the event loop, which answers everybody and does one thing at a time.

A party is a tenant, or an address that proved nothing. What its requests take of the loop's processor time is measured,
step by step. While another party is there that used far less, whoever uses much of the loop goes one request at a time,
and not at all while the other one is in the middle of something: it is held before its request is looked at further.
Nobody is held for long, only so many wait, and a party that is alone, or uses little, never waits for anything.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

import anyio

from api.connections import TooManyRequestsError
from api.peers import Peer
from engine.events import (
    NodeBlocked,
    NodeExecuted,
    NodesCached,
    NodeStarted,
    PromptEnded,
    PromptEvent,
    PromptFailed,
    PromptInterrupted,
    PromptStarted,
    PromptSucceeded,
)
from policies import TenantId

HEAVY: Final = 0.1
"""Of the loop's time: whoever uses less of it is held by nobody, and holds up nobody."""
FAR_LESS: Final = 2.0
"""Whoever is waited for used so many times less, each by its weight."""
WINDOW_S: Final = 1.0
"""What was used so long ago counts for about a third."""
COMPANY_S: Final = 1.0
"""For so long after it did something a party is there."""
AMID_S: Final = 0.02
"""For so long after it did something a party is in the middle of it: the steps of a small prompt follow faster."""
LONG_S: Final = 0.25
"""A request that takes longer than this is not waited for any more, by its own party's next one neither."""
HELD_S: Final = 0.1
"""For so long the first in a party's line waits for others; for as long after that the party waits for nobody, so that
others who always do a little leave it half of the time."""
STEPS: Final[tuple[type[PromptEvent], ...]] = (
    PromptStarted,
    NodesCached,
    NodeStarted,
    NodeExecuted,
    NodeBlocked,
    PromptSucceeded,
    PromptFailed,
    PromptInterrupted,
    PromptEnded,
)
"""What ``LoopShare.see`` is to be told of. Mere progress is left out: the next step does not follow at once."""
LOOK_S: Final = 0.004
MOST_HELD: Final = 64
_SMALL_S: Final = 0.001
"""What one request used is added to its party's account in parts of this size."""
_PARTIES: Final = 4096
_LOOKED_AT: Final = 256


def of_tenant(tenant: TenantId) -> str:
    """The party that a tenant is."""
    return f"tenant '{tenant}'"


def of_address(peer: Peer) -> str:
    """The party of all requests that prove nothing and come from there."""
    return f"the address {peer.group}"


class TooManyHeldError(TooManyRequestsError):
    """A party that uses much of the server has as many requests waiting as may wait."""

    retry_after_s = 1.0


class _Part:
    """What is known of one party."""

    __slots__ = (
        "_at",
        "_used",
        "began",
        "has_waited_at",
        "held",
        "holder",
        "line",
        "seen",
        "turn_began",
        "under_way",
        "weight",
    )

    def __init__(self, now: float) -> None:
        self.weight = 1
        self.seen = self.began = self.turn_began = now
        self.has_waited_at = -math.inf
        """When its first in line had waited for as long as anybody does."""
        self.under_way = 0
        self.held = 0
        self.holder: Passage | None = None
        """Whose turn it is, while this party's requests go one at a time."""
        self.line = anyio.Lock()
        """Of those that begin: in the order in which they came."""
        self._used = 0.0
        self._at = now

    def charge(self, seconds: float, now: float) -> None:
        self._used = self._left(now) + seconds
        self._at = now

    def load(self, now: float) -> float:
        """About the part of the loop's time that it used of late, by its weight."""
        return self._left(now) / WINDOW_S / self.weight

    def is_amid(self, now: float) -> bool:
        return now - self.seen < AMID_S or (self.under_way > 0 and now - self.began < LONG_S)

    def _left(self, now: float) -> float:
        return self._used * math.exp((self._at - now) / WINDOW_S)


class LoopShare:
    """Who has used how much, and who waits."""

    def __init__(
        self,
        most_held: int = MOST_HELD,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        """``most_held``: requests of one party that may wait for their turn; 0: nobody is held."""
        self.most_held = most_held
        self.clock = clock
        self.sleep = sleep
        self._parts: OrderedDict[str, _Part] = OrderedDict()
        """Who did something last is last."""

    def part(self, party: str) -> _Part:
        """What is known of a party, which does something now."""
        now = self.clock()
        part = self._parts.get(party)
        if part is None:
            if len(self._parts) >= _PARTIES:
                self._parts.popitem(last=False)
            part = self._parts[party] = _Part(now)
        part.seen = now
        self._parts.move_to_end(party)
        return part

    def heard(self, party: str) -> None:
        """Something happened for a party that has asked for something before."""
        if party in self._parts:
            self.part(party)

    def see(self, event: PromptEvent) -> None:
        """A prompt of a tenant went on, by one of ``STEPS``."""
        if self._parts:
            self.heard(of_tenant(event.tenant))

    def company(self, part: _Part) -> tuple[bool, bool]:
        """Whether somebody is there whom this party must leave room for, and in the middle of something."""
        now = self.clock()
        own = part.load(now)
        if own * part.weight < HEAVY:
            return False, False
        is_there = False
        for looked_at, other in enumerate(reversed(self._parts.values())):
            idle_s = now - other.seen
            if looked_at >= _LOOKED_AT or idle_s > COMPANY_S or (is_there and idle_s > LONG_S):
                break
            if other is part or other.load(now) * FAR_LESS > own:
                continue
            if other.is_amid(now):
                return True, True
            is_there = True
        return is_there, False


class Passage:
    """One request's way through the server: what it takes of the loop, and its turns.

    Without a share it is free: nothing is measured, and nothing waits.
    """

    __slots__ = ("_is_held", "_is_over", "_part", "_party", "_share", "_spent")

    def __init__(self, share: LoopShare | None = None) -> None:
        self._share = share
        self._part: _Part | None = None
        self._party = ""
        self._is_held = False
        self._is_over = False
        self._spent = 0.0

    @property
    def has_begun(self) -> bool:
        """Whether it is known whose it is, or does not matter."""
        return self._share is None or self._party != ""

    def charge(self, seconds: float) -> None:
        """So much of the loop's time was used."""
        self._spent += seconds
        if self._spent > _SMALL_S:
            self._settle()

    async def begin(self, party: str, *, weight: int = 1, is_held: bool = True) -> None:
        """It is known whose request this is; returns when its turn has come.

        Raises:
            TooManyHeldError: too many of this party wait already.
        """
        share = self._share
        if share is None:
            return
        self._party = party
        part = self._part = share.part(party)
        part.weight = max(1, weight)
        part.under_way += 1
        part.began = part.seen
        self._settle()
        self._is_held = is_held and share.most_held > 0
        if not self._is_held or not share.company(part)[0]:
            return
        if part.held >= share.most_held:
            raise TooManyHeldError(
                f"{party} uses much of this server while others are there, and has {part.held} requests waiting, "
                f"at most {share.most_held} (RINGFENCE_MAX_HELD_REQUESTS)",
                hint="wait for answers before asking for more",
            )
        part.held += 1
        try:
            async with part.line:
                await self._turn(share, part)
        finally:
            part.held -= 1

    def step_aside(self) -> None:
        """It waits for its client: the next may go on."""
        part = self._part
        if part is not None and part.holder is self:
            part.holder = None

    async def go_on(self) -> None:
        """Its client has said, or taken, something; returns when its turn has come again."""
        if self._is_held and self._share is not None and self._part is not None:
            await self._turn(self._share, self._part)

    def end(self) -> None:
        """The rest takes no turns: it is over, or a connection that stays open. Harmless when said twice."""
        part = self._part
        if self._share is None or part is None or self._is_over:
            return
        self.step_aside()
        self._settle()
        self._is_over, self._is_held = True, False
        part.under_way -= 1
        self._share.heard(self._party)

    def _settle(self) -> None:
        if self._share is not None and self._part is not None:
            self._part.charge(self._spent, self._share.clock())
            self._spent = 0.0

    async def _turn(self, share: LoopShare, part: _Part) -> None:
        waits_since = share.clock()
        while True:
            is_there, is_amid = share.company(part)
            if not is_there:
                return  # nobody who would notice
            now = share.clock()
            is_taken = part.holder not in (None, self) and now - part.turn_began < LONG_S
            if is_amid and now - waits_since >= HELD_S:
                part.has_waited_at = now
            if not is_taken and (not is_amid or now - part.has_waited_at < HELD_S):
                part.holder, part.turn_began = self, now
                return
            await share.sleep(LOOK_S)

"""Who works with a sandbox at this moment, and since when nobody does. Counters and one event, nothing else.

Three things are counted, because three questions are asked: may it be ended for another (``in_use``), does a call run
whose disk is counted (``calls``), and may its packs have changed what they say of their nodes (``at_rest``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import anyio


class Occupancy:
    """The part of a sandbox that its callers count themselves in."""

    def __init__(self) -> None:
        self.calls = 0
        """Calls that run or wait for their turn; not idle while there are any."""
        self.kept = 0
        """WebSockets on which something is said: not idle either, but no call whose disk is counted."""
        self.asks = 0
        """Things that its packs were asked to do and have not done yet; describing their nodes is none."""
        self.asked = 0
        """Those that they have done."""
        self.used_at = time.monotonic()
        self._quiet: anyio.Event | None = None
        """Set when no call runs any more; there while somebody waits for that."""
        self.on_busy: Callable[[], None] = lambda: None
        """Called when a call begins and no other runs."""
        self.on_quiet: Callable[[], None] = lambda: None
        """Called when its last call has ended."""

    @property
    def in_use(self) -> bool:
        """Whether anybody works with it: neither idle nor retired then."""
        return self.calls > 0 or self.kept > 0

    @property
    def at_rest(self) -> int | None:
        """How much its packs have done; the same number again: nothing since. None while they do something."""
        return None if self.asks else self.asked

    @contextmanager
    def asking(self) -> Iterator[None]:
        """A pack does something that may change what it says of its nodes."""
        self.ask()
        try:
            yield
        finally:
            self.has_done()

    def ask(self) -> None:
        """The same until ``has_done``, which whoever calls this calls once."""
        self.asks += 1

    def has_done(self) -> None:
        """One thing done."""
        self.asks -= 1
        self.asked += 1

    @contextmanager
    def busy(self) -> Iterator[None]:
        """A call: in use meanwhile."""
        self.begin()
        try:
            yield
        finally:
            self.done()

    def begin(self) -> None:
        """It is in use until ``done``, which whoever calls this calls once."""
        self.calls += 1
        if self.calls == 1:
            self.on_busy()

    def done(self) -> None:
        """One call less."""
        self.calls -= 1
        self._used()

    def begin_call(self) -> None:
        """``begin`` and ``ask`` in one, until ``end_call``: a node is called, or waits for its turn."""
        self.asks += 1
        self.calls += 1
        if self.calls == 1:
            self.on_busy()

    def end_call(self) -> None:
        """That call is over."""
        self.asks -= 1
        self.asked += 1
        self.calls -= 1
        self._used()

    @contextmanager
    def keep(self) -> Iterator[None]:
        """In use meanwhile, for however long; each call beside it is still counted by itself."""
        self.kept += 1
        try:
            with self.asking():
                yield
        finally:
            self.kept -= 1
            self._used()

    def touch(self) -> None:
        """Somebody is about to work with it."""
        self.used_at = time.monotonic()

    async def quiet(self) -> None:
        """Wait until it is not in use."""
        while self.in_use:
            if self._quiet is None:
                self._quiet = anyio.Event()
            await self._quiet.wait()

    async def idle_for(self, seconds: float) -> None:
        """Wait until nobody has worked with it for so long."""
        while True:
            left = self.used_at + seconds - time.monotonic() if not self.in_use else seconds
            if left <= 0:
                return
            await anyio.sleep(left)

    def _used(self) -> None:
        self.used_at = time.monotonic()
        if not self.calls and not self.kept:
            if self._quiet is not None:
                self._quiet.set()
                self._quiet = None
            self.on_quiet()

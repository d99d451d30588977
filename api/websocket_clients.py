"""The open sockets of clients: what each was told to be, how frames are sent to it, and how many there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import anyio
from starlette.websockets import WebSocket

from api import messages
from api.gathered import AT_ONCE
from api.messages import Abilities, Binary, Message
from api.metrics import WEBSOCKETS
from policies import TenantId
from sandbox import FastPath, takes

_SEND_S: Final = 30.0


@dataclass(eq=False, slots=True)
class Connection:
    """One open socket; compared by identity, because two may carry the same client id."""

    socket: WebSocket
    tenant: TenantId
    sid: str
    abilities: Abilities = field(default_factory=Abilities)
    is_current: bool = True
    logs: anyio.Event = field(default_factory=anyio.Event)
    """Set while the client wants to hear what packs print."""
    _sending: anyio.Lock = field(default_factory=partial(anyio.Lock, fast_acquire=True))
    _senders: int = 0
    """Of those who send one frame after the other."""
    _at_once: Callable[[list[Message]], int] | None = None
    """Takes the first of some frames, as many as nothing is in the way of, where the server below can."""

    def __post_init__(self) -> None:
        if takes(FastPath.FRAMES_AT_ONCE):
            self._at_once = self.socket.scope.get("extensions", {}).get(AT_ONCE)

    def send_at_once(self, frames: list[Message]) -> list[Message]:
        """Send frames together as long as nothing is in their way; those that were not sent."""
        return frames if self._senders else self._handed_over(frames)

    async def send(self, frames: list[Message]) -> None:
        """Send frames together.

        Raises:
            TimeoutError: the client does not read.
        """
        left = self.send_at_once(frames)
        if not left:
            return
        self._senders += 1
        try:
            async with self._sending:
                with anyio.fail_after(_SEND_S):
                    while left:
                        await self._send_waiting(left[0])
                        left = self._handed_over(left[1:])
        finally:
            self._senders -= 1

    def _handed_over(self, frames: list[Message]) -> list[Message]:
        if self._at_once is None:
            return frames
        while frames:
            taken = self._at_once(frames)
            if not taken:
                break
            frames = frames[taken:]
        return frames

    async def _send_waiting(self, frame: Message) -> None:
        if isinstance(frame, Binary):
            await self.socket.send_bytes(frame)
        else:
            await self.socket.send_text(frame.decode())


class Connections:
    """The open sockets of this server, by tenant and client id; a client id means nothing across tenants."""

    def __init__(self, limit_per_tenant: int) -> None:
        self.frames = messages.Frames()
        self._limit = limit_per_tenant
        self._current: dict[tuple[TenantId, str], Connection] = {}
        self._open: Counter[TenantId] = Counter()

    def count_of(self, tenant: TenantId) -> Callable[[], int]:
        """Says how many sockets a tenant has open."""
        return partial(self._open.__getitem__, tenant)

    def open_of(self, tenant: TenantId) -> int:
        """How many sockets a tenant has open."""
        return self._open[tenant]

    def add(self, connection: Connection, most: int | None = None) -> bool:
        """Register a socket, replacing one of the same client; False when the tenant has too many open.

        ``most``: the tenant's own quota, where it has one.
        """
        if not self.reserve(connection.tenant, most):
            return False
        key = (connection.tenant, connection.sid)
        replaced = self._current.get(key)
        if replaced is not None:
            replaced.is_current = False
        self._current[key] = connection
        return True

    def reserve(self, tenant: TenantId, most: int | None = None) -> bool:
        """Count one more open socket of a tenant; False when it has too many."""
        count = self._open[tenant]
        if count >= (self._limit if most is None else min(most, self._limit)):
            return False
        self._open[tenant] = count + 1
        WEBSOCKETS.inc()
        return True

    def free(self, tenant: TenantId) -> None:
        """Count one fewer."""
        self._open[tenant] -= 1
        WEBSOCKETS.dec()

    def want_logs(self, tenant: TenantId, sid: str, *, enabled: bool) -> None:
        """A client wants to hear what the tenant's packs print, or no longer."""
        connection = self._current.get((tenant, sid))
        if connection is not None and enabled:
            connection.logs.set()
        elif connection is not None:
            connection.logs = anyio.Event()

    def remove(self, connection: Connection) -> None:
        """Forget a socket, but never the newer one that replaced it."""
        self.free(connection.tenant)
        key = (connection.tenant, connection.sid)
        if self._current.get(key) is connection:
            del self._current[key]

"""The line to the host that the other sdk modules talk through; the worker connects it at start.

Not for packs: what may be said is in ``progress``, ``events`` and ``registry``.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol


class Host(Protocol):
    """What the sdk needs of the worker."""

    def notify(self, method: str, params: dict[str, Any]) -> None:
        """Send a notification; never raises because the host is gone."""

    def publish(self, data: bytes) -> str | None:
        """Put bytes into a file that the host can take over; return its name, or None when it refuses the space."""


_host: Host | None = None


def connect(host: Host | None) -> None:
    """Set (or cut, with None) the line."""
    global _host
    _host = host


def connected() -> Host | None:
    return _host


_loop: asyncio.AbstractEventLoop | None = None


def lend_loop(loop: asyncio.AbstractEventLoop | None) -> None:
    """Say which loop coroutines of packs run on."""
    global _loop
    _loop = loop


def event_loop() -> asyncio.AbstractEventLoop | None:
    return _loop

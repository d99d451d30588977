"""Imports ``asyncio`` without ``ssl``, which it then gets on the first use of either.

``asyncio`` imports ``ssl`` (and with it OpenSSL: 1.5 MiB of memory in every sandbox) for connections that most
sandboxes cannot make. Nothing is taken away: whoever imports ``ssl`` gets it as always, and a connection of
``asyncio``'s that is to be encrypted has it imported in that moment.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

_HOLDERS = ("asyncio.base_events", "asyncio.selector_events", "asyncio.sslproto")
_AGAIN = ("SSLWantReadError", "SSLSyscallError")


class _NotYet(Exception):  # noqa: N818 - stands where asyncio names classes of ssl, until there can be one of those
    """Never raised."""


class LateModule(ModuleType):
    """Stands for ``ssl`` in asyncio's modules until one of them needs it."""

    is_armed = False

    def __getattr__(self, name: str) -> Any:
        """What ``ssl`` has by this name. Every encrypted connection asks for one before it can fail."""
        if not self.is_armed:
            if name in _AGAIN:
                return _NotYet
            raise AttributeError(name)
        if name == "SSLSocket" and "ssl" not in sys.modules:
            return _NotYet  # asked of every plain socket: none can be one of those yet
        return getattr(_settle(), name)


def import_asyncio() -> None:
    """Import ``asyncio`` now, and ``ssl`` not yet; where either is there already, nothing changes."""
    if "ssl" in sys.modules or "asyncio" in sys.modules:
        return
    late = LateModule("ssl")
    sys.modules["ssl"] = late
    try:
        importlib.import_module("asyncio")
    finally:
        del sys.modules["ssl"]
        late.is_armed = True
    proto = sys.modules.get("asyncio.sslproto")
    if proto is None or getattr(proto, "SSLAgainErrors", None) != (_NotYet, _NotYet):
        _settle()  # another Python's asyncio: as it wants to have it


def _settle() -> ModuleType:
    """Give asyncio's modules the real one."""
    real = importlib.import_module("ssl")
    for name in _HOLDERS:
        holder: Any = sys.modules.get(name)
        if isinstance(getattr(holder, "ssl", None), LateModule):
            holder.ssl = real
    proto: Any = sys.modules.get("asyncio.sslproto")
    if proto is not None and _NotYet in getattr(proto, "SSLAgainErrors", ()):
        proto.SSLAgainErrors = tuple(getattr(real, name) for name in _AGAIN)
    return real

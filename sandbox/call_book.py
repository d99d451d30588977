"""Which call of a sandbox belongs to which extension: numbers that progress, events and cancellation name."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Final

from policies import ExtensionName
from sandbox.calls import NodeCall

_KEPT: Final = 64
"""A call stays known until the one that was made so many later is over."""


class CallBook:
    """Numbers the calls of one sandbox and remembers which extension and node each is for."""

    def __init__(self) -> None:
        self._ids: Iterator[int] = itertools.count(1)
        self._extensions: dict[int, ExtensionName] = {}
        self._running: dict[int, tuple[ExtensionName, str, str]] = {}

    def open(self, extension: ExtensionName, call: NodeCall | None = None) -> int:
        """A new call's number; ``call`` is None for one that is no node's (a route, a prompt handler)."""
        number = next(self._ids)
        self._extensions[number] = extension
        if call is not None:
            self._running[number] = (extension, call.instance or call.node_id, call.class_type)
        return number

    def close(self, number: int) -> None:
        """The call is over; the newest stays known, for what its node says a moment later."""
        self._running.pop(number, None)
        # Each call that ends lets go of one, and each that is made adds one.
        self._extensions.pop(number - _KEPT, None)

    def extension_of(self, number: int) -> ExtensionName | None:
        """Whose call it is."""
        return self._extensions.get(number)

    def node_of(self, number: int) -> tuple[ExtensionName, str, str] | None:
        """Extension, node instance and class of a node's call that runs."""
        return self._running.get(number)

"""Which call of a sandbox belongs to which extension: numbers that progress, events and cancellation name."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from policies import ExtensionName


class CallBook:
    """Numbers the calls of one sandbox and remembers which extension each is for."""

    def __init__(self) -> None:
        self._ids: Iterator[int] = itertools.count(1)
        self._extensions: dict[int, ExtensionName] = {}

    def open(self, extension: ExtensionName) -> int:
        """A new call's number."""
        number = next(self._ids)
        self._extensions[number] = extension
        return number

    def close(self, number: int) -> None:
        """The call is over; the newest stays known, for what its node says a moment later."""
        for known in [known for known in self._extensions if known < number - 64]:
            del self._extensions[known]

    def extension_of(self, number: int) -> ExtensionName | None:
        """Whose call it is."""
        return self._extensions.get(number)

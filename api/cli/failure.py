"""Exit statuses of the command, and the one exception that carries them."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """What the shell sees."""

    OK = 0
    FAILED = 1
    """The prompt (or the operation) failed."""
    USAGE = 2
    """Wrong arguments, or a file that cannot be used."""
    UNREACHABLE = 3
    """No server answers."""
    REJECTED = 4
    """The server refused the prompt (or the request) as invalid."""
    AUTH = 5
    """A token is missing or wrong, or does not allow this."""
    INTERRUPTED = 130


class Failure(Exception):  # noqa: N818 - reads as what it is: `raise Failure(Status.USAGE, ...)`
    """Ends the command with a message, a hint and a status."""

    def __init__(self, status: Status, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.hint = hint

"""What can be wrong with a file of a tenant."""

from __future__ import annotations

from policies import RingfenceError


class FileUnknownError(RingfenceError):
    """There is no such file."""

    code = "not-found"


class FileRefusedError(RingfenceError):
    """A name or place for a file that we do not accept."""

    code = "file-refused"


class FileExistsInTheWayError(RingfenceError):
    """Something of that name is there and shall not be replaced."""

    code = "file-exists"


class StorageFullError(RingfenceError):
    """A quota is used up, or the disk is full."""

    code = "storage-full"

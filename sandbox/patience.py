"""Changing names in a directory that the launcher holds still for the moment of a sandbox's start.

Meanwhile (a fraction of a second) the kernel answers EPERM to whoever would rename or remove what is not their own
there, see ``launcher/holding.py``. So whoever does that for a user tries again for a while.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

T = TypeVar("T")
_PATIENCE_S: Final = 5.0


HOLDING_UID: Final = 199_998
"""Whose a directory is that the launcher holds; nobody runs as it."""


def patiently(change: Callable[[], T], *where: int, patience_s: float = _PATIENCE_S) -> T:
    """The result of ``change``, tried again while it is not permitted. Blocking.

    ``where`` are descriptors of the directories in question: nobody waits unless one is held at this moment. A sandbox
    can make sticky directories of its own, in which what it wrote is nobody else's to remove.

    Raises:
        PermissionError: it still is not after ``patience_s``.
    """
    deadline = time.monotonic() + patience_s
    pause = 0.002
    while True:
        try:
            return change()
        except PermissionError as error:
            # EACCES is a mode that will not change by waiting.
            if error.errno != errno.EPERM or time.monotonic() > deadline:
                raise
            if where and all(os.fstat(fd).st_uid != HOLDING_UID for fd in where):
                return change()  # given back just now, or never held
        time.sleep(pause)
        pause = min(0.1, pause * 2)


def remove_tree(directory: Path) -> None:
    """Remove a directory with all in it, as far as that can be; patiently. Blocking."""
    try:
        patiently(lambda: shutil.rmtree(directory))
    except OSError:
        # What is in the way of one entry is not in the way of the others; what stays is swept at the next start.
        shutil.rmtree(directory, ignore_errors=True)

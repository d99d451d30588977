"""A clock that wakes a thread which sleeps, for no more than a call of the kernel to whoever sets it.

To wake the thread itself, as an event does, takes the interpreter from who does it a moment later. ``os`` has this
clock (timerfd) from Python 3.13 on only.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any, Final

_NS: Final = 1_000_000_000
_libc: Final[Any] = ctypes.PyDLL(None, use_errno=True)
"""Called with the interpreter's lock: none of this waits for anything."""
_TIMES: Final = ctypes.c_long * 4
"""``struct itimerspec``: seconds and nanoseconds of the interval, then of the first time."""
_libc.timerfd_create.argtypes = [ctypes.c_int, ctypes.c_int]
_libc.timerfd_settime.argtypes = [ctypes.c_int, ctypes.c_int, _TIMES, ctypes.c_void_p]
_CLOCK_MONOTONIC: Final = 1
_NEVER: Final = _TIMES(0, 0, 0, 0)
_NOW: Final = _TIMES(0, 0, 0, 1)


class Alarm:
    """Goes off once, when it was last set for.

    Raises:
        OSError: there is no such clock here (too many open files, a refused system call).
    """

    def __init__(self) -> None:
        self._fd: int = _libc.timerfd_create(_CLOCK_MONOTONIC, os.O_CLOEXEC)
        if self._fd < 0:
            raise _failure()
        self.set(_NEVER)  # what cannot be set is found out now, and not by who waits for it

    def set(self, times: Any) -> None:
        """For so long from now (see ``after``), whatever it was set for before. Any thread may."""
        if _libc.timerfd_settime(self._fd, 0, times, None):
            raise _failure()

    def ring(self) -> None:
        """Go off at once."""
        self.set(_NOW)

    def wait(self) -> None:
        """Sleep until it has gone off since the last time that this ended. One thread may."""
        os.read(self._fd, 8)

    def close(self) -> None:
        """When nobody waits."""
        os.close(self._fd)


def after(seconds: float) -> Any:
    """What an alarm is set to."""
    whole, rest = divmod(max(1, int(seconds * _NS)), _NS)
    return _TIMES(0, 0, whole, rest)


def _failure() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))

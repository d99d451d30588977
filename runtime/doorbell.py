"""What wakes a thread that sleeps until it is needed: somebody rings, or a message comes to a door that is watched.

To have a door watched is one call of the kernel and wakes nobody. To wake the thread itself costs whoever does it more:
it takes the interpreter from them a moment later, in the middle of their work.
"""

from __future__ import annotations

import os
import select
from typing import Final

_CLOSED: Final = select.EPOLLONESHOT
_WATCHED: Final = select.EPOLLIN | select.EPOLLONESHOT


class Doorbell:
    """One thread waits; any may ring. The door is a descriptor that others read.

    Raises:
        OSError: there are too many files open, or the descriptor is none of a socket or pipe.
    """

    def __init__(self, door: int) -> None:
        self._door = door
        self._is_watched = False
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll = select.epoll()
        self._epoll.register(self._bell, select.EPOLLIN)
        self._epoll.register(door, _CLOSED)

    def watch(self) -> None:
        """From here on a message that is there, or comes, wakes whoever waits, once."""
        self._is_watched = True
        self._epoll.modify(self._door, _WATCHED)

    def leave(self) -> None:
        """Watch the door no more."""
        self._epoll.modify(self._door, _CLOSED)

    def ring(self) -> None:
        """Wake whoever waits now, or waits next."""
        os.eventfd_write(self._bell, 1)

    def wait(self, seconds: float | None) -> None:
        """Sleep for so long at most; None: until it rings. The door is watched no more then."""
        for fd, _ in self._epoll.poll(seconds):
            if fd == self._bell:
                os.eventfd_read(self._bell)
        if self._is_watched:
            self._is_watched = False
            self.leave()

    def close(self) -> None:
        """When nobody waits."""
        self._epoll.close()
        os.close(self._bell)

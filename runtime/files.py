"""The files in /dev/shm through which large values travel: granted ones in, allocated ones out.

The host makes every outgoing file, exactly as long as asked for; the worker fills it, closes it and only then names
it. Incoming files are mapped private: what a pack writes into an input stays with that pack.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any

from . import letting_go, mappings, wire
from .peer import RpcError
from .unchanged import is_unchanged

#: Below this, reading a file costs less than mapping it and takes no entry in the process's table of mappings.
_READ_INSTEAD = 128 * 1024
COPIED_AT_ONCE = 4 << 20
"""Bytes that are copied before another thread may run; so many go past the caches, as a sandbox's environment says."""


class _Mapped(weakref.ref[Any]):
    """A buffer over a mapped input, which is unmapped when it goes."""

    __slots__ = ("file", "nbytes", "window")
    file: str
    nbytes: int
    window: mappings.Window


_inputs: dict[int, _Mapped] = {}
"""By address. Of the whole process: a buffer may outlive whoever mapped it."""


class Offered:
    """Files that a call took along: each may be filled in place of one that the host would be asked for."""

    def __init__(self, offered: Iterable[Mapping[str, Any]] = ()) -> None:
        self._files = [(each["bytes"], each["file"], each["huge"]) for each in offered]

    def take(self, nbytes: int) -> tuple[str, int] | None:
        """Name and bytes in huge pages of one of exactly this size, which nobody else gets; None: there is none."""
        for at, (size, name, huge) in enumerate(self._files):
            if size == nbytes:
                del self._files[at]
                return name, huge
        return None

    def rest(self) -> list[str]:
        """The names of those that nobody took; they are no offer any more."""
        names = [name for _, name, _ in self._files]
        self._files.clear()
        return names


class SharedFiles:
    """The worker's view of its in and out directories."""

    def __init__(
        self,
        in_directory: str,
        out_directory: str,
        *,
        allocate: Callable[[int], tuple[str, int]],
        discard: Callable[[str], None],
    ) -> None:
        self._in = in_directory
        self._out = out_directory
        self._allocate = allocate
        self._discard = discard
        self.hands_on = True
        """Whether an input that comes out unchanged is named, and not written."""
        self._letting_go = letting_go.LettingGo(in_directory) if letting_go.is_needed() else None

    def read(self, name: str, nbytes: int) -> bytearray:
        """Return the bytes of a granted file.

        Raises:
            RpcError: it is missing or shorter than announced (VALUE_NOT_PORTABLE).
        """
        data = bytearray(nbytes)
        with os.fdopen(self._open(name, nbytes), "rb", buffering=0) as file:
            view = memoryview(data)
            while view and (count := file.readinto(view)):
                view = view[count:]
        return data

    def map(self, name: str, nbytes: int) -> Any:
        """Return a writable buffer over a granted file; writing into it changes this process's copy only.

        Raises:
            RpcError: it is missing or shorter than announced (VALUE_NOT_PORTABLE).
        """
        if nbytes <= _READ_INSTEAD:
            return self.read(name, nbytes)
        fd = self._open(name, nbytes)
        try:
            window = mappings.mapped(fd, nbytes, mappings.PRIVATE)
        finally:
            os.close(fd)
        buffer = (ctypes.c_ubyte * nbytes).from_address(window[0])
        known = _inputs[window[0]] = _Mapped(buffer, _unmap)
        known.file, known.nbytes, known.window = name, nbytes, window
        return buffer

    @property
    def has_mapped(self) -> bool:
        """Whether any input is mapped."""
        return bool(_inputs)

    def handed_on(self, address: int, nbytes: int, given: Container[str]) -> str | None:
        """The name of the granted file whose bytes lie at ``address``, all of them and unchanged; None when it must be
        copied. Only a file among ``given`` counts: one of an earlier call is not ours to name any more."""
        known = _inputs.get(address)
        if known is None or known.nbytes != nbytes or not self.hands_on or known.file not in given:
            return None
        return known.file if is_unchanged(address, nbytes) else None

    def publish(self, pieces: Iterable[memoryview], nbytes: int, offered: Offered | None = None) -> str:
        """Fill a new file, or one that was ``offered``, with the pieces, one after the other; return its name.

        Raises:
            RpcError: the host refused the space (QUOTA_EXCEEDED).
        """
        offered = offered or Offered()
        name, huge = offered.take(nbytes) or self._new(nbytes, offered)
        try:
            fd = os.open(f"{self._out}/{name}", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                if mappings.ALIGNED <= huge <= nbytes and self._letting_go is None:
                    _fill_mapped(fd, pieces, huge)
                else:
                    # pwrite takes half the time of copying into a fresh mapping of small pages: no faults.
                    _write(fd, pieces, 0)
            finally:
                os.close(fd)
        except BaseException:
            self._discard(name)
            raise
        return name

    def _new(self, nbytes: int, offered: Offered) -> tuple[str, int]:
        """A file made for this; what the call took along and does not fit gives way to it."""
        try:
            return self._allocate(nbytes)
        except RpcError as error:
            rest = offered.rest()
            if error.code != wire.QUOTA_EXCEEDED or not rest:
                raise
            for name in rest:
                self._discard(name)
            return self._allocate(nbytes)

    def discard(self, name: str) -> None:
        """Give back a file that will not be named in a result."""
        self._discard(name)

    def _open(self, name: str, nbytes: int) -> int:
        if os.sep in name or name in {"", ".", ".."}:
            raise RpcError(
                wire.VALUE_NOT_PORTABLE, "a file reference is not a plain file name", {"what": "file"}
            )
        try:
            fd = os.open(f"{self._in}/{name}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise RpcError(
                wire.VALUE_NOT_PORTABLE,
                f"a granted file cannot be opened: {error.strerror}",
                {"what": "file"},
            ) from error
        if self._letting_go is not None:
            self._letting_go.opened(name)
        size = os.fstat(fd).st_size
        if size < nbytes:
            os.close(fd)
            raise RpcError(
                wire.VALUE_NOT_PORTABLE,
                f"a granted file holds {size} bytes; {nbytes} were announced",
                {"what": "file"},
            )
        return fd


def _write(fd: int, pieces: Iterable[memoryview], at: int) -> None:
    """Write the pieces one after the other, from byte ``at`` on."""
    for piece in pieces:
        view = piece.cast("B") if piece.nbytes else piece
        while view:
            count = os.pwrite(fd, view, at)
            view = view[count:]
            at += count


def _fill_mapped(fd: int, pieces: Iterable[memoryview], huge: int) -> None:
    """The same from the first byte on, for a file whose first ``huge`` bytes lie in huge pages, all there.

    Mapping those costs next to nothing, and a copy into them goes past the caches (where the sandbox's environment says
    from which size on), which the kernel's does not: 1.4 ms for 12 MiB instead of 2.3.
    """
    try:
        window = mappings.mapped(fd, huge, mappings.SHARED)
    except MemoryError:  # no more mappings, or addresses
        _write(fd, pieces, 0)
        return
    mappings.not_for_children(window)  # a child that had it mapped would make the host copy the file
    target = memoryview((ctypes.c_ubyte * huge).from_address(window[0])).cast("B")
    at = 0
    try:
        for piece in pieces:
            view = piece.cast("B") if piece.nbytes else piece
            while view and at < huge:
                count = min(len(view), huge - at, COPIED_AT_ONCE)
                target[at : at + count] = view[:count]
                view = view[count:]
                at += count
            if view:
                _write(fd, [view], at)
                at += len(view)
    finally:
        target.release()
        mappings.unmapped(window)


def _unmap(known: _Mapped) -> None:
    del _inputs[known.window[0]]  # first: the next mapping may get this address
    mappings.unmapped(known.window)

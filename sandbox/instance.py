"""Who is alive: one lock per instance, and the removal of what dead instances left in /dev/shm and /run.

The lock lies beside the files it speaks for, so whoever can see the files can see whether their owner lives. The
kernel drops it with the process, however that ends. Nothing is guessed from ages or process ids.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import time
from pathlib import Path
from typing import Final

from sandbox.errors import StartError
from sandbox.patience import patiently
from sandbox.places import Places

log = logging.getLogger(__name__)

_SWEEP_S: Final = 2.0


class InstanceLock:
    """Held from ``acquire`` to ``release``; the one host that may use an instance's directories."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._fd = -1

    def acquire(self) -> None:
        """Take the lock, sweep what dead instances left, make this instance's directories.

        Raises:
            StartError: another process runs this instance.
        """
        places = self._places
        places.shm_root.mkdir(mode=0o711, parents=True, exist_ok=True)
        fd = _patient_lock(_lock_path(places.shm_root, places.instance))
        if fd is None:
            raise StartError(
                f"instance '{places.instance}' already runs on this machine",
                "stop it (make down), or choose another RINGFENCE_INSTANCE",
            )
        self._fd = fd
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
        remove_files(places)
        _sweep_others(places)
        places.store.mkdir(mode=0o700, parents=True)
        places.shm.chmod(0o700)  # only the engine and we pass through; sandboxes see their own mounts
        (places.shm / "sandboxes").mkdir(mode=0o700)
        (places.run / "sockets").mkdir(mode=0o700, parents=True)
        places.run.chmod(0o700)

    def release(self) -> None:
        """Remove this instance's files and give the lock back; harmless when it is not held."""
        if self._fd < 0:
            return
        remove_files(self._places)
        _lock_path(self._places.shm_root, self._places.instance).unlink(missing_ok=True)
        os.close(self._fd)
        self._fd = -1


def remove_files(places: Places) -> None:
    """Remove everything of one instance from /dev/shm and /run (not its data)."""
    for directory in (places.shm, places.run):
        if directory.exists():
            patiently(lambda: shutil.rmtree(directory))  # noqa: B023


def _sweep_others(places: Places) -> None:
    for lock in sorted(places.shm_root.glob("*.lock")):
        name = lock.name.removesuffix(".lock")
        if name == places.instance:
            continue
        fd = _try_lock(lock)
        if fd is None:
            continue  # its owner lives
        dead = Places(name, places.data, places.shm_root, places.run_root)
        log.warning("removing what the ended instance '%s' left in %s", name, dead.shm)
        try:
            remove_files(dead)
            lock.unlink(missing_ok=True)
        finally:
            os.close(fd)


def _lock_path(shm_root: Path, instance: str) -> Path:
    return shm_root / f"{instance}.lock"


def _patient_lock(path: Path) -> int | None:
    """A neighbour that starts at this moment holds the lock while it sweeps what we left: that is soon over."""
    deadline = time.monotonic() + _SWEEP_S
    while (fd := _try_lock(path)) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return fd


def _try_lock(path: Path) -> int | None:
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        try:
            # The file we locked may have been unlinked by a sweep in between; then somebody else can lock its name.
            if path.stat().st_ino == os.fstat(fd).st_ino:
                return fd
        except FileNotFoundError:
            pass
        os.close(fd)

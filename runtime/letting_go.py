"""Making gVisor let go of granted files that the host has taken away.

gVisor's kernel keeps a file that a program has read open for as long as it remembers the file's name, and it remembers
until somebody asks for the name again and it is not there. The pages stay taken all that time. So whatever was opened
is asked for until it is gone. Linux lets go by itself: there nothing of this is needed, and no thread runs.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Final

_FIRST_S: Final = 0.02
_LONGEST_S: Final = 0.25
_SHARE: Final = 20
"""Between two rounds at least this many times what one took: a thousand names of a long call cost 5 % of a core."""


def is_needed() -> bool:
    """Whether this kernel holds files by their names. Linux's own has a table of pages; gVisor's has none."""
    return not Path("/proc/self/pagemap").exists()


class LettingGo:
    """Asks for the names of one directory from a thread of its own."""

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)
        self._opened: dict[str, int] = {}  # name -> how often
        self._lock = threading.Lock()
        self._woken = threading.Event()
        self._is_running = False

    def opened(self, name: str) -> None:
        """A granted file was opened: the host will take its name away."""
        with self._lock:
            self._opened[name] = self._opened.get(name, 0) + 1
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._run, name="ringfence-letting-go", daemon=True).start()
        self._woken.set()

    def ask(self) -> int:
        """Ask for each name once; return how many are still there."""
        with self._lock:
            asked = dict(self._opened)
        for name in [name for name in asked if self._is_there(name)]:
            del asked[name]
        with self._lock:
            for name, times in asked.items():
                if self._opened[name] == times:  # else it was granted and opened again meanwhile
                    del self._opened[name]
            return len(self._opened)

    def _is_there(self, name: str) -> bool:
        try:
            (self._directory / name).stat()
        except FileNotFoundError:
            return False
        except OSError:
            pass  # no word of its being gone
        return True

    def _run(self) -> None:
        while True:
            self._woken.wait()
            wait_s, left = _FIRST_S, 1
            while left:
                time.sleep(wait_s)  # not a wait for ``_woken``: each new file would cut the pause short
                if self._woken.is_set():
                    self._woken.clear()
                    wait_s = _FIRST_S
                began = time.monotonic()
                left = self.ask()
                wait_s = max(min(wait_s * 2, _LONGEST_S), _SHARE * (time.monotonic() - began))

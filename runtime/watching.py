"""A watched worker says what its pack asks for, so that an operator learns a policy for it.

Switched on by the host's hello and by nothing else. What is said is a claim: the pack runs in the same process and may
say whatever it likes, so the host lets it take away and never add (``docs/policy-reference.md``, "Learning a policy").
Seen are Python's own audit events (a file is opened, a name is looked up, a socket connects), variables that the pack's
code looks for in vain, and how full the places are that only the sandbox can look into. Native code and child processes
are not seen.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

from . import wire
from .sdk import paths

_LOOK_S: Final = 0.2
_KNOWN: Final = 2000
"""Different things that are said in all."""
_LONGEST: Final = 200
_WRITES: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_AREAS: Final = ("input", "output", "temp", "models", "user")
_MOUNTS: Final = ("/mnt/", "/data/", "/srv/")
_SYSTEM: Final = tuple(
    f"/{name}/"
    for name in ("usr", "lib", "lib64", "bin", "opt", "etc", "proc", "sys", "dev", "tmp", "run", "var")
)
_LOOPBACK: Final = ("127.", "localhost", "::1", "0.0.0.0")
_DIRECTORY_READS: Final = frozenset({"os.listdir", "os.scandir"})
_DIRECTORY_WRITES: Final = frozenset({"os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.truncate"})

Tell = Callable[[str, dict[str, Any]], None]


class Watching:
    """Collects, and tells the host in pieces."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._app = paths.app()
        self._root = self._app.removesuffix(wire.APP_DIRECTORY)
        self._own = (paths.custom_nodes() + "/", self._root + wire.CODE_DIRECTORY + "/")
        self._system = (
            *_SYSTEM,
            sys.prefix + "/",
            sys.base_prefix + "/",
            wire.CODE_DIRECTORY.rpartition("/")[0] + "/",
        )
        self._lock = threading.RLock()  # an event may come while one is noted: a destructor runs at any time
        self._known: set[tuple[str, str]] = set()
        self._pending: dict[tuple[str, str], int] = {}
        self._most: dict[str, int] = {}
        self._is_off = False

    def start(self) -> None:
        """From here on; there is no way back, an audit hook stays."""
        sys.addaudithook(self._hear)
        _watch_variables(self._missed)
        os.register_at_fork(after_in_child=self._forget)
        threading.Thread(target=self._look, name="ringfence-watch", daemon=True).start()

    def flush(self) -> None:
        """Tell the host what has not been told yet."""
        if self._is_off:
            return
        self._measure()
        with self._lock:
            pending, self._pending = self._pending, {}
        for (kind, name), count in pending.items():
            self._tell(wire.SEEN, {"kind": kind, "name": name, "value": count})

    # -- what is heard -----------------------------------------------------------------------------------------------

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if self._is_off:
            return
        try:
            if event == "open":
                path, _, flags = args
                self._file(path, is_write=bool(isinstance(flags, int) and flags & _WRITES))
            elif event in _DIRECTORY_READS:
                self._file(args[0], is_write=False)
            elif event in _DIRECTORY_WRITES:
                self._file(args[0], is_write=True)
            elif event == "socket.getaddrinfo":
                self._host(args[0], args[1])
            elif event == "socket.connect":
                address = args[1]
                if isinstance(address, tuple) and len(address) >= 2:
                    self._host(address[0], address[1])
        except Exception:  # noqa: BLE001, S110 - raising here would fail what the pack does
            pass

    def _file(self, path: Any, *, is_write: bool) -> None:
        if isinstance(path, int) or path is None:
            return
        name = os.fsdecode(path)
        if not name.startswith("/"):
            name = os.path.abspath(name)  # noqa: PTH100 - a string, cheaply: this is every open
        if len(name) > 4 * _LONGEST:
            return
        name = os.path.normpath(name)
        inside = name.startswith(self._app + "/")
        seen = name[len(self._root) :] if inside else name
        if inside:
            area = name[len(self._app) + 1 :].partition("/")[0]
            if area not in _AREAS:
                return  # its own folder, caches: throwaway
        elif not name.startswith(_MOUNTS) and (
            name.startswith(self._system) or name.count("/") < 2 or os.path.lexists(name)
        ):
            return  # the system's own, or there, so that it need not be granted
        self._note("write" if is_write else "read", seen)

    def _host(self, host: Any, port: Any) -> None:
        if isinstance(host, bytes):
            host = host.decode("ascii", "replace")
        if not isinstance(host, str) or not host or host.lower().startswith(_LOOPBACK):
            return
        number = port if isinstance(port, int) else {"https": 443, "http": 80}.get(str(port), port)
        name = host.lower().rstrip(".")
        self._note("connect", f"[{name}]:{number}" if ":" in name else f"{name}:{number}")

    def _missed(self, name: str) -> None:
        frame = sys._getframe(2)  # noqa: SLF001 - whose code asks is what matters
        for _ in range(4):  # os.getenv, Mapping.get, ...
            if frame.f_code.co_filename.startswith(self._own):
                self._note("variable", name)
                return
            if frame.f_back is None:
                return
            frame = frame.f_back

    def _note(self, kind: str, name: str) -> None:
        if len(name) > _LONGEST:
            return
        with self._lock:
            if (kind, name) not in self._known:
                if len(self._known) >= _KNOWN:
                    return
                self._known.add((kind, name))
            self._pending[kind, name] = self._pending.get((kind, name), 0) + 1

    # -- what is looked at -------------------------------------------------------------------------------------------

    def _look(self) -> None:
        wait = threading.Event()
        while not self._is_off:
            try:
                self.flush()
            except Exception:  # noqa: BLE001 - the host is gone, and with it whoever listens
                return
            wait.wait(_LOOK_S)

    def _measure(self) -> None:
        figures = {
            "tmp": _used("/tmp"),  # noqa: S108 - the sandbox's own
            "scratch": _used(self._app),
            "nofile": _open_files(),
        }
        with self._lock:
            for kind, figure in figures.items():
                if figure > self._most.get(kind, 0):
                    self._most[kind] = figure
                    self._pending[kind, ""] = figure

    def _forget(self) -> None:
        """In a process that a pack forked: there is nobody to tell."""
        self._is_off = True
        self._lock = threading.RLock()


def _used(directory: str) -> int:
    try:
        status = os.statvfs(directory)
    except OSError:
        return 0
    return (status.f_blocks - status.f_bfree) * status.f_frsize


def _open_files() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are enough
    except OSError:
        return 0


def _watch_variables(missed: Callable[[str], None]) -> None:
    """``os.environ`` stays the object that it is; only a look in vain is heard."""
    usual: type[Mapping[str, str]] = type(os.environ)

    class Heard(usual):  # type: ignore[misc, valid-type]
        def __getitem__(self, key: str) -> str:
            try:
                return str(usual.__getitem__(self, key))
            except KeyError:
                if isinstance(key, str):
                    missed(key)
                raise

    Heard.__name__, Heard.__qualname__, Heard.__module__ = (
        usual.__name__,
        usual.__qualname__,
        usual.__module__,
    )
    os.environ.__class__ = Heard

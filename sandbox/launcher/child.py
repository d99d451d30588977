"""A launcher as a child process, for a host that is started by itself ('ringfence serve' without compose).

Both ends of the tie are in this module: a socket pair over which the host says once that the child may begin, and the
child that it is ready, or why it is not; its end tells the child that its host is gone, however that came.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import anyio.to_thread

from policies import RingfenceError, safe_text
from sandbox.errors import StartError

log = logging.getLogger(__name__)

TIE: Final = "RINGFENCE_LAUNCHER_TIE"
"""Names the descriptor of the child's end."""
_READY_S: Final = 60.0
_END_S: Final = 90.0
_WORD: Final = 16 * 1024
_GO: Final = b"go\n"


class BegunLauncher:
    """A launcher's process that imports what it needs, and does nothing before it is told to.

    A host that begins one before its own imports has it ready by the time that it needs it. Whatever may keep the host
    from starting (a port in use, another host of the same data) comes before the word.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Blocks for as long as starting a process takes."""
        self.tie, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                list(command),
                env={**environment, TIE: str(theirs.fileno())},
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                # Ctrl-C is for the host, which ends its sandboxes in order; the tie then ends the launcher.
                start_new_session=True,
            )
        self.is_told = False

    def go(self) -> Any:
        """Tell it to begin; its first word, or None when it has none. Blocking, for a bounded time."""
        self.is_told = True
        self.tie.settimeout(_READY_S)
        try:
            self.tie.sendall(_GO)
        except OSError as error:
            log.warning("the launcher's process has ended before it was needed: %s", error)
        return _first_word(self.tie)

    def close(self) -> None:
        """Let go of it. One that was never told to begin has nothing to end in order. Blocking."""
        self.tie.close()
        if not self.is_told:
            self.process.kill()
        _wait(self.process)


@asynccontextmanager
async def child(begun: BegunLauncher) -> AsyncIterator[None]:
    """Have it begin, and wait until it is ready; it ends when the body does, or this process.

    Raises:
        StartError: it did not start; its own reason.
    """
    try:
        word = await anyio.to_thread.run_sync(begun.go, abandon_on_cancel=True)
        if word != {"ready": True}:
            raise _failed(word)
        yield
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(begun.close)


def _first_word(ours: socket.socket) -> Any:
    said = b""
    try:
        while not said.endswith(b"\n") and len(said) < _WORD:
            piece = ours.recv(_WORD)
            if not piece:
                break
            said += piece
        return json.loads(said)
    except (OSError, ValueError):
        return None


def _failed(word: Any) -> StartError:
    match word:
        case {"error": str(text), "hint": str(hint)}:
            return StartError(safe_text(text, 2_000), safe_text(hint, 500))
        case _:
            return StartError("the launcher's process did not start", "what it said stands above")


def _wait(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        log.error("the launcher did not end within %.0f s and is killed", _END_S)  # noqa: TRY400
        process.kill()
        process.wait()


class Tie:
    """The child's end; one without a host says nothing and is never cut."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        given = environment.get(TIE)
        self._socket = socket.socket(fileno=int(given)) if given else None
        if self._socket is not None:
            os.set_inheritable(self._socket.fileno(), False)
            self._socket.setblocking(False)

    async def told(self) -> bool:
        """Wait for the host's word to begin; False when the host is gone before it. Without a host: at once."""
        said = b""
        while self._socket is not None and said != _GO:
            await anyio.wait_readable(self._socket)
            try:
                piece = self._socket.recv(len(_GO) - len(said))
            except BlockingIOError:
                continue
            except OSError:
                return False
            if not piece:
                return False
            said += piece
        return True

    def close(self) -> None:
        """Let go of it."""
        if self._socket is not None:
            self._socket.close()

    def ready(self) -> None:
        """Say that the launcher listens."""
        self._say({"ready": True})

    def failed(self, error: RingfenceError) -> None:
        """Say why it does not."""
        self._say({"error": error.message, "hint": error.hint})

    async def cut(self) -> None:
        """Wait until the host is gone."""
        if self._socket is None:
            await anyio.sleep_forever()
            return
        while True:
            await anyio.wait_readable(self._socket)
            try:
                if not self._socket.recv(64):
                    return
            except BlockingIOError:
                continue
            except OSError:
                return

    def _say(self, word: Mapping[str, Any]) -> None:
        if self._socket is not None:
            try:
                self._socket.sendall(json.dumps(word).encode() + b"\n")
            except OSError as error:
                log.warning("the host that started this launcher is gone: %s", error)

"""Asking a launcher who it is, without being its host: for ``ringfence doctor``, which takes nothing over.

Blocking and short: one connection, one question, one answer; both ends are known to each other by the kernel's word.
"""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from policies import RingfenceError
from runtime import wire
from sandbox.errors import StartError
from sandbox.hostile_json import parse
from sandbox.launcher import channel

_ANSWER_S: Final = 5.0
_CREDENTIALS: Final = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class LauncherFacts:
    """What a launcher says of itself, and the kernel of it."""

    pid: int
    uid: int
    about: channel.Told


def ask_launcher(path: Path, *, launcher_uid: int | None = None) -> LauncherFacts:
    """Who listens at ``path``.

    Raises:
        StartError: nobody, somebody of another uid than ``launcher_uid`` (ours), or one that does not know the
            question.
    """
    wanted = os.geteuid() if launcher_uid is None else launcher_uid
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(_ANSWER_S)
        try:
            asking.connect(str(path))
            raw = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            pid, uid, _ = _CREDENTIALS.unpack(raw)
            if uid != wanted:
                raise StartError(
                    f"uid {uid} listens at {path}, where only uid {wanted} may",
                    "somebody else has put a socket there: look at who",
                )
            asking.sendall(wire.encode_frame({"verb": "about"}, limit=channel.MAX_REQUEST))
            tree = parse(_frame(asking))
        except TimeoutError:
            raise StartError(f"the launcher at {path} did not answer within {_ANSWER_S:g} s") from None
        except OSError as error:
            raise StartError(f"no launcher answers at {path}: {error.strerror or error}") from None
        except (wire.FrameError, RingfenceError) as error:
            if isinstance(error, StartError):
                raise
            raise StartError(f"the launcher at {path} answers in no known way: {error}") from None
    return LauncherFacts(pid, uid, channel.answer(_result(tree), channel.Told))


def _frame(asking: socket.socket) -> bytes:
    length = wire.frame_length(_exactly(asking, wire.HEADER.size), limit=channel.MAX_ANSWER)
    return _exactly(asking, length)


def _exactly(asking: socket.socket, count: int) -> bytes:
    found = bytearray()
    while len(found) < count:
        piece = asking.recv(count - len(found))
        if not piece:
            raise StartError(
                "the launcher hung up before it answered", "it serves the host's uid only; see its log"
            )
        found += piece
    return bytes(found)


def _result(tree: Any) -> Any:
    match tree:
        case {"result": result}:
            return result
        case {"error": error}:
            raise channel.answer(error, channel.Refusal).error()
        case _:
            raise StartError("the launcher sent something that is no answer", "are both of one version?")

"""What each attack shares: a name in the table, a child process of its own, and the words for what happened.

Runs inside a container, on Python and its standard library alone. An attack returns what it gained, in a few words, or
nothing when a wall held. Every one is bounded, and touches nothing but what the test made for it.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import select
import signal
from collections.abc import Callable
from typing import Any

Attack = Callable[[], str]
ATTACKS: dict[str, Attack] = {}
#: What the test says about itself: where its sentinels are.
TOLD: dict[str, Any] = {}
DEADLINE_S = 20
#: The answers of a kernel, or of a filter before it, that does not do such a thing for us.
WALLS = {"EPERM", "ENOSYS", "EACCES"}

libc = ctypes.CDLL(None, use_errno=True)


def attack(name: str) -> Callable[[Attack], Attack]:
    """Put an attack on the list."""

    def listed(function: Attack) -> Attack:
        if name in ATTACKS:
            raise ValueError(name)
        ATTACKS[name] = function
        return function

    return listed


def call(number: int, *arguments: Any) -> tuple[int, str]:
    """A system call past the C library: its result, and the name of its error."""
    given = [ctypes.c_long(item) if isinstance(item, int) else item for item in arguments]
    ctypes.set_errno(0)
    libc.syscall.restype = ctypes.c_long
    result = int(libc.syscall(ctypes.c_long(number), *given))
    return result, "" if result >= 0 else errno.errorcode.get(ctypes.get_errno(), "?")


def gained(number: int, *arguments: Any) -> str:
    """What a call gives when it must succeed to be worth anything."""
    result, error = call(number, *arguments)
    return "" if error else f"it returned {result}"


def reached(number: int, *arguments: Any) -> str:
    """For a call that is given nonsense, so that nothing happens: whether the kernel got as far as looking at it."""
    result, error = call(number, *arguments)
    return "" if error in WALLS else f"the kernel answered {error or result}"


def opened(path: str, flags: int = os.O_RDONLY) -> str:
    """Whether a file can be opened; nothing is read or written."""
    try:
        os.close(os.open(path, flags | os.O_CLOEXEC))
    except OSError as error:
        # A program that runs cannot be written to, wherever it lies: then nothing else kept us from it.
        return "only because it runs" if error.errno == errno.ETXTBSY else ""
    return f"{path} is open"


def run(names: list[str]) -> None:
    """Each attack in a child: what one breaks is not the next one's."""
    for name in names:
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.close(reader)
            try:
                said = ATTACKS[name]()
            except BaseException as error:
                said = ""
                held = f"{type(error).__name__}: {error}"
            else:
                held = "a wall held"
            os.write(writer, json.dumps({"won": said[:300], "held": held[:300]}).encode())
            os._exit(0)
        os.close(writer)
        ready, _, _ = select.select([reader], [], [], DEADLINE_S)
        said_ = os.read(reader, 4096) if ready else b""
        os.close(reader)
        try:
            os.kill(child, signal.SIGKILL)
        except OSError:
            pass
        _, status = os.waitpid(child, 0)
        found = json.loads(said_) if said_ else {"won": "", "held": f"it ended with status {status}"}
        with open(
            "/ringfence/out/report", "a"
        ) as report:  # a file that was there before us, as a sandbox's are
            report.write(json.dumps({"attack": name, **found}) + "\n")

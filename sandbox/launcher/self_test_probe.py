"""Runs inside a probe container of the self-test, as ``python -I -c``: tries each wall and says what happened.

Standard library only, one JSON object a line on stdout. It reports facts; what they mean is decided outside, in
``self_test.py``. The last thing it tries is meant to kill it.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import socket
import sys
import time
from pathlib import Path

MIB = 1024 * 1024
WANTED = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)


def say(**facts: object) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def refusal(number: int, *arguments: int) -> str:
    """The name of the error that a system call ends with, or nothing."""
    if libc.syscall(number, *arguments) >= 0:
        return ""
    return errno.errorcode.get(ctypes.get_errno(), "?")


def refused_open(path: str) -> str:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "?")
    return ""


def open_files() -> int:
    kept: list[int] = []
    try:
        while len(kept) <= 2 * WANTED["nofile"]:
            kept.append(os.dup(0))
    except OSError:
        return len(kept)
    finally:
        for fd in kept:
            os.close(fd)
    return -1


def written_to_tmp() -> int:
    count = 0
    try:
        with Path("/tmp/filled").open("wb", buffering=0) as file:  # noqa: S108
            while count < 4 * WANTED["tmp"]:
                count += file.write(bytes(MIB))
    except OSError:
        return count
    finally:
        Path("/tmp/filled").unlink()  # noqa: S108
    return -1


def inet_socket() -> str:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "?")
    return ""


def forked(most: int) -> int:
    """How many children there could be, or -1 if there was no end to it."""
    children: list[int] = []
    try:
        while len(children) < most:
            child = os.fork()
            if not child:
                time.sleep(60)
                os._exit(0)
            children.append(child)
    except OSError:
        return len(children)
    finally:
        for child in children:
            os.kill(child, 9)
        for child in children:
            os.waitpid(child, 0)
    return -1


def walls() -> None:
    status = dict(line.split(":", 1) for line in lines("/proc/self/status") if ":" in line)
    root = [line.split() for line in lines("/proc/self/mounts") if line.split()[1] == "/"]
    say(
        fact="walls",
        uid=os.getuid(),
        capabilities=int(status["CapEff"], 16) | int(status["CapPrm"], 16),
        no_new_privileges=libc.prctl(39, 0, 0, 0, 0),
        seccomp=int(status["Seccomp"]),
        # io_uring_setup: refused by our list, and known to no gVisor kernel without a flag.
        io_uring=refusal(425, 1, 0),
        unshare=refusal(272 if os.uname().machine == "x86_64" else 97, 0x10000000),
        inet=inet_socket(),
        interfaces=[line.split(":")[0].strip() for line in lines("/proc/net/dev") if ":" in line],
        root=root[-1][3].split(",") if root else [],
        written=refused_open("/opt/venv/probe"),
        kernel=os.uname().release,
        nofile=list(resource.getrlimit(resource.RLIMIT_NOFILE)),
        open_files=open_files(),
        tmp=written_to_tmp(),
    )


def fill_memory() -> None:
    say(fact="memory begins")
    kept: list[bytearray] = []
    while len(kept) * MIB < 2 * WANTED["memory"]:
        kept.append(bytearray(b"x") * MIB)
    say(fact="memory has no end", mib=len(kept))


if WANTED["part"] == "pids":
    say(fact="pids begins")
    say(fact="pids", forked=forked(4 * WANTED["pids"]))
else:
    walls()
    if WANTED["part"] == "all":
        say(fact="pids", forked=forked(4 * WANTED["pids"]))
    fill_memory()

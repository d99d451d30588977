"""Starts a worker: first the descriptors are taken into safety, then everything else.

``python -m ringfence_runtime [--transport socket|stdio] [--socket PATH] [--root DIR] [--egress PATH]``. ``--egress`` is
the host's proxy, where the policy allows a network. ``--root`` puts every place
of the sandbox below a directory; tests and the unconfined launcher use it.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys

from . import late_ssl, wire


def main(arguments: list[str]) -> None:
    """Secure the descriptors, then serve."""
    options = _options(arguments)
    _fill_standard_descriptors()
    late_ssl.import_asyncio()
    if options["--egress"]:
        from . import egress

        egress.start(options["--egress"])  # before there is a descriptor that the bridge must not have
    read_fd, write_fd = _secure_protocol(options["--transport"], options["--socket"])
    complaints = fcntl.fcntl(
        2, fcntl.F_DUPFD_CLOEXEC, 3
    )  # the container's own log, for this package's last words
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(null, 0, inheritable=True)
    os.close(null)
    from .stdio import Capture

    capture = Capture()
    # From here on descriptors 0, 1 and 2 lead nowhere near the protocol.
    import faulthandler

    from .sdk import paths
    from .streams import FrameStream
    from .worker import Worker

    faulthandler.enable(complaints)
    paths.set_root(options["--root"])
    stream = FrameStream(read_fd, write_fd)
    os.register_at_fork(after_in_child=lambda: _disarm_child(read_fd, write_fd))
    Worker(stream, capture, lambda text: _complain(complaints, text)).run()


def _options(arguments: list[str]) -> dict[str, str]:
    options = {"--transport": "socket", "--socket": wire.SOCKET_PATH, "--root": "/", "--egress": ""}
    rest = list(arguments)
    while rest:
        name, _, value = rest.pop(0).partition("=")
        if name not in options or not (value or rest):
            sys.exit(f"ringfence worker: unknown or incomplete option {name!r}; known: {', '.join(options)}")
        options[name] = value or rest.pop(0)
    if options["--transport"] not in {"socket", "stdio"}:
        sys.exit(f"ringfence worker: transport {options['--transport']!r} is neither socket nor stdio")
    return options


def _fill_standard_descriptors() -> None:
    """Started with one of 0, 1, 2 closed, the next file opened would become it: fill the holes."""
    while (fd := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(fd)


def _secure_protocol(transport: str, path: str) -> tuple[int, int]:
    """Return private descriptors of the protocol stream, closed on exec."""
    if transport == "stdio":
        read_fd = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3)
        write_fd = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 3)
        os.set_blocking(read_fd, True)
        os.set_blocking(write_fd, True)
        return read_fd, write_fd
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connection.connect(path)
    except OSError as error:
        sys.exit(f"ringfence worker: cannot reach the host at {path}: {error}")
    fd = connection.detach()
    return fd, fd


def _disarm_child(*descriptors: int) -> None:
    """In a process that a pack forked: no way to the host, so that it cannot garble the stream or hold it open."""
    from .sdk import host

    host.connect(None)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in descriptors:
        os.dup2(null, fd, inheritable=False)
    os.close(null)


def _complain(fd: int, text: str) -> None:
    try:
        os.write(fd, f"ringfence worker: {text}\n".encode())
    except OSError:
        pass


if __name__ == "__main__":
    main(sys.argv[1:])

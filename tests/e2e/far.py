"""The internet of the whole stack's tests: the operator's own proxy, behind which one TLS server answers everything.

The stack is told of it by ``RINGFENCE_EGRESS_PROXY``, as an operator would; what it lets through lands here.
"""

from __future__ import annotations

import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

from tests.unit.egress.kit import internet

ADDRESS = "93.184.216.34"
"""Public, so that it may be reached; nothing is ever sent there."""


@dataclass
class Far:
    """What the proxy was asked for, and what reached the server behind it."""

    connected: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


class _Handler(socketserver.StreamRequestHandler):
    timeout = 30

    def handle(self) -> None:
        server = cast("_Server", self.server)
        line = self.rfile.readline(4096).decode("latin-1")
        while self.rfile.readline(4096).strip():
            pass
        server.far.connected.append(line.split()[1])
        self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            with server.context.wrap_socket(self.connection, server_side=True) as tls:
                asked = tls.recv(65536).decode("latin-1").partition("\r\n")[0]
                server.far.requests.append(asked)
                text = f"it said: {asked}".encode()
                tls.sendall(
                    b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(text) + text
                )
        except OSError:
            pass  # the other side was first


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    far: Far
    context: ssl.SSLContext


@contextmanager
def far_away(address: str, port: int) -> Iterator[Far]:
    """Serve until the end."""
    with _Server((address, port), _Handler) as server:
        server.far = Far()
        server.context = internet((ADDRESS,)).contexts[ADDRESS]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.far
        finally:
            server.shutdown()
            thread.join()

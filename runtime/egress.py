"""The bridge from the sandbox's own loopback to the host's proxy: bytes in, bytes out, nothing understood.

A process of its own, forked before the worker has any thread or secret descriptor: a node that holds the interpreter
for minutes must not stall a download, and a pack that attacks the bridge gains the socket it could open anyway.
Standard library only.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from typing import Final

from . import wire

_CONNECTIONS: Final = 64
_PIECE: Final = 64 * 1024
_BACKLOG: Final = 64


def start(path: str) -> int:
    """Begin to listen and fork; the bridge's process id. Returns in the worker only."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # Bound here, so that it listens before any code of a pack runs, whenever the bridge gets its turn.
        listener.bind(("127.0.0.1", wire.EGRESS_PORT))
        listener.listen(_BACKLOG)
        child = os.fork()
        if child == 0:
            _be_the_bridge(listener, path)
    finally:
        listener.close()
    return child


def _be_the_bridge(listener: socket.socket, path: str) -> None:
    status = 1
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1):  # with the transport stdio these are the protocol; 2 stays, for last words
            os.dup2(null, fd)
        os.close(null)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        asyncio.run(_serve(listener, path))
        status = 0
    except BaseException as error:  # noqa: BLE001 - it must not return into the worker's code
        os.write(2, f"ringfence bridge: {type(error).__name__}: {error}\n".encode(errors="backslashreplace"))
    finally:
        os._exit(status)


async def _serve(listener: socket.socket, path: str) -> None:
    listener.setblocking(False)
    loop = asyncio.get_running_loop()
    room = asyncio.Semaphore(_CONNECTIONS)
    running: set[asyncio.Task[None]] = set()
    while True:
        await room.acquire()  # what is over waits in the listener's queue
        try:
            connection, _ = await loop.sock_accept(listener)
        except OSError as error:
            print(f"ringfence bridge: {error}", file=sys.stderr)  # noqa: T201 - the container's own log
            room.release()
            await asyncio.sleep(0.1)
            continue
        task = loop.create_task(_carry(connection, path))
        running.add(task)
        task.add_done_callback(running.discard)
        task.add_done_callback(lambda _: room.release())


async def _carry(connection: socket.socket, path: str) -> None:
    near_reader, near = await asyncio.open_connection(sock=connection, limit=_PIECE)
    far: asyncio.StreamWriter | None = None
    try:
        far_reader, far = await asyncio.open_unix_connection(path, limit=_PIECE)
        await asyncio.gather(_pump(near_reader, far), _pump(far_reader, near))
    except OSError:
        pass  # one side is gone, or the proxy is: whoever reads sees the end
    finally:
        for writer in (near, far):
            if writer is not None:
                writer.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_PIECE):
        writer.write(data)
        await writer.drain()
    await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()

"""The application behind a real server on a free port, in this event loop."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import SocketStream
from fastapi import FastAPI

from api.server import Server, server_config
from api.settings import Settings


@asynccontextmanager
async def serving(app: FastAPI, settings: Settings) -> AsyncIterator[str]:
    """Serve an application whose lifespan is the caller's; yields the URL."""
    config = server_config(app, settings)
    server = Server(config)
    # With the protocol named asyncio sends at once, as uvloop does anyway; else each answer waits 40 ms for an ACK.
    with socket.socket(proto=socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, [listener])
            with anyio.fail_after(60):
                while not server.started:  # noqa: ASYNC110 - uvicorn offers no event for it
                    await anyio.sleep(0.01)
            try:
                yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            finally:
                server.should_exit = True


async def connected(url: str) -> SocketStream:
    """A client that says what it likes to the server at ``url``."""
    return await anyio.connect_tcp("127.0.0.1", int(url.rpartition(":")[2]))


async def to_the_end(stream: SocketStream) -> bytes:
    """All that the server says until it hangs up."""
    said = bytearray()
    with anyio.fail_after(30):
        try:
            while True:
                said += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return bytes(said)

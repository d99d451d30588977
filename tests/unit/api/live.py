"""The application behind a real server on a free port, in this event loop."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
from anyio.abc import SocketStream
from fastapi import FastAPI
from uvicorn import Config

from api.server import Server, server_config
from api.settings import Settings


class _Prompt(Server):
    """Ends when it is told to; uvicorn looks every 100 ms, and waits as long for connections that are none."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.told_to_exit = anyio.Event()

    async def main_loop(self) -> None:
        await self.on_tick(0)  # headers that every answer has
        await self.told_to_exit.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for _ in range(5):  # whoever hung up is gone then
            await anyio.lowlevel.checkpoint()
        if self.server_state.connections:
            await super().shutdown(sockets)
        for each in (*self.servers, *(sockets or ())):
            each.close()


@asynccontextmanager
async def serving(app: FastAPI, settings: Settings) -> AsyncIterator[str]:
    """Serve an application whose lifespan is the caller's; yields the URL."""
    config = server_config(app, settings)
    server = _Prompt(config)
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
                server.told_to_exit.set()


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

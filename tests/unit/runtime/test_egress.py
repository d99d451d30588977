"""The bridge inside a sandbox: bytes both ways, half-closed connections, a proxy that is not there, many at once."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from runtime import egress

pytestmark = pytest.mark.anyio
Proxy = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def bridge(path: Path, proxy: Proxy | None) -> AsyncIterator[int]:
    server = await asyncio.start_unix_server(proxy, path) if proxy else None
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(64)
    port = listener.getsockname()[1]
    task = asyncio.get_running_loop().create_task(egress._serve(listener, str(path)))
    try:
        yield port
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        listener.close()
        if server is not None:
            server.close()
            await server.wait_closed()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    data = await reader.read()  # to the end: the client has closed its half
    writer.write(data[::-1])
    await writer.drain()
    writer.close()


async def ask(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    writer.write_eof()
    async with asyncio.timeout(60):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_bytes_go_both_ways_and_half_a_connection_can_be_closed(tmp_path: Path) -> None:
    data = bytes(range(256)) * 4000
    async with bridge(tmp_path / "p.sock", echo) as port:
        assert await ask(port, data) == data[::-1]


async def test_many_connections_at_once_all_get_their_answer(tmp_path: Path) -> None:
    async with bridge(tmp_path / "p.sock", echo) as port:
        answers = await asyncio.gather(*(ask(port, f"{n}!".encode()) for n in range(150)))
    assert answers == [f"{n}!".encode()[::-1] for n in range(150)]


async def test_without_a_proxy_a_connection_ends_at_once_and_the_bridge_lives_on(tmp_path: Path) -> None:
    async with bridge(tmp_path / "p.sock", None) as port:
        for _ in range(3):
            try:
                assert await ask(port, b"x") == b""
            except ConnectionError:
                pass


async def test_importing_it_needs_the_standard_library_only() -> None:
    program = (
        "import sys; import runtime.egress; files = [str(getattr(m, '__file__', '')) for m in sys.modules.values()]; "
        "print([name for name in files if 'site-packages' in name])"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-S", "-c", program, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert out == b"[]\n"

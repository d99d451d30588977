"""A server that does what no server of prompts could leave out, and nothing else: the floor of chains and prompts.

The same HTTP and WebSocket server as ours (uvicorn on uvloop), without a framework: a prompt is read and put on the
disk before it is answered, each node is one JSON echo over a Unix socket with a blocking Python, the client hears as
many frames of the same size as ours sends for such a prompt, and the end is on the disk before it is said. Nothing is
validated, no policy asked, no history kept that anybody could read.

    python -m benchmarks.bare_server PORT FOLDER
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sqlite3
import sys
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs

import orjson
import uvicorn
import uvloop

from benchmarks.floors import ECHO_PROCESS

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Echo(asyncio.Protocol):
    """A blocking process at the other end, one message at a time."""

    def __init__(self) -> None:
        self._buffer = b""
        self._answer: asyncio.Future[bytes] | None = None
        self._transport: asyncio.Transport | None = None
        self._turn = asyncio.Lock()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        size = 4 + int.from_bytes(self._buffer[:4], "big")
        if len(self._buffer) >= max(size, 5) and self._answer is not None:
            body, self._buffer = self._buffer[4:size], self._buffer[size:]
            self._answer.set_result(body)

    async def ask(self, number: int) -> None:
        async with self._turn:
            self._answer = asyncio.get_running_loop().create_future()
            body = orjson.dumps({"jsonrpc": "2.0", "id": number, "method": "x", "params": {"pad": "x" * 200}})
            assert self._transport is not None
            self._transport.write(len(body).to_bytes(4, "big") + body)
            orjson.loads(await self._answer)


Statement = tuple[str, tuple[Any, ...]]


class Disk:
    """SQLite as ours has it, in a thread of its own: what waits shares a commit."""

    def __init__(self, path: Path) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._database.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL")
        self._database.execute("CREATE TABLE queue (id INTEGER PRIMARY KEY, document BLOB)")
        self._database.execute("CREATE TABLE history (id INTEGER PRIMARY KEY, document BLOB)")
        self._waiting: list[tuple[Sequence[Statement], asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def write(self, *statements: Statement) -> None:
        """On the disk when this returns."""
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        self._waiting.append((statements, done))
        if self._writing is None:
            self._writing = loop.create_task(self._write())
        await done

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            taken, self._waiting = self._waiting, []
            all_of_them = [statement for statements, _ in taken for statement in statements]
            await loop.run_in_executor(self._thread, self._run, all_of_them)
            for _, done in taken:
                done.set_result(None)
        self._writing = None

    def _run(self, statements: Sequence[Statement]) -> None:
        self._database.execute("BEGIN")
        for text, values in statements:
            self._database.execute(text, values)
        self._database.execute("COMMIT")


class Bare:
    """The ASGI application."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ids = itertools.count(1)
        self._echo = Echo()
        self._listeners: dict[str, Send] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._plan: dict[str, Any] = {"frames": {}, "commits": True, "echoes": True}
        self._disk = Disk(folder / "bare.db")

    async def start(self) -> asyncio.subprocess.Process:
        """Have the process for the nodes."""
        path = str(self._folder / "echo")
        connected = asyncio.Event()

        def accept() -> Echo:
            connected.set()
            return self._echo

        self._door = await asyncio.get_running_loop().create_unix_server(accept, path)
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", ECHO_PROCESS, path)
        await asyncio.wait_for(connected.wait(), 60)
        return process

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._listen(scope, receive, send)
            return
        body = b""
        while True:
            part = await receive()
            body += part.get("body", b"")
            if not part.get("more_body"):
                break
        answer = await self._serve(scope["path"], body)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    async def _serve(self, path: str, body: bytes) -> bytes:
        if path == "/plan":
            self._plan = json.loads(body)
        if path != "/prompt":
            return b"{}"
        sent = orjson.loads(body)
        number = next(self._ids)
        if self._plan["commits"]:
            await self._disk.write(("INSERT INTO queue VALUES (?, ?)", (number, body)))
        task = asyncio.get_running_loop().create_task(self._run(number, sent, body))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return orjson.dumps({"prompt_id": str(number), "number": number, "node_errors": {}})

    async def _run(self, number: int, sent: dict[str, Any], body: bytes) -> None:
        nodes = len(sent["prompt"])
        frames, size = self._plan["frames"].get(str(nodes), (nodes, 200 * nodes))
        hear = self._listeners[sent["client_id"]]
        pad = "x" * max(0, size // max(1, frames) - 40)
        said = 0
        for position in range(nodes):
            if self._plan["echoes"]:
                await self._echo.ask(position)
            while said < (frames - 1) * (position + 1) // nodes:
                said += 1
                await hear({"type": "websocket.send", "text": f'{{"type": "progress", "data": "{pad}"}}'})
        if self._plan["commits"]:
            await self._disk.write(
                ("DELETE FROM queue WHERE id = ?", (number,)),
                ("INSERT INTO history VALUES (?, ?)", (number, body)),
            )
        end = {"type": "execution_success", "data": {"prompt_id": str(number)}}
        await hear({"type": "websocket.send", "text": json.dumps(end)})

    async def _listen(self, scope: Message, receive: Receive, send: Send) -> None:
        (client,) = parse_qs(scope["query_string"].decode())["clientId"]
        await receive()
        self._listeners[client] = send
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        del self._listeners[client]


async def _serve(port: int, folder: Path) -> None:
    app = Bare(folder)
    process = await app.start()
    try:
        config = uvicorn.Config(
            app, host="127.0.0.1", port=port, loop="none", http="h11", ws="websockets-sansio",
            ws_per_message_deflate=False, lifespan="off", log_level="error", access_log=False,
        )  # fmt: skip
        await uvicorn.Server(config).serve()
    finally:
        process.kill()
        await process.wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(int(sys.argv[1]), Path(sys.argv[2])))

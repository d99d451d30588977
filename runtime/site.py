"""The web site of a pack: its routes as a real aiohttp application, reached by requests that come over the session.

The application listens on a Unix socket in a private folder, and a client in this process speaks HTTP/1.1 with it, so
that handlers meet what they meet in ComfyUI. The host asks for one exchange at a time: ``http/request`` answers with
the head and what there is of the body, ``http/read`` with more of it, ``http/send`` hands on more of the request.
Everything here runs on the worker's loop; the host pulls, so nothing piles up.
"""

from __future__ import annotations

import asyncio
import base64
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from . import failures, plain, wire
from .peer import RpcError
from .sdk import registry
from .site_sockets import Sockets

_BODY_LIMIT = 1 << 30  # the host bounds what it sends; this only replaces aiohttp's megabyte
_WAITING_PIECES = 2
_NAME = "pack"


class _Exchange:
    """One request and its response."""

    def __init__(self) -> None:
        self.task: asyncio.Task[Any] | None = None
        self.pieces: asyncio.Queue[bytes | None] = asyncio.Queue(_WAITING_PIECES)
        self.response: Any = None
        self.is_over = asyncio.Event()
        """The handler has answered, or nobody wants it to."""

    async def body(self) -> AsyncIterator[bytes]:
        """What the host sends on of the request's body."""
        while (piece := await self.pieces.get()) is not None:
            yield piece

    async def put(self, piece: bytes | None) -> None:
        """Hand a piece to the handler; dropped once it has answered, for then nobody reads."""
        waits = [asyncio.ensure_future(self.pieces.put(piece)), asyncio.ensure_future(self.is_over.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def answer(self, response: Any) -> None:
        self.response = response
        self.is_over.set()

    def close(self) -> None:
        self.is_over.set()
        if self.response is not None:
            self.response.close()
        elif self.task is not None and self.task is not asyncio.current_task():
            self.task.cancel()


class _Application:
    """The aiohttp application of one extension, and the client that talks to it."""

    def __init__(self, handlers: list[registry.Handler]) -> None:
        self.handlers = handlers
        self._runner: Any = None
        self._socket_path = ""
        self._sockets = 0
        self._is_replaced = False
        self.client: Any = None

    async def start(self) -> None:
        from aiohttp import web

        own = registry.application
        application = web.Application(
            middlewares=[item for item in own.middlewares if callable(item)], client_max_size=_BODY_LIMIT
        )
        for key, value in own.state.items():
            application[key] = value
        for name in ("on_startup", "on_shutdown", "on_cleanup", "on_response_prepare"):
            getattr(application, name).extend(getattr(own, name))
        for handler in self.handlers:
            try:
                _register(application, handler)
            except Exception as error:  # noqa: BLE001 - one bad route must not take the others along
                failures.print_to_log(error, f"route {handler.method} {handler.path} is left out")
        self._runner = web.AppRunner(application, handle_signals=False, access_log=None)
        await self._runner.setup()
        import tempfile  # few packs have routes

        path = Path(tempfile.mkdtemp(prefix="ringfence-site-"), "s")
        self._socket_path = str(path)
        await web.UnixSite(self._runner, self._socket_path).start()
        self.client = self._connect()

    def _connect(self) -> Any:
        import aiohttp

        return aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(self._socket_path, limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=True,
        )

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """A client for one WebSocket: closing it drops the connection, and nobody else's."""
        self._sockets += 1
        try:
            async with self._connect() as client:
                yield client
        finally:
            self._sockets -= 1
            if self._is_replaced and not self._sockets:
                await self.stop()

    async def replace(self) -> None:
        """Another serves from now on; this one goes when its last WebSocket has."""
        self._is_replaced = True
        if not self._sockets:
            await self.stop()

    async def stop(self) -> None:
        if self.client is not None:
            await self.client.close()
        if self._runner is not None:
            await self._runner.cleanup()


def _register(application: Any, route: registry.Handler) -> None:
    if route.method == "STATIC":
        application.router.add_static(route.path, route.handler, **route.kwargs)
    elif route.method == "GET":
        application.router.add_get(route.path, route.handler, **route.kwargs)
    else:
        application.router.add_route(route.method, route.path, route.handler, **route.kwargs)


class Site:
    """Serves the routes of every extension in this worker."""

    def __init__(self) -> None:
        self._applications: dict[str, _Application] = {}
        self._exchanges: dict[int, _Exchange] = {}
        self._starting: asyncio.Lock | None = None
        self.sockets = Sockets(self._application)

    async def request(self, params: dict[str, Any]) -> dict[str, Any]:
        """Answer ``http/request``: run the route's handler up to the head of its response.

        Raises:
            RpcError: aiohttp is not there, or the handler hung up without a response (NODE_RAISED).
        """
        number = params["exchange"]
        exchange = self._exchanges[number] = _Exchange()
        exchange.task = asyncio.current_task()
        try:
            application = await self._application(str(params["name"]))
            response = await self._ask(application.client, params, exchange)
        except BaseException:
            self._forget(number)
            raise
        exchange.answer(response)
        try:
            headers = _headers(response)
            piece = await self._piece(number, exchange, params["limit"])
        except BaseException:
            self._forget(number)
            raise
        return {"status": response.status, "headers": headers, **piece}

    async def send(self, params: dict[str, Any]) -> dict[str, Any]:
        """Answer ``http/send`` once there is room for the piece, or nobody wants it any more."""
        exchange = self._exchanges.get(params["exchange"])
        if exchange is not None:
            piece = base64.b64decode(params["data"])
            if piece:
                await exchange.put(piece)
            if not params["more"]:
                await exchange.put(None)
        return {}

    async def read(self, params: dict[str, Any]) -> dict[str, Any]:
        """Answer ``http/read``: the next piece of the response, as soon as there is one.

        Raises:
            RpcError: there is no such exchange, or the handler broke off (NODE_RAISED).
        """
        number = params["exchange"]
        exchange = self._exchanges.get(number)
        if exchange is None or exchange.response is None:
            raise RpcError(wire.NODE_RAISED, "the route's answer is over")
        try:
            return await self._piece(number, exchange, params["limit"])
        except BaseException:
            self._forget(number)
            raise

    async def close(self, params: dict[str, Any]) -> None:
        """Take note of ``http/close``: nobody wants the rest."""
        self._forget(params.get("exchange"))

    def _forget(self, number: Any) -> None:
        exchange = self._exchanges.pop(number, None)
        if exchange is not None:
            exchange.close()

    async def _application(self, name: str) -> _Application:
        """The extension's application, made on its first request, and anew when routes have come since."""
        if self._starting is None:
            self._starting = asyncio.Lock()
        async with self._starting:
            handlers = registry.handlers_of(name)
            known = self._applications.get(name)
            if known is not None and len(known.handlers) == len(handlers):
                return known
            made = _Application(handlers)
            try:
                await made.start()
            except BaseException:
                await made.stop()
                raise
            self._applications[name] = made
            if known is not None:
                await known.replace()
            return made

    @staticmethod
    async def _ask(client: Any, params: dict[str, Any], exchange: _Exchange) -> Any:
        from yarl import URL

        data: Any = base64.b64decode(params["data"])
        if params["more"]:
            if data:
                exchange.pieces.put_nowait(data)
            data = exchange.body()
        return await client.request(
            params["method"],
            URL(f"http://{_NAME}{params['target']}", encoded=True),
            headers=[(name, value) for name, value in params["headers"]],
            data=data or None,
            allow_redirects=False,
            skip_auto_headers=("User-Agent", "Accept", "Content-Type"),
        )

    async def _piece(self, number: int, exchange: _Exchange, limit: int) -> dict[str, Any]:
        content = exchange.response.content
        data = await content.read(limit)
        more = not content.at_eof()
        if not data and more:
            more = False  # read returns nothing at the end only
        if not more:
            self._forget(number)
        return {"data": base64.b64encode(data).decode("ascii"), "more": more}


def _headers(response: Any) -> list[list[str]]:
    """The response's headers, as many as the host reads; the log says when some are left out."""
    kept: list[list[str]] = []
    room = wire.HTTP_HEADER_CHARACTERS
    for name, value in response.headers.items():
        pair = [plain.clean(str(name)), plain.clean(str(value))]
        room -= len(pair[0]) + len(pair[1])
        if room < 0 or len(kept) == wire.HTTP_HEADERS:
            print("headers of a route's response were left out: they are too long", file=sys.stderr)  # noqa: T201
            break
        kept.append(pair)
    return kept

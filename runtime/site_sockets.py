"""WebSockets of a pack's routes, whose handlers meet a real aiohttp request over the site's own Unix socket.

The near end of each is a client in this process. ``socket/open`` answers once the handler has accepted (or has not),
``socket/send`` once the handler's side has room for the message, ``socket/receive`` with what the handler sends next
or with the end. The host pulls, so a handler that sends faster than the client reads waits in its own ``send``.
Everything here runs on the worker's loop.
"""

from __future__ import annotations

import asyncio
import base64
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from . import failures, plain, wire

_NAME = "pack"
_CLOSE_S = 5.0
"""How long a handler has to answer a close frame before the connection is dropped."""
_BROKEN_OFF = 1006


class _Application(Protocol):
    """What answers the routes of one extension."""

    def connection(self) -> AbstractAsyncContextManager[Any]: ...


class _Socket:
    """One open WebSocket."""

    def __init__(self, near: Any) -> None:
        self.near = near
        """The near end, an ``aiohttp.ClientWebSocketResponse``."""
        self.over = asyncio.Event()
        """Nobody wants it any more: let the connection go."""
        self._to_pack = bytearray()
        self._kind = ""
        self._from_pack = b""
        self._sent = 0

    async def send(self, params: dict[str, Any]) -> None:
        """Take a piece of a message; the last one sends it, and returns when there is room for another."""
        self._to_pack += base64.b64decode(params["data"])
        if params["more"]:
            return
        whole, self._to_pack = bytes(self._to_pack), bytearray()
        try:
            if params["kind"] == "text":
                await self.near.send_str(whole.decode("utf-8"))
            else:
                await self.near.send_bytes(whole)
        except (ConnectionError, RuntimeError):
            pass  # the handler has closed; what it said last is still to be received

    async def receive(self, limit: int) -> dict[str, Any]:
        """The next piece of what the handler sends, or how it ended."""
        if not self._kind:
            message = await self.near.receive()
            kind = message.type.name
            if kind not in ("TEXT", "BINARY"):
                return self._end(message, kind)
            self._kind = kind.lower()
            data = message.data
            self._from_pack = data.encode("utf-8") if isinstance(data, str) else bytes(data)
            self._sent = 0
        piece = self._from_pack[self._sent : self._sent + limit]
        self._sent += len(piece)
        answer = {
            "kind": self._kind,
            "size": len(self._from_pack),
            "data": base64.b64encode(piece).decode("ascii"),
            "more": self._sent < len(self._from_pack),
        }
        if not answer["more"]:
            self._kind, self._from_pack = "", b""
        return answer

    def _end(self, message: Any, kind: str) -> dict[str, Any]:
        code = self.near.close_code
        reason = message.extra if kind == "CLOSE" and isinstance(message.extra, str) else ""
        if kind == "ERROR":
            reason = str(message.data)
            print(f"a WebSocket of a route was closed: {reason}", file=sys.stderr)  # noqa: T201 - the pack's own log
        return _closed(code if isinstance(code, int) and kind != "CLOSED" else _BROKEN_OFF, reason)


class Sockets:
    """The WebSockets of every extension in this worker, by the host's numbers."""

    def __init__(self, application_of: Callable[[str], Awaitable[_Application]]) -> None:
        self._application_of = application_of
        self._open: dict[Any, _Socket] = {}
        self._opening: dict[Any, asyncio.Task[Any] | None] = {}
        self._lives: set[asyncio.Task[None]] = set()

    async def open(self, params: dict[str, Any]) -> dict[str, Any]:
        """Answer ``socket/open``: 101 and the subprotocol, or the status with which the route refused."""
        number = params["socket"]
        self._opening[number] = asyncio.current_task()
        try:
            application = await self._application_of(str(params["name"]))
            answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
            life = asyncio.ensure_future(self._live(application, params, answer))
            self._lives.add(life)
            life.add_done_callback(self._lives.discard)
            try:
                return await answer
            except BaseException:
                life.cancel()
                raise
        finally:
            del self._opening[number]

    async def send(self, params: dict[str, Any]) -> dict[str, Any]:
        """Answer ``socket/send`` once there is room for the piece, or nobody wants it any more."""
        socket = self._open.get(params["socket"])
        if socket is not None:
            await socket.send(params)
        return {}

    async def receive(self, params: dict[str, Any]) -> dict[str, Any]:
        """Answer ``socket/receive`` as soon as the handler has sent something or is over."""
        socket = self._open.get(params["socket"])
        if socket is None:
            return _closed(_BROKEN_OFF, "")
        answer = await socket.receive(params["limit"])
        if answer["kind"] == "close":
            self._open.pop(params["socket"], None)
            socket.over.set()
        return answer

    async def close(self, params: dict[str, Any]) -> None:
        """Take note of ``socket/close``: with a code, say it to the handler; without, hang up on it."""
        number = params.get("socket")
        opening = self._opening.get(number)
        if opening is not None:
            opening.cancel()
        socket = self._open.pop(number, None)
        if socket is None:
            return
        try:
            code = params.get("code")
            if isinstance(code, int):
                await socket.near.close(code=code, message=str(params.get("reason", "")).encode("utf-8"))
        finally:
            socket.over.set()

    async def _live(
        self, application: _Application, params: dict[str, Any], answer: asyncio.Future[dict[str, Any]]
    ) -> None:
        """Hold the connection of one WebSocket from its opening to its end."""
        number = params["socket"]
        try:
            async with application.connection() as client:
                near, answered = await _connect(client, params)
                if near is None:
                    answer.set_result(answered)
                    return
                socket = self._open[number] = _Socket(near)
                answer.set_result(answered)
                await socket.over.wait()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this WebSocket's trouble alone
            if answer.done():
                failures.print_to_log(error, "a WebSocket of a route did not end well")
            else:
                answer.set_exception(error)
        finally:
            self._open.pop(number, None)


async def _connect(client: Any, params: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The near end and the answer; no near end where the route refused."""
    import aiohttp
    from yarl import URL

    try:
        near = await client.ws_connect(
            URL(f"http://{_NAME}{params['target']}", encoded=True),
            headers=[(name, value) for name, value in params["headers"]],
            protocols=params["protocols"],
            timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_S),
            max_msg_size=wire.SOCKET_FROM_PACK + 1,
        )
    except aiohttp.WSServerHandshakeError as refusal:
        return None, {"status": refusal.status, "protocol": None}
    return near, {"status": 101, "protocol": near.protocol}


def _closed(code: int, reason: str) -> dict[str, Any]:
    shown = plain.clean(reason).encode("utf-8")[: wire.SOCKET_REASON].decode("utf-8", "ignore")
    return {"kind": "close", "code": code, "reason": shown}

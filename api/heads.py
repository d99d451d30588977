"""``HEAD`` on whatever answers ``GET``: the same status and headers, and no body, as ComfyUI's server does it.

A route that has a ``HEAD`` of its own keeps it.
"""

from __future__ import annotations

from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Heads:
    """ASGI middleware, inside the guard."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Ask for what GET answers and send its head only."""
        if scope["type"] != "http" or scope["method"] != "HEAD" or _is_routed(scope):
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                # Ended here: a stream without an end must not keep a HEAD open.
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        # A copy: the server itself still has to know that the body is left out on purpose.
        await self._app({**scope, "method": "GET"}, receive, send_head)


def _is_routed(scope: Scope) -> bool:
    return any(route.matches(scope)[0] is Match.FULL for route in scope["app"].routes)

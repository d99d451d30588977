"""Routes that take a request and nothing else, and their way past the framework's layers: what clients ask most often.

FastAPI looks for the route, keeps exit stacks and works out dependencies, which takes longer than such a route itself.
Here the guard stands in front of a table. The route that answers is the one that FastAPI would choose; what is not in
the table goes FastAPI's way, and so does every path with a method that the table does not have.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from fastapi import FastAPI, Request
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.errors import known_answer
from api.exchange import Answer, Body
from api.guard import Guard
from api.routes import history, prompt
from sandbox import FastPath, takes

Endpoint = Callable[..., Awaitable[Response]]

PLAIN: Final[tuple[Endpoint, ...]] = (
    prompt.post_prompt,
    prompt.get_prompt,
    prompt.get_queue,
    prompt.post_queue,
    prompt.post_interrupt,
    history.get_history_entry,
)
"""Each is given the request, and the last part of its path where that is a parameter."""


class PlainRoutes:
    """The plain routes of one application."""

    def __init__(self, app: FastAPI) -> None:
        self._whole: dict[tuple[str, str], APIRoute] = {}
        self._with_last_part: dict[tuple[str, str], APIRoute] = {}
        for context in iter_route_contexts(app.router.routes):
            path, route = context.path or "", context.original_route
            if not isinstance(route, APIRoute) or route.endpoint not in PLAIN:
                continue
            head, _, last = path.rpartition("/")
            table, key = (self._with_last_part, head) if last.startswith("{") else (self._whole, path)
            for method in context.methods or ():
                # The first one counts, as it does for FastAPI.
                table.setdefault((method, key), route)

    def has(self, scope: Scope) -> bool:
        """Whether one of them answers this request."""
        return self._find(scope["method"], scope["path"])[0] is not None

    def _find(self, method: str, path: str) -> tuple[APIRoute | None, str]:
        route = self._whole.get((method, path))
        if route is not None:
            return route, ""
        head, _, last = path.rpartition("/")
        return (self._with_last_part.get((method, head)) if last else None), last

    async def answer(self, scope: Scope, receive: Receive) -> Response:
        """What is answered to one request."""
        route, last = self._find(scope["method"], scope["path"])
        assert route is not None  # noqa: S101 - asked before
        scope["route"] = route
        request = Request(scope, receive)
        try:
            response: Response = await (route.endpoint(request, last) if last else route.endpoint(request))
        except Exception as error:
            answer = await known_answer(request, error)
            if answer is None:
                raise
            return answer
        return response


class _ShortGuard(Guard):
    """The guard, with the table behind it."""

    def __init__(self, app: FastAPI, plain: PlainRoutes) -> None:
        super().__init__(app)
        self._plain = plain

    async def _ask(self, scope: Scope, body: Body, answer: Answer) -> None:
        await answer.send_whole(scope, await self._plain.answer(scope, body.limited))


class Application(FastAPI):
    """FastAPI's, with a shorter way for the plain routes."""

    _plain: PlainRoutes | None = None
    _guarded: Guard | None = None

    def shorten(self) -> None:
        """To be said once all routes are there."""
        self._plain = PlainRoutes(self)
        self._guarded = _ShortGuard(self, self._plain)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection."""
        plain, guarded = self._plain, self._guarded
        if (
            plain is not None
            and guarded is not None
            and scope["type"] == "http"
            and plain.has(scope)
            and takes(FastPath.PLAIN_ROUTES)
        ):
            scope["app"] = self
            await guarded(scope, receive, send)
            return
        await super().__call__(scope, receive, send)

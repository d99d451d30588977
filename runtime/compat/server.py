"""``server``: what packs may ask of ComfyUI's web server. The server itself is the host's and is not here.

Real: messages to clients, and registering routes (they are noted and reported to the host). Everything else raises
``AttributeError`` with its name, so that ``getattr(PromptServer.instance, "prompt_queue", None)`` still works.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ..sdk import context, events, paths, progress, registry
from . import _previews
from ._standins import NotProvidedError
from .protocol import BinaryEventTypes

__all__ = ["BinaryEventTypes", "PromptServer"]

#: ``os.path.dirname(inspect.getfile(PromptServer))`` is how packs find ComfyUI's root.
__file__ = os.path.join(paths.app(), "server.py")


def __getattr__(name: str) -> Any:
    if name in ("web", "aiohttp"):
        import aiohttp
        from aiohttp import web

        return web if name == "web" else aiohttp
    raise AttributeError(f"module 'server' has no attribute {name!r} in Ringfence")


class RouteDef(NamedTuple):
    """One registered route."""

    method: str
    path: str
    handler: Any
    kwargs: dict[str, Any]


class RouteTable:
    """Stands for ``aiohttp.web.RouteTableDef``: its decorators register handlers."""

    def __init__(self) -> None:
        self._items: list[RouteDef] = []

    def add(self, method: str, path: str, handler: Any, kwargs: dict[str, Any]) -> None:
        self._items.append(RouteDef(method.upper(), path, handler, kwargs))
        registry.add_route(method, path)

    def route(self, method: str, path: str, **kwargs: Any) -> Callable[[Any], Any]:
        def register(handler: Any) -> Any:
            self.add(method, path, handler, kwargs)
            return handler

        return register

    def get(self, path: str, **kwargs: Any) -> Callable[[Any], Any]:
        return self.route("GET", path, **kwargs)

    def post(self, path: str, **kwargs: Any) -> Callable[[Any], Any]:
        return self.route("POST", path, **kwargs)

    def put(self, path: str, **kwargs: Any) -> Callable[[Any], Any]:
        return self.route("PUT", path, **kwargs)

    def patch(self, path: str, **kwargs: Any) -> Callable[[Any], Any]:
        return self.route("PATCH", path, **kwargs)

    def delete(self, path: str, **kwargs: Any) -> Callable[[Any], Any]:
        return self.route("DELETE", path, **kwargs)

    def head(self, path: str, **kwargs: Any) -> Callable[[Any], Any]:
        return self.route("HEAD", path, **kwargs)

    def options(self, path: str, **kwargs: Any) -> Callable[[Any], Any]:
        return self.route("OPTIONS", path, **kwargs)

    def view(self, path: str, **kwargs: Any) -> Callable[[Any], Any]:
        return self.route("*", path, **kwargs)

    def static(self, prefix: str, path: Any, **kwargs: Any) -> None:
        self.add("STATIC", prefix, str(path), kwargs)

    def __iter__(self) -> Iterator[RouteDef]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> RouteDef:
        return self._items[index]


class Router:
    """Stands for ``app.router``: registering is noted, nothing is resolved."""

    def __init__(self, routes: RouteTable) -> None:
        self._routes = routes

    def add_route(self, method: str, path: str, handler: Any, **kwargs: Any) -> None:
        self._routes.add(method, path, handler, kwargs)

    def add_static(self, prefix: str, path: Any, **kwargs: Any) -> None:
        self._routes.static(prefix, path, **kwargs)

    def add_routes(self, routes: Any) -> None:
        for route in routes:
            # aiohttp's own RouteDef and StaticDef, from packs that make their own tables
            path = getattr(route, "path", None)
            if hasattr(route, "prefix"):
                self._routes.static(route.prefix, path, **getattr(route, "kwargs", {}))
            else:
                self._routes.add(route.method, str(path), route.handler, getattr(route, "kwargs", {}))

    def add_get(self, path: str, handler: Any, **kwargs: Any) -> None:
        self.add_route("GET", path, handler, **kwargs)

    def add_post(self, path: str, handler: Any, **kwargs: Any) -> None:
        self.add_route("POST", path, handler, **kwargs)

    def add_put(self, path: str, handler: Any, **kwargs: Any) -> None:
        self.add_route("PUT", path, handler, **kwargs)

    def add_delete(self, path: str, handler: Any, **kwargs: Any) -> None:
        self.add_route("DELETE", path, handler, **kwargs)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"PromptServer.instance.app.router.{name} is not provided inside a sandbox")


class Application:
    """Stands for the ``aiohttp`` application. Middlewares and hooks may be added; they are never called."""

    def __init__(self, routes: RouteTable) -> None:
        self.router = Router(routes)
        self.add_routes = self.router.add_routes
        self.middlewares: list[Any] = []
        self.on_startup: list[Any] = []
        self.on_shutdown: list[Any] = []
        self.on_cleanup: list[Any] = []
        self.on_response_prepare: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"PromptServer.instance.app.{name} is not provided inside a sandbox")


class PromptServer:
    """``PromptServer.instance`` is there when a pack is imported."""

    instance: PromptServer

    def __init__(self) -> None:
        self.routes = RouteTable()
        self.app = Application(self.routes)
        #: Packs look here for what the host can do, and add words of their own.
        self.supports: list[str] = ["custom_nodes_from_web"]
        #: None: messages go to the client of the running prompt, which only the host knows.
        self.client_id: str | None = None
        self.sockets: dict[str, Any] = {}
        self.sockets_metadata: dict[str, Any] = {}
        #: Accepted and never called: prompts are taken in by the host.
        self.on_prompt_handlers: list[Any] = []
        self.number = 0
        self.address = "127.0.0.1"
        self.port = 8188
        self.web_root = os.path.join(paths.app(), "web")

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"PromptServer.instance.{name} is not provided inside a sandbox")

    @property
    def last_node_id(self) -> str | None:
        call = context.current() or context.latest()
        return None if call is None else call.node_id

    @property
    def last_prompt_id(self) -> str | None:
        call = context.current() or context.latest()
        return None if call is None else call.prompt_id

    def add_on_prompt_handler(self, handler: Any) -> None:
        """Noted and never called: a pack does not see other people's prompts."""
        self.on_prompt_handlers.append(handler)

    def send_sync(self, event: Any, data: Any, sid: str | None = None) -> None:
        """Send a message to the client ``sid``, or to those of the tenant. From any thread.

        Raises:
            NotProvidedError: a binary message of a kind that cannot be passed on.
        """
        if not isinstance(event, int):
            events.send(event, data, sid)
        elif event == BinaryEventTypes.TEXT and isinstance(data, (tuple, list)) and len(data) == 2:
            self.send_progress_text(data[1], data[0])
        elif event == BinaryEventTypes.UNENCODED_PREVIEW_IMAGE:
            self._send_preview(_previews.from_tuple(data))
        else:
            raise NotProvidedError(
                f"PromptServer.send_sync of binary message {event} is not provided inside a sandbox"
            )

    async def send(self, event: Any, data: Any, sid: str | None = None) -> None:
        self.send_sync(event, data, sid)

    async def send_json(self, event: str, data: Any, sid: str | None = None) -> None:
        self.send_sync(event, data, sid)

    def send_progress_text(self, text: Any, node_id: str, sid: str | None = None) -> None:
        """Show a line of text on a node."""
        del sid
        events.progress_text(
            text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text), str(node_id)
        )

    @staticmethod
    def _send_preview(preview: tuple[str, bytes] | None) -> None:
        from .comfy_execution.progress import get_progress_state

        call = context.current() or context.latest()
        known = get_progress_state().nodes.get(call.node_id) if call is not None else None
        value, maximum = (known["value"], known["max"]) if known else (0, 1)
        progress.report(value, maximum, preview=preview, legacy=False)


PromptServer.instance = PromptServer()

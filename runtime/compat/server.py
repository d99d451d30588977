"""``server``: what packs may ask of ComfyUI's web server. The server itself is the host's and is not here.

Real: messages to clients; routes and prompt handlers, which the host uses where the policy says ``routes: true``; node
replacements; the queue and the users, as far as they are this sandbox's own. Everything else raises
``AttributeError`` with its name, so that ``getattr(PromptServer.instance, "messages", None)`` still works.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from .. import failures
from ..sdk import context, events, host, paths, progress, registry
from . import _previews
from ._server_parts import NodeReplaceManager, PromptQueueView, UserManager
from ._standins import SERVER, NotProvidedError, names_only
from .protocol import BinaryEventTypes

__all__ = ["BinaryEventTypes", "PromptServer"]

#: ``os.path.dirname(inspect.getfile(PromptServer))`` is how packs find ComfyUI's root.
__file__ = os.path.join(paths.app(), "server.py")


_refused = names_only(
    __name__,
    [
        "cache_control",
        "compress_body",
        "create_cors_middleware",
        "create_origin_only_middleware",
        "get_remote_ip",
        "is_loopback",
        "send_socket_catch_exception",
    ],
    SERVER,
)


def __getattr__(name: str) -> Any:
    if name in ("web", "aiohttp"):
        import aiohttp
        from aiohttp import web

        return web if name == "web" else aiohttp
    return _refused(name)


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
        registry.add_route(method, path, handler, kwargs)

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

    frozen = False

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
    """Stands for the ``aiohttp`` application. What is hung on it is used for this sandbox's own routes."""

    frozen = False

    def __init__(self, routes: RouteTable) -> None:
        own = registry.application
        self.router = Router(routes)
        self.add_routes = self.router.add_routes
        self.middlewares = own.middlewares
        self.on_startup = own.on_startup
        self.on_shutdown = own.on_shutdown
        self.on_cleanup = own.on_cleanup
        self.on_response_prepare = own.on_response_prepare
        self._state = own.state

    def __getitem__(self, key: Any) -> Any:
        return self._state[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._state[key] = value

    def __contains__(self, key: object) -> bool:
        return key in self._state

    def get(self, key: Any, default: Any = None) -> Any:
        return self._state.get(key, default)

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
        self._client_id: str | None = None
        self.sockets: dict[str, Any] = {}
        self.sockets_metadata: dict[str, Any] = {}
        self.on_prompt_handlers: list[Any] = registry.prompt_handlers
        self.prompt_queue = PromptQueueView()
        self.user_manager = UserManager()
        self.node_replace_manager = NodeReplaceManager()
        self.number = 0
        self.address = "127.0.0.1"
        self.port = 8188
        self.web_root = os.path.join(paths.app(), "web")

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"PromptServer.instance.{name} is not provided inside a sandbox")

    @property
    def client_id(self) -> str | None:
        """Who queued the running prompt; None when nobody said so. A pack may put another in its place."""
        call = context.current() or context.latest()
        return self._client_id if call is None or call.client_id is None else call.client_id

    @client_id.setter
    def client_id(self, value: str | None) -> None:
        self._client_id = value

    @property
    def last_node_id(self) -> str | None:
        call = context.current() or context.latest()
        return None if call is None else call.node_id

    @property
    def last_prompt_id(self) -> str | None:
        call = context.current() or context.latest()
        return None if call is None else call.prompt_id

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that coroutine nodes and routes of this sandbox run on.

        Raises:
            AttributeError: outside of a worker there is none.
        """
        loop = host.event_loop()
        if loop is None:
            raise AttributeError("PromptServer.instance.loop is there in a worker only")
        return loop

    def add_on_prompt_handler(self, handler: Any) -> None:
        """Called with each prompt of the tenant before it is validated, where the policy says ``routes: true``."""
        self.on_prompt_handlers.append(handler)

    def trigger_on_prompt(self, json_data: Any) -> Any:
        """Pass a prompt through this sandbox's handlers; one that raises is logged and left out."""
        for handler in list(self.on_prompt_handlers):
            try:
                json_data = handler(json_data)
            except Exception as error:
                failures.print_to_log(error, "a prompt handler failed")
        return json_data

    def get_queue_info(self) -> dict[str, Any]:
        return {"exec_info": {"queue_remaining": self.prompt_queue.get_tasks_remaining()}}

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

"""Tables that packs read and patch directly; compat modules expose these very objects.

``nodes.NODE_CLASS_MAPPINGS is registry.node_classes``, and so on. The loader enters what a pack declares, and takes
what a pack put here by itself for declared.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..foreign import NodeClasses

node_classes = NodeClasses()
"""``nodes.NODE_CLASS_MAPPINGS``"""
display_names: dict[str, str] = {}
"""``nodes.NODE_DISPLAY_NAME_MAPPINGS``"""
web_directories: dict[str, str] = {}
"""``nodes.EXTENSION_WEB_DIRS``"""
module_directories: dict[str, str] = {}
"""``nodes.LOADED_MODULE_DIRS``"""


prompt_handlers: list[Any] = []
"""``PromptServer.instance.on_prompt_handlers``"""
node_replacements: list[dict[str, Any]] = []
"""What packs registered with ``node_replacement.register``: plain JSON, one entry for each pair of classes."""


class Route(NamedTuple):
    """An HTTP route that a pack asked for (``PromptServer.instance.routes``)."""

    method: str
    path: str


class Handler(NamedTuple):
    """What a pack registered for a route; ``method`` is "*" for any, "STATIC" for a folder."""

    method: str
    path: str
    handler: Any
    kwargs: dict[str, Any]
    owner: str | None
    """The extension that was being loaded; None for what is registered later."""


class Application:
    """What packs hung on ``PromptServer.instance.app`` besides routes."""

    def __init__(self) -> None:
        self.middlewares: list[Any] = []
        self.on_startup: list[Any] = []
        self.on_shutdown: list[Any] = []
        self.on_cleanup: list[Any] = []
        self.on_response_prepare: list[Any] = []
        self.state: dict[Any, Any] = {}


application = Application()
loading: str | None = None
"""The extension that is being loaded; the loader sets it."""
_handlers: list[Handler] = []
_routes: list[Route] = []


def add_route(method: str, path: str, handler: Any = None, kwargs: dict[str, Any] | None = None) -> None:
    """Note a route; ``server`` calls this for each registration."""
    route = Route(str(method).upper(), str(path))
    _routes.append(route)
    _handlers.append(Handler(route.method, route.path, handler, dict(kwargs or {}), loading))


def take_routes() -> list[Route]:
    """Return the routes noted since the last time (the loader asks once per extension)."""
    taken = list(_routes)
    _routes.clear()
    return taken


def handlers_of(extension: str) -> list[Handler]:
    """What answers the routes of an extension, in the order registered; what came later is everybody's."""
    return [item for item in _handlers if item.owner in (extension, None)]


def add_node_replacement(replacement: dict[str, Any]) -> None:
    """Note a replacement for a node class; the same pair of old and new class is noted once."""
    pair = (replacement.get("old_node_id"), replacement.get("new_node_id"))
    if all((known.get("old_node_id"), known.get("new_node_id")) != pair for known in node_replacements):
        node_replacements.append(replacement)

"""Tables that packs read and patch directly; compat modules expose these very objects.

``nodes.NODE_CLASS_MAPPINGS is registry.node_classes``, and so on. The loader enters what a pack declares, and takes
what a pack put here by itself for declared.
"""

from __future__ import annotations

from typing import Any, NamedTuple

node_classes: dict[str, Any] = {}
"""``nodes.NODE_CLASS_MAPPINGS``"""
display_names: dict[str, str] = {}
"""``nodes.NODE_DISPLAY_NAME_MAPPINGS``"""
web_directories: dict[str, str] = {}
"""``nodes.EXTENSION_WEB_DIRS``"""
module_directories: dict[str, str] = {}
"""``nodes.LOADED_MODULE_DIRS``"""


class Route(NamedTuple):
    """An HTTP route that a pack asked for (``PromptServer.instance.routes``)."""

    method: str
    path: str


_routes: list[Route] = []
_replacements: dict[tuple[str, str], dict[str, Any]] = {}


def add_replacement(declared: dict[str, Any]) -> None:
    """Note that a node of an old class is now one of a new class; the same pair a second time counts for nothing."""
    pair = (str(declared["old_node_id"]), str(declared["new_node_id"]))
    _replacements.setdefault(pair, declared)


def take_replacements() -> list[dict[str, Any]]:
    """Return the replacements noted since the last time (the loader asks once per extension)."""
    taken = list(_replacements.values())
    _replacements.clear()
    return taken


def add_route(method: str, path: str) -> None:
    """Note a route; ``server`` calls this for each registration."""
    _routes.append(Route(str(method).upper(), str(path)))


def take_routes() -> list[Route]:
    """Return the routes noted since the last time (the loader asks once per extension)."""
    taken = list(_routes)
    _routes.clear()
    return taken

"""``comfy_execution.progress``: the registry of how far nodes are. Reports go to the host, which tells the clients.

One registry per sandbox. It knows what this sandbox's own nodes reported; handlers registered here hear that too.
"""

# ruff: noqa: B027 - methods that a pack may override, and need not
from __future__ import annotations

from abc import ABC
from enum import Enum
from typing import Any, TypedDict

from ...sdk import context, progress
from .. import _previews


class NodeState(Enum):
    Pending = "pending"
    Running = "running"
    Finished = "finished"
    Error = "error"


class NodeProgressState(TypedDict):
    state: NodeState
    value: float
    max: float


class ProgressHandler(ABC):  # noqa: B024 - subclasses override what they want
    """Hears what nodes report; override what you need."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.enabled = True

    def set_registry(self, registry: ProgressRegistry) -> None:
        """Told once, when registered."""

    def start_handler(self, node_id: str, state: NodeProgressState, prompt_id: str) -> None:
        """A node has started."""

    def update_handler(
        self,
        node_id: str,
        value: float,
        max_value: float,
        state: NodeProgressState,
        prompt_id: str,
        image: Any = None,
    ) -> None:
        """A node has come further."""

    def finish_handler(self, node_id: str, state: NodeProgressState, prompt_id: str) -> None:
        """A node is done."""

    def reset(self) -> None:
        """Forget everything."""

    def enable(self) -> None:
        self.enabled = True

    def disable(self) -> None:
        self.enabled = False


class ProgressRegistry:
    """How far each node is that reported from this sandbox."""

    def __init__(self, prompt_id: str = "", dynprompt: Any = None) -> None:
        self.prompt_id = prompt_id
        self.dynprompt = dynprompt
        self.nodes: dict[str, NodeProgressState] = {}
        self.handlers: dict[str, ProgressHandler] = {}

    def register_handler(self, handler: ProgressHandler) -> None:
        self.handlers[handler.name] = handler
        handler.set_registry(self)

    def unregister_handler(self, handler_name: str) -> None:
        self.handlers.pop(handler_name, None)

    def enable_handler(self, handler_name: str) -> None:
        if handler_name in self.handlers:
            self.handlers[handler_name].enable()

    def disable_handler(self, handler_name: str) -> None:
        if handler_name in self.handlers:
            self.handlers[handler_name].disable()

    def ensure_entry(self, node_id: str) -> NodeProgressState:
        return self.nodes.setdefault(node_id, {"state": NodeState.Pending, "value": 0, "max": 1})

    def start_progress(self, node_id: str) -> None:
        entry = self.ensure_entry(node_id)
        entry.update({"state": NodeState.Running, "value": 0.0, "max": 1.0})
        for handler in self._listening():
            handler.start_handler(node_id, entry, self._prompt_id())

    def update_progress(self, node_id: str, value: float, max_value: float, image: Any = None) -> None:
        """Note and report progress. ``image`` is ``(format, PIL image, max size or None)``."""
        entry = self.ensure_entry(node_id)
        entry.update({"state": NodeState.Running, "value": value, "max": max_value})
        progress.report(value, max_value, node_id=node_id, preview=_previews.from_tuple(image), legacy=False)
        for handler in self._listening():
            handler.update_handler(node_id, value, max_value, entry, self._prompt_id(), image)

    def finish_progress(self, node_id: str) -> None:
        entry = self.ensure_entry(node_id)
        entry.update({"state": NodeState.Finished, "value": entry["max"], "max": entry["max"]})
        for handler in self._listening():
            handler.finish_handler(node_id, entry, self._prompt_id())

    def reset_handlers(self) -> None:
        for handler in self.handlers.values():
            handler.reset()

    def _listening(self) -> list[ProgressHandler]:
        return [handler for handler in self.handlers.values() if handler.enabled]

    def _prompt_id(self) -> str:
        call = context.current() or context.latest()
        return self.prompt_id if call is None else call.prompt_id


global_progress_registry: ProgressRegistry = ProgressRegistry()


def get_progress_state() -> ProgressRegistry:
    return global_progress_registry


def reset_progress_state(prompt_id: str, dynprompt: Any) -> None:
    """Start a new registry; handlers have to register again."""
    global global_progress_registry
    global_progress_registry.reset_handlers()
    global_progress_registry = ProgressRegistry(prompt_id, dynprompt)


def add_progress_handler(handler: ProgressHandler) -> None:
    get_progress_state().register_handler(handler)

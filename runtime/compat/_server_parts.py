"""What hangs on ``PromptServer.instance``: the queue, the users and the node replacements, as a pack may see them.

A pack sees its own work and its own folders. Other people's prompts, the history and the users behind the requests are
the host's: asking for them raises an error that names what was asked for.
"""

from __future__ import annotations

import os
from typing import Any

from .. import plain
from ..sdk import context, paths, registry
from ._standins import refuse

_QUEUE = "belongs to the host; a pack sees the prompt that it is running and no other"


class PromptQueueView:
    """``PromptServer.instance.prompt_queue``: the calls that this sandbox runs; nobody else's prompts."""

    @property
    def currently_running(self) -> dict[int, tuple[Any, ...]]:
        """Number -> (number, prompt id, prompt, extra data, outputs); the last three are empty here."""
        call = context.current() or context.latest()
        return {} if call is None else {0: (0, call.prompt_id, {}, {}, [])}

    def get_tasks_remaining(self) -> int:
        return len(self.currently_running)

    def get_current_queue(self) -> tuple[list[Any], list[Any]]:
        """(running, pending); what waits is not shown."""
        return list(self.currently_running.values()), []

    get_current_queue_volatile = get_current_queue

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        full = f"PromptServer.instance.prompt_queue.{name}"
        if name in ("history", "queue", "flags", "mutex", "server", "task_counter"):
            raise AttributeError(f"{full} {_QUEUE}")

        def call(*args: Any, **kwargs: Any) -> Any:
            del args, kwargs
            refuse(full, _QUEUE)

        return call


class UserManager:
    """``PromptServer.instance.user_manager``: one user, whose files are the sandbox's ``user/default``."""

    def __init__(self) -> None:
        self.users = {"default": "default"}

    def get_request_user_id(self, request: Any) -> str:
        """Whoever asks is "default": the host has checked who it is and does not tell."""
        del request
        return "default"

    def get_request_user_filepath(
        self, request: Any, file: str | None, type: str = "userdata", create_dir: bool = True
    ) -> str | None:
        """The path of a user's file, or of the user's folder for None; None for a name that leads out of it."""
        del request
        if type != "userdata":
            raise KeyError(f"Unknown filepath type:{type}")
        root = os.path.join(paths.user(), "default")
        path = root if file is None else os.path.abspath(os.path.join(root, file))
        if os.path.commonpath((root, path)) != root:
            return None
        if create_dir:
            os.makedirs(root if file is None else os.path.dirname(path), exist_ok=True)
        return path

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"PromptServer.instance.user_manager.{name} is not provided inside a sandbox")


class NodeReplaceManager:
    """``PromptServer.instance.node_replace_manager``: what is registered here reaches the host with the pack."""

    def register(self, node_replace: Any) -> None:
        registry.add_node_replacement(describe_replacement(node_replace))

    def has_replacement(self, old_node_id: str) -> bool:
        return bool(self.get_replacement(old_node_id))

    def get_replacement(self, old_node_id: str) -> list[dict[str, Any]]:
        """What this sandbox's packs registered for a class."""
        return [item for item in registry.node_replacements if item["old_node_id"] == old_node_id]

    def as_dict(self) -> dict[str, list[dict[str, Any]]]:
        return {
            item["old_node_id"]: self.get_replacement(item["old_node_id"])
            for item in registry.node_replacements
        }

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"PromptServer.instance.node_replace_manager.{name} is not provided inside a sandbox"
        )


def describe_replacement(node_replace: Any) -> dict[str, Any]:
    """A ``NodeReplace`` as plain JSON, in the form of ``GET /node_replacements``.

    Raises:
        ValueError: a field does not have the form that it must have.
    """
    described = {
        name: plain.to_json(getattr(node_replace, name, None))
        for name in ("new_node_id", "old_node_id", "old_widget_ids", "input_mapping", "output_mapping")
    }
    for name in ("new_node_id", "old_node_id"):
        if not _is_name(described[name]):
            raise ValueError(f"a node replacement needs {name}, the name of a node class")
    for name, is_item in (
        ("old_widget_ids", _is_name),
        ("input_mapping", _is_input),
        ("output_mapping", _is_output),
    ):
        items = described[name] or None
        if items is not None and not (isinstance(items, list) and all(map(is_item, items))):
            raise ValueError(
                f"{name} of the replacement of {described['old_node_id']!r} has not the form that is due"
            )
        described[name] = items
    return described


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 256


def _is_input(value: Any) -> bool:
    if not isinstance(value, dict) or not _is_name(value.get("new_id")):
        return False
    if value.keys() == {"new_id", "old_id"}:
        return _is_name(value["old_id"])
    return value.keys() == {"new_id", "set_value"} and isinstance(
        value["set_value"], (str, int, float, type(None))
    )


def _is_output(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"new_idx", "old_idx"}
        and all(type(item) is int and 0 <= item <= 10_000 for item in value.values())
    )

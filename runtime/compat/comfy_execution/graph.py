"""``comfy_execution.graph``: the running prompt as a pack sees it, its errors, and the blocker.

The lists by which ComfyUI's own engine schedules nodes are names only: scheduling is the host's.
"""

from __future__ import annotations

from typing import Any

from ...blocker import ExecutionBlocker
from ...dynprompt import DynamicPrompt, NodeNotFoundError
from .._standins import SERVER, names_only
from .graph_utils import is_link

__all__ = [
    "DependencyCycleError",
    "DynamicPrompt",
    "ExecutionBlocker",
    "NodeInputError",
    "NodeNotFoundError",
    "get_input_info",
    "is_link",
]

__getattr__ = names_only(__name__, ["ExecutionList", "TopologicalSort", "BasicCache"], SERVER)


class DependencyCycleError(Exception):
    """Nodes wait for each other."""


class NodeInputError(Exception):
    """A node asked for an input that it does not have."""


def get_input_info(
    class_def: Any, input_name: str, valid_inputs: dict[str, Any] | None = None
) -> tuple[Any, str | None, dict[str, Any] | None]:
    """(type, section, options) of a declared input; three times None when it is not declared."""
    declared = class_def.INPUT_TYPES() if valid_inputs is None else valid_inputs
    for section in ("required", "optional", "hidden"):
        inputs = declared.get(section, {})
        if input_name in inputs:
            info = inputs[input_name]
            if isinstance(info, (list, tuple)) and info:
                return info[0], section, info[1] if len(info) > 1 else {}
            return info, section, {}
    return None, None, None

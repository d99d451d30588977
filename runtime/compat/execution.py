"""``execution``: ComfyUI's engine. Ringfence has one of its own, in the host, so this is names only.

Packs that replace functions here (some do) change nothing: the engine does not run in their sandbox.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from ._standins import SERVER, names_only
from .comfy_execution.graph import DependencyCycleError, NodeInputError, NodeNotFoundError

__all__ = [
    "MAXIMUM_HISTORY_SIZE",
    "SENSITIVE_EXTRA_DATA_KEYS",
    "CacheType",
    "DependencyCycleError",
    "DuplicateNodeError",
    "ExecutionResult",
    "NodeInputError",
    "NodeNotFoundError",
    "map_node_over_list",
]

SENSITIVE_EXTRA_DATA_KEYS = ("auth_token_comfy_org", "api_key_comfy_org")

MAXIMUM_HISTORY_SIZE = 10_000

#: None on purpose, in ComfyUI too: packs test it to see that the old way of patching is gone.
map_node_over_list: Any = None

__getattr__ = names_only(
    __name__,
    [
        "CacheSet",
        "IsChangedCache",
        "PromptExecutor",
        "PromptQueue",
        "_async_map_node_over_list",
        "_map_node_over_list",
        "execute",
        "format_value",
        "full_type_name",
        "get_input_data",
        "get_output_data",
        "get_output_from_returns",
        "merge_result_data",
        "recursive_execute",
        "reset_progress_state",
        "resolve_map_node_over_list_results",
        "validate_inputs",
        "validate_prompt",
    ],
    SERVER,
)


class ExecutionResult(Enum):
    SUCCESS = 0
    FAILURE = 1
    PENDING = 2


class CacheType(Enum):
    CLASSIC = 0
    LRU = 1
    NONE = 2
    RAM_PRESSURE = 3


class DuplicateNodeError(Exception):
    """An expansion used the id of another node."""

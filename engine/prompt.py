"""A prompt as it comes in: its request, its form, its links, and the answer to it.

``parse_prompt`` looks at form only (wrong types, size, depth) and ``validation.py`` at what node classes declare.
Whatever a tenant sends ends in a ``PromptInvalidError`` with ComfyUI's error types, never in a traceback.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from engine.errors import PromptInvalidError
from policies import NameInvalidError, parse_node_id, safe_text
from sandbox import record

JSON = Any

SECRET_KEYS: Final = ("auth_token_comfy_org", "api_key_comfy_org")
WRAPPED: Final = "__value__"
_SCALARS: Final = frozenset({str, int, float, bool, type(None)})


@dataclass(frozen=True, slots=True)
class PromptLimits:
    """How large a prompt may be."""

    nodes: int = 50_000
    inputs: int = 2_000  # of one node
    depth: int = 48  # of one constant; the wire carries 64 levels, tags included
    expansion_nodes: int = 10_000  # added by expansions to one prompt


@record
class PromptRequest:
    """What a client asks for: JSON-parsed by the API, hostile in content."""

    prompt: Any
    prompt_id: str | None = None
    client_id: str | None = None
    extra_data: Mapping[str, JSON] = field(default_factory=dict)
    number: float | None = None
    front: bool = False
    targets: tuple[str, ...] | None = None


@record
class Submitted:
    """A prompt that was queued; ``node_errors`` names outputs that were dropped and why."""

    prompt_id: str
    number: float
    node_errors: dict[str, Any]


@record
class Link:
    """An input fed by slot ``slot`` of node ``source``."""

    source: str
    slot: int


def as_link(value: JSON) -> Link | None:
    """The link that a runtime value is, or None: exactly two items, a string and a number."""
    if not isinstance(value, list) or len(value) != 2:
        return None
    source, slot = value
    if type(slot) is int and type(source) is str:  # nearly all
        return Link(source, slot)
    if not isinstance(source, str) or not isinstance(slot, (int, float)):
        return None
    if isinstance(slot, float) and not slot.is_integer():
        return Link(source, -1)  # no such slot: the input arrives as None
    return Link(source, int(slot))


def prompt_error(kind: str, message: str, details: str = "", **extra: JSON) -> PromptInvalidError:
    """A refusal of the whole prompt."""
    return PromptInvalidError({"type": kind, "message": message, "details": details, "extra_info": extra})


def parse_prompt(raw: Any, limits: PromptLimits) -> dict[str, dict[str, JSON]]:
    """Return a copy of the prompt whose form is right: ids, entries, inputs, sizes.

    Constants are shared with ``raw`` and must not be changed; entries and their ``inputs`` are fresh.

    Raises:
        PromptInvalidError: ``no_prompt`` or ``invalid_prompt``.
    """
    if raw is None:
        raise prompt_error("no_prompt", "No prompt provided", "No prompt provided")
    if not isinstance(raw, dict):
        raise prompt_error("invalid_prompt", "The prompt must be an object", type(raw).__name__)
    if len(raw) > limits.nodes:
        raise prompt_error(
            "invalid_prompt", "The prompt is too large", f"{len(raw)} nodes; the limit is {limits.nodes}"
        )
    return {_checked_id(node_id): _checked_entry(node_id, entry, limits) for node_id, entry in raw.items()}


def _checked_id(node_id: Any) -> str:
    try:
        return parse_node_id(node_id)
    except NameInvalidError as error:
        raise prompt_error("invalid_prompt", "A node id is not allowed", str(error)) from None


def _checked_entry(node_id: str, entry: Any, limits: PromptLimits) -> dict[str, JSON]:
    if not isinstance(entry, dict):
        raise _node_refused("A node must be an object", node_id)
    inputs = entry.get("inputs", {})
    if not isinstance(inputs, dict):
        raise _node_refused("A node's inputs must be an object", node_id)
    if len(inputs) > limits.inputs:
        raise _node_refused(f"A node has more than {limits.inputs} inputs", node_id)
    for key, value in entry.items():
        if type(value) in _SCALARS or (value is inputs and _is_flat(inputs)):
            continue
        if isinstance(value, (dict, list)) and is_deeper(value, limits.depth + 2):
            shown = safe_text(str(key), 80)
            raise _node_refused(f"'{shown}' is nested deeper than {limits.depth}", node_id)
    return {**entry, "inputs": {**inputs}}


def _node_refused(message: str, node_id: str) -> PromptInvalidError:
    where = f"Node ID '#{safe_text(node_id, 80)}'"
    return prompt_error("invalid_prompt", message, where, node_id=node_id)


def _is_flat(inputs: dict[str, JSON]) -> bool:
    """Whether there is nothing but plain constants and links among them, as mostly: two levels at most."""
    for value in inputs.values():
        if type(value) is list:
            for item in value:
                if type(item) not in _SCALARS:
                    return False
        elif type(value) not in _SCALARS:
            return False
    return True


def is_deeper(value: JSON, depth: int) -> bool:
    """True when ``value`` has more than ``depth`` levels of lists and objects. Does not recurse."""
    level: list[JSON] = [value] if isinstance(value, (dict, list)) else []
    for _ in range(depth):
        if not level:
            return False
        below: list[JSON] = []
        for parent in level:
            for child in parent.values() if isinstance(parent, dict) else parent:
                if type(child) not in _SCALARS and isinstance(child, (dict, list)):
                    below.append(child)  # noqa: PERF401 - done for each node: no comprehension's frame
        level = below
    return bool(level)


def split_secrets(extra_data: Mapping[str, JSON]) -> tuple[dict[str, JSON], dict[str, JSON]]:
    """``extra_data`` as it may be stored and shown, and the log-in tokens that were in it."""
    shown = {key: value for key, value in extra_data.items() if key not in SECRET_KEYS}
    secrets = {key: extra_data[key] for key in SECRET_KEYS if key in extra_data}
    return shown, secrets

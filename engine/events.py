"""What happened, as frozen data. The engine says these; api/websocket.py alone knows ComfyUI's names for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from policies import TenantId


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened for one tenant. ``client_id``: whom it is for; None = every client of the tenant."""

    tenant: TenantId
    client_id: str | None


@dataclass(frozen=True, slots=True)
class QueueChanged(Event):
    """A prompt was queued, started, ended or removed. ``remaining`` = pending + running."""

    remaining: int


@dataclass(frozen=True, slots=True)
class PromptEvent(Event):
    """Something about one prompt; ``timestamp`` in ms since the epoch."""

    prompt_id: str
    timestamp: int


@dataclass(frozen=True, slots=True)
class PromptStarted(PromptEvent):
    """Execution of a prompt begins."""


@dataclass(frozen=True, slots=True)
class NodesCached(PromptEvent):
    """Node ids whose result is already there, in prompt order."""

    nodes: Sequence[str]


@dataclass(frozen=True, slots=True)
class NodeStarted(PromptEvent):
    """A node is about to be called."""

    node_id: str
    display_id: str


@dataclass(frozen=True, slots=True)
class NodeProgress:
    """State of one node that left pending; a member of ProgressChanged."""

    node_id: str
    value: float
    max: float
    state: str  # running | finished | error
    display_id: str
    parent_id: str | None
    real_id: str
    memo: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """For whoever puts it into words, which is done again with every map that it is part of."""


@dataclass(frozen=True, slots=True)
class ProgressChanged(PromptEvent):
    """``nodes`` is the full map of nodes that left pending; ``changed`` the one that moved. ``legacy``: the node's
    own progress bar moved, which older clients hear as ``progress``; ``preview`` = (format, encoded image).

    ``nodes`` is shared and cheap to keep. In prompts of more than 256 nodes, plain changes of state are passed on
    several at a time, since each is shown as the whole map."""

    nodes: Mapping[str, NodeProgress]
    changed: str
    legacy: bool = False
    preview: tuple[str, bytes] | None = None


@dataclass(frozen=True, slots=True)
class NodeExecuted(PromptEvent):
    """A node returned UI data, or a scheduled node was found cached (``output`` then may be None)."""

    node_id: str
    display_id: str
    output: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class NodeBlocked(PromptEvent):
    """An ExecutionBlocker with a message reached its first consumer; the run goes on."""

    node_id: str
    class_type: str
    message: str
    executed: Sequence[str]


@dataclass(frozen=True, slots=True)
class PromptSucceeded(PromptEvent):
    """The prompt ended well."""


@dataclass(frozen=True, slots=True)
class PromptFailed(PromptEvent):
    """The prompt ended with a node's error. ``details`` is ComfyUI's execution_error object without id and time."""

    details: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PromptInterrupted(PromptEvent):
    """The prompt was interrupted."""

    node_id: str
    class_type: str
    executed: Sequence[str]


@dataclass(frozen=True, slots=True)
class PromptEnded(PromptEvent):
    """Last event of a prompt, after it can be read from the history."""


@dataclass(frozen=True, slots=True)
class PackMessage(Event):
    """A pack's own message to clients; ``event`` is the pack's, ``data`` plain JSON."""

    event: str
    data: Any
    node_id: str | None = None

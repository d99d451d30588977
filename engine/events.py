"""What happened, as frozen data. The engine says these; api/messages.py alone knows ComfyUI's names for them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from policies import TenantId
from sandbox import record


@record
class Event:
    """Something that happened for one tenant. ``client_id``: whom it is for; None = every client of the tenant."""

    tenant: TenantId
    client_id: str | None


@record
class QueueChanged(Event):
    """A prompt was queued, started, ended or removed. ``remaining`` = pending + running."""

    remaining: int


@record
class PromptEvent(Event):
    """Something about one prompt; ``timestamp`` in ms since the epoch."""

    prompt_id: str
    timestamp: int


@record
class PromptStarted(PromptEvent):
    """Execution of a prompt begins."""


@record
class NodesCached(PromptEvent):
    """Node ids whose result is already there, in prompt order."""

    nodes: Sequence[str]


@record
class NodeStarted(PromptEvent):
    """A node is about to be called."""

    node_id: str
    display_id: str


@record
class NodeProgress:
    """State of one node that left pending; a member of ProgressChanged."""

    node_id: str
    value: float
    max: float
    state: str  # running | finished | error
    display_id: str
    parent_id: str | None
    real_id: str


class ProgressMap(Mapping[str, NodeProgress]):
    """The states of all nodes of a prompt that left pending, in that order, at one moment."""

    @abstractmethod
    def said(self, say: Callable[[NodeProgress, str], bytes], about: str) -> bytes:
        """What ``say(state, about)`` makes of each state, with commas between.

        Cheap when it is asked of one moment after the other: what was said of a state stays.
        """


@record
class ProgressChanged(PromptEvent):
    """``nodes`` is the full map of nodes that left pending; ``changed`` the one that moved. ``legacy``: the node's
    own progress bar moved, which older clients hear as ``progress``; ``preview`` = (format, encoded image).

    ``nodes`` is shared and cheap to keep. In prompts of more than 256 nodes, plain changes of state are passed on
    several at a time, since each is shown as the whole map."""

    nodes: Mapping[str, NodeProgress]
    changed: str
    legacy: bool = False
    preview: tuple[str, bytes] | None = None


@record
class NodeExecuted(PromptEvent):
    """A node returned UI data, or a scheduled node was found cached (``output`` then may be None)."""

    node_id: str
    display_id: str
    output: Mapping[str, Any] | None


@record
class NodeBlocked(PromptEvent):
    """An ExecutionBlocker with a message reached its first consumer; the run goes on."""

    node_id: str
    class_type: str
    message: str
    executed: Sequence[str]


@record
class PromptSucceeded(PromptEvent):
    """The prompt ended well."""


@record
class PromptFailed(PromptEvent):
    """The prompt ended with a node's error. ``details`` is ComfyUI's execution_error object without id and time."""

    details: Mapping[str, Any]


@record
class PromptInterrupted(PromptEvent):
    """The prompt was interrupted."""

    node_id: str
    class_type: str
    executed: Sequence[str]


@record
class PromptEnded(PromptEvent):
    """Last event of a prompt, after it can be read from the history."""


@record
class PackMessage(Event):
    """A pack's own message to clients; ``event`` is the pack's, ``data`` plain JSON."""

    event: str
    data: Any
    node_id: str | None = None

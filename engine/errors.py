"""Errors of the engine room.

RingfenceError (policies)
└─ EngineError
   ├─ PromptInvalidError      refused before it was queued; ``error`` and ``node_errors`` in ComfyUI's shape
   ├─ QueueFullError          the tenant's queue is at its limit
   ├─ DuplicatePromptError    a prompt of this id is pending or running
   ├─ NodeFailedError         a node's execution failed; ``details`` is ComfyUI's execution_error object
   ├─ ExpansionError          an expansion is malformed, too large, or names an unknown class
   ├─ NodeInputError          a lazy request names an input that the node does not have
   ├─ NodeOutputError         a node returned other outputs than its registered class declares
   └─ EngineClosedError       the engine is shutting down

An object handle that would leave its sandbox is ``sandbox.errors.HandleNotPortableError``; ``values.py`` raises it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policies import RingfenceError, format_bytes


class EngineError(RingfenceError):
    """Root of the engine's own errors."""

    code = "engine"


class PromptInvalidError(EngineError):
    """A prompt was refused before it was queued."""

    code = "prompt-invalid"

    def __init__(self, error: Mapping[str, Any], node_errors: Mapping[str, Any] | None = None) -> None:
        message = str(error.get("message", "the prompt is not valid"))
        details = str(error.get("details", ""))
        super().__init__(f"{message}: {details}" if details else message)
        self.error = dict(error)
        self.node_errors = dict(node_errors or {})


class QueueFullError(EngineError):
    """The tenant has as many pending prompts as it may have."""

    code = "queue-full"

    def __init__(self, limit: int, *, nbytes: int | None = None, source: str = "") -> None:
        what = (
            f"its limit{f' (quota queued: {source})' if source else ''}"
            if nbytes is None
            else f"and with this one more than {format_bytes(nbytes)}, its limit"
        )
        super().__init__(f"the queue holds {limit} pending prompts, {what}", hint="wait, or remove some")
        self.limit = limit


class DuplicatePromptError(EngineError):
    """A prompt of this id is pending or running."""

    code = "prompt-duplicate"

    def __init__(self, prompt_id: str) -> None:
        super().__init__(f"prompt {prompt_id!r} is already in the queue", hint="choose another prompt_id")
        self.prompt_id = prompt_id


class NodeFailedError(EngineError):
    """A node failed; a result about the prompt, not a crash of the engine."""

    code = "node-failed"

    def __init__(self, details: Mapping[str, Any]) -> None:
        super().__init__(f"{details.get('exception_type', '')}: {details.get('exception_message', '')}")
        self.details = dict(details)


class ExpansionError(EngineError):
    """What a node wants to add to the graph cannot be added. ``kind`` is the exception that ComfyUI reports for it."""

    code = "expansion-invalid"

    def __init__(self, message: str, *, hint: str = "", kind: str = "ringfence.ExpansionError") -> None:
        super().__init__(message, hint=hint)
        self.kind = kind


class NodeInputError(EngineError):
    """A node asked for a lazy input that it does not have."""

    code = "node-input"


class NodeOutputError(EngineError):
    """What a node returned does not fit the class that was registered."""

    code = "node-output"


class EngineClosedError(EngineError):
    """The engine is shutting down and takes no more work."""

    code = "engine-closed"

    def __init__(self) -> None:
        super().__init__("the engine is shutting down", hint="send the prompt again when it is back")

"""How a worker may say that something failed; what it says is only ever text."""

from __future__ import annotations

from typing import Any, Final

from pydantic import Field

from policies import ExtensionName, safe_text
from runtime import wire
from sandbox import hostile_json
from sandbox.errors import (
    LoadFailedError,
    NodeInterruptedError,
    NodeRaisedError,
    ProtocolViolationError,
    QuotaError,
    SandboxError,
)
from sandbox.messages.envelope import RemoteError, Text, checked
from sandbox.strict import Name, Strict

TRACEBACK_LINES: Final = 200

# Codes to our classes: a closed table.
_INTERRUPTED = frozenset({wire.INTERRUPTED})
_NODE_FAILED = frozenset({wire.NODE_RAISED, wire.OUT_OF_MEMORY, wire.UNKNOWN_NODE, wire.VALUE_NOT_PORTABLE})
_HINTS: Final = {
    wire.OUT_OF_MEMORY: "lower the batch size or raise 'memory'",
    wire.UNKNOWN_NODE: "reload the extension",
}


class _Failure(Strict):
    type: Text = ""
    message: Text = ""
    traceback: list[Text] = Field(default=[], max_length=1000)
    inputs: dict[Name, list[bool | int | float | Text | None]] = Field(default={})


def failure(error: RemoteError, extension: ExtensionName) -> NodeRaisedError | SandboxError:
    """The exception that an error answer of a worker becomes here.

    Raises:
        ProtocolViolationError: a code that a worker may not answer with.
    """
    said = checked(_Failure, error.data, "error") if _is_failure(error.data) else _Failure()
    message = safe_text(said.message or error.message, newlines=True)
    kind = safe_text(said.type, 200)
    trace = tuple(safe_text(line, 4000, newlines=True) for line in said.traceback[-TRACEBACK_LINES:])
    if error.code == wire.LOAD_FAILED:
        head = f"{kind}: {message}" if kind else message
        text = f"extension '{extension}' could not be loaded: {head}"
        return LoadFailedError(text, exception_type=kind, traceback=trace)
    if error.code == wire.QUOTA_EXCEEDED:
        return QuotaError(message, "raise 'shared_memory' or return less")
    if error.code == wire.UNKNOWN_HANDLE:
        return SandboxError(message or "an object handle is gone", "run the node that made it again")
    if error.code in _INTERRUPTED:
        return NodeInterruptedError(message or "interrupted", exception_type=kind, traceback=trace)
    if error.code in _NODE_FAILED:
        return NodeRaisedError(
            message,
            _HINTS.get(error.code, ""),
            exception_type=kind or "Exception",
            traceback=trace,
            inputs={
                safe_text(name, 256): [
                    safe_text(item, newlines=True) if isinstance(item, str) else hostile_json.plain(item)
                    for item in items
                ]
                for name, items in list(said.inputs.items())[:256]
            },
            out_of_memory=error.code == wire.OUT_OF_MEMORY,
        )
    raise ProtocolViolationError(f"it answered with error {error.code}: {message}")


def _is_failure(data: Any) -> bool:
    return isinstance(data, dict) and "traceback" in data

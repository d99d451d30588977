"""What a pack raised, as an error for the wire: bounded text, without the frames of this package."""

from __future__ import annotations

import asyncio
import math
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from . import plain, wire
from .aliases import shown_name
from .passing import LiveObject
from .peer import RpcError
from .sdk.interruption import InterruptProcessingException

_NODE_CODES = frozenset(
    {
        wire.NODE_RAISED,
        wire.INTERRUPTED,
        wire.LOAD_FAILED,
        wire.UNKNOWN_NODE,
        wire.VALUE_NOT_PORTABLE,
        wire.QUOTA_EXCEEDED,
        wire.UNKNOWN_HANDLE,
        wire.OUT_OF_MEMORY,
        wire.NOT_FOLLOWING,
    }
)
_PACKAGE = str(Path(__file__).parent)
_MAX_MESSAGE = 8_000
_MAX_FRAMES = 40
_MAX_FRAME_TEXT = 2_000
_MAX_INPUT_TEXT = 400
_MAX_INPUT_INT = 2**53
_MAX_INPUTS = 100


def as_rpc_error(error: BaseException, inputs: Mapping[str, Any] | None = None) -> RpcError:
    """Translate what a node raised; ``inputs`` are its arguments, described for the user."""
    if isinstance(error, RpcError):
        # Anything else (the host's own trouble with an allocation) is still only this node's failure.
        return error if error.code in _NODE_CODES else RpcError(wire.NODE_RAISED, error.message)
    if isinstance(error, (InterruptProcessingException, asyncio.CancelledError)):
        return RpcError(wire.INTERRUPTED, "the node was interrupted")
    code = wire.OUT_OF_MEMORY if is_out_of_memory(error) else wire.NODE_RAISED
    data = describe(error, inputs)
    return RpcError(code, f"{data['type']}: {data['message']}"[:_MAX_MESSAGE], data)


def load_failed(error: BaseException) -> RpcError:
    """Translate what importing an extension raised."""
    data = describe(error, None)
    return RpcError(wire.LOAD_FAILED, f"{data['type']}: {data['message']}"[:_MAX_MESSAGE], data)


def describe(error: BaseException, inputs: Mapping[str, Any] | None) -> dict[str, Any]:
    """The ``data`` of NODE_RAISED and LOAD_FAILED."""
    return {
        "type": _type_name(error),
        "message": _text(error),
        "traceback": _traceback(error),
        "inputs": {
            plain.clean(str(name))[:200] or "?": [describe_value(item) for item in items[:20]]
            for name, items in list((inputs or {}).items())[:_MAX_INPUTS]
        },
    }


def is_out_of_memory(error: BaseException) -> bool:
    """True for MemoryError and for a device's out-of-memory error."""
    if isinstance(error, MemoryError):
        return True
    torch = sys.modules.get("torch")
    kinds = [
        getattr(torch, "OutOfMemoryError", None),
        getattr(getattr(torch, "cuda", None), "OutOfMemoryError", None),
    ]
    return any(isinstance(kind, type) and isinstance(error, kind) for kind in kinds)


def print_to_log(error: BaseException, what: str) -> None:
    """Write an error that fails nothing else to the pack's own log."""
    text = "".join([f"{what}:\n", *_traceback(error), f"{_type_name(error)}: {_text(error)}"])
    try:
        print(text, file=sys.stderr)  # noqa: T201 - the captured stream of this sandbox
    except Exception:  # noqa: BLE001, S110 - a pack may have put anything in place of sys.stderr
        pass


def describe_value(value: Any) -> str | int | float | None:
    """A value as an error report shows it: plain ones as they are, all others as a short text (tensors by shape)."""
    if type(value) is LiveObject:
        return repr(value)
    try:
        shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
        if shape is not None and dtype is not None:
            text = f"{type(value).__name__}({list(shape)}, {str(dtype).removeprefix('torch.')})"
        elif _is_plain(value):
            return value  # type: ignore[no-any-return]
        elif isinstance(value, (str, int, float)):
            text = str(value)
        elif isinstance(value, (list, tuple, dict, set, frozenset)):
            text = f"{type(value).__name__} of {len(value)}"
        else:
            text = f"<{shown_name(type(value).__module__)}.{type(value).__qualname__}>"
    except Exception:  # noqa: BLE001 - a pack's object may raise from anything
        text = "<unprintable>"
    return plain.clean(text[:_MAX_INPUT_TEXT])


def _is_plain(value: Any) -> bool:
    """Whether JSON has it and every reader keeps it exactly."""
    kind = type(value)
    if kind is int:
        return bool(abs(value) < _MAX_INPUT_INT)
    return value is None or kind is bool or (kind is float and math.isfinite(value))


def _type_name(error: BaseException) -> str:
    cls = type(error)
    module = shown_name(str(cls.__module__))
    return plain.clean(cls.__qualname__ if module == "builtins" else f"{module}.{cls.__qualname__}")[:300]


def _text(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001
        text = "<the error's own text cannot be printed>"
    return plain.clean(text[:_MAX_MESSAGE])


def _traceback(error: BaseException) -> list[str]:
    """Frames as ``traceback.format_tb`` gives them; of the errors it came from, with their own last line."""
    lines = _frames(error.__traceback__)
    cause = _cause(error)
    for _ in range(4):  # a chain can be endless
        if cause is None:
            break
        lines[:0] = [*_frames(cause.__traceback__), f"{_type_name(cause)}: {_text(cause)}\n\n"]
        cause = _cause(cause)
    return lines


def _cause(error: BaseException) -> BaseException | None:
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _frames(trace: TracebackType | None) -> list[str]:
    try:
        frames: list[traceback.FrameSummary] = traceback.extract_tb(trace, limit=-_MAX_FRAMES)
        while frames and (_is_ours(frames[0]) or "/asyncio/" in frames[0].filename):
            del frames[0]  # how we got to the pack's code
        kept = [frame for frame in frames if not frame.filename.startswith("<frozen importlib")]
        return [plain.clean(text)[:_MAX_FRAME_TEXT] for text in traceback.format_list(kept)]
    except Exception:  # noqa: BLE001 - reading source lines can fail in many ways
        return []


def _is_ours(frame: traceback.FrameSummary) -> bool:
    """compat/ does not count: that is what the pack called."""
    return frame.filename.startswith("<frozen importlib") or (
        frame.filename.startswith(_PACKAGE) and "/compat/" not in frame.filename
    )

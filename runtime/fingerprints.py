"""What change detection and validation functions return, as JSON that the engine can compare."""

from __future__ import annotations

import math
from typing import Any

from . import plain, wire
from .blocker import ExecutionBlocker
from .calling import Blocked

#: Compares unequal to everything, itself included: "this node must run".
NEVER_SAME = {wire.TAG_FLOAT: "nan"}


def fingerprint(outcomes: list[Any]) -> list[Any]:
    """The list of per-item results; what has no stable form makes the node run every time."""
    return [
        None if isinstance(item, (Blocked, ExecutionBlocker)) else _comparable(item, wire.MAX_DEPTH // 4)
        for item in outcomes
    ]


def verdicts(outcomes: list[Any]) -> list[bool | str | None]:
    """Per mapped call: True when valid, else False, a text, or None for a result that says nothing."""
    return [_verdict(item) for item in outcomes]


def _verdict(outcome: Any) -> bool | str | None:
    if isinstance(outcome, (Blocked, ExecutionBlocker)) or outcome is True:
        return True
    if outcome is False or outcome is None:
        return outcome
    return plain.clean(str(outcome))[:4000]


def _comparable(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return plain.clean(value)
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**64 else hex(value)
    if isinstance(value, float):
        if math.isnan(value):
            return NEVER_SAME
        return float(value) if math.isfinite(value) else {wire.TAG_FLOAT: "inf" if value > 0 else "-inf"}
    if isinstance(value, (bytes, bytearray)):
        import hashlib  # brings OpenSSL along, which few sandboxes need

        return "bytes:" + hashlib.sha256(value).hexdigest()
    if depth > 0 and isinstance(value, (list, tuple)):
        return [_comparable(item, depth - 1) for item in value]
    if depth > 0 and isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {plain.clean(key): _comparable(item, depth - 1) for key, item in value.items()}
    item = getattr(value, "item", None)  # a numpy or torch scalar
    if depth > 0 and callable(item) and getattr(value, "ndim", None) == 0:
        return _comparable(item(), depth - 1)
    return NEVER_SAME

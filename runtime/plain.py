"""Anything a pack hands over for a screen, made plain JSON: UI objects, events, node descriptions.

Lenient on purpose (tuples become lists, numpy numbers become numbers, NaN becomes null, the rest becomes text): a
pack's slip must not kill the stream. Values that travel between nodes go through ``values.py``, which is exact.
"""

from __future__ import annotations

import math
from enum import Enum
from pathlib import PurePath
from typing import Any

from . import wire
from .passing import LiveObject

_MAX_TEXT = 2_000
_MAX_PARTS = 400_000  # the host reads a message of a million


def to_json(value: Any) -> Any:
    """Return ``value`` as JSON that ``json.dumps(allow_nan=False)`` accepts. Never raises."""
    return _to_json(value, wire.MAX_DEPTH, [_MAX_PARTS])


def _to_json(value: Any, depth: int, left: list[int]) -> Any:
    if value is None or value is True or value is False:
        return value
    if isinstance(value, Enum):
        return _to_json(value.value, depth, left)
    if isinstance(value, str):
        # A trick subclass of str (the any-type) must not meet json: its overridden operators may misbehave.
        return clean(value)
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**64 else _large(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if type(value) is LiveObject:
        return clean(repr(value))
    left[0] -= len(value) if isinstance(value, (list, tuple, dict, set, frozenset)) else 1
    if depth <= 0 or left[0] < 0:
        return "..."
    try:
        return _container(value, depth - 1, left)
    except Exception:  # noqa: BLE001 - a pack's object may raise from anything
        return None


def _container(value: Any, depth: int, left: list[int]) -> Any:
    if isinstance(value, dict):
        return {_key(key): _to_json(item, depth, left) for key, item in dict.items(value)}
    if isinstance(value, (list, tuple, set, frozenset, range)):
        return [_to_json(item, depth, left) for item in value]
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"<{len(value)} bytes>"
    if isinstance(value, PurePath):
        return str(value)
    number = _number(value)
    if number is not None:
        return _to_json(number, depth, left)
    if hasattr(value, "as_dict"):
        return _to_json(value.as_dict(), depth, left)
    if hasattr(value, "items") and hasattr(value, "keys"):
        return {_key(key): _to_json(item, depth, left) for key, item in value.items()}
    if (
        hasattr(value, "__iter__") and hasattr(value, "__len__") and len(value) < 100_000
    ):  # dict views, deques
        return [_to_json(item, depth, left) for item in value]
    return clean(str(value)[:_MAX_TEXT])


def clean(text: str) -> str:
    """An exact ``str`` that UTF-8 can hold: lone surrogates (undecodable file names) become question marks."""
    text = str.__str__(text)
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


def _large(value: int) -> float | str:
    """What neither browsers nor every JSON parser can hold as an integer."""
    try:
        return float(value)
    except OverflowError:
        return "<a number of many digits>"


def _number(value: Any) -> Any:
    """numpy scalars and arrays, 0-d and small tensors: what ``tolist`` makes of them."""
    to_list = getattr(value, "tolist", None)
    if to_list is None or isinstance(value, type):
        return None
    size = getattr(value, "size", 1)
    count = size() if callable(size) else size
    total = math.prod(count) if isinstance(count, tuple) else count
    if isinstance(total, int) and total > 100_000:
        return f"<{type(value).__name__} of {total} items>"
    return to_list()


def _key(key: Any) -> str:
    if isinstance(key, Enum):
        key = key.value
    if key is None or isinstance(key, bool):
        return {None: "null", True: "true", False: "false"}[key]
    return clean(key if isinstance(key, str) else str(key))

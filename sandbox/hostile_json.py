"""Bytes from a worker to a JSON tree that the rest of the host can handle without care.

What comes out has bounded depth and size, no NaN or infinity, no duplicate keys, no lone surrogates (they crash
whoever encodes UTF-8 later) and no number that takes long to print. The standard library's parser: it is written in
C, refuses runaway depth instead of crashing, keeps integers exact where orjson makes a float of a large one, and
has a hook for duplicate keys, which msgspec and orjson let the last one win. What a message means stands in
``messages``, what a value means in ``values.py``.

Short messages, nearly all there are, go a shorter way to the same tree: read by orjson and written again. Only where
that gives the very same bytes is the tree taken, since then nothing was lost on the way: no second key of one name, no
digit, no escape. Everything else is read as above.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final, NoReturn

import orjson

from sandbox.errors import ProtocolViolationError
from sandbox.fast_paths import TAKEN, FastPath

MAX_JSON_DEPTH: Final = 300
"""Levels of brackets: ``MAX_DEPTH`` values deep, at most four levels each, and the envelope."""
MAX_JSON_NODES: Final = 1_000_000
MAX_DIGITS: Final = 128
PART_COST: Final = 128
"""Reading one part takes 200 to 500 ns, as long as this many bytes of a long string."""
SHORT: Final = 16 * 1024
"""Bytes that are read the short way: no more than 8,192 parts, and orjson writes no more than 254 levels."""
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse(body: bytes) -> Any:
    """The JSON tree in ``body``.

    Raises:
        ProtocolViolationError: it is not JSON, or not JSON that we accept.
    """
    tree = parse_shortly(body) if len(body) <= SHORT else None
    return parse_slowly(body) if tree is None else tree


def parse_shortly(body: bytes) -> Any:
    """The tree in a message of up to ``SHORT`` bytes, read the short way; None where that cannot tell."""
    if FastPath.SHORT_JSON in TAKEN:
        try:
            tree = orjson.loads(body)
            if orjson.dumps(tree) == body:
                return tree
        except (orjson.JSONDecodeError, orjson.JSONEncodeError):
            pass
    return None


def parse_slowly(body: bytes) -> Any:
    """The same without the short way. Raises as ``parse``."""
    try:
        tree = _DECODER.decode(body.decode("utf-8", "surrogatepass"))
    except RecursionError:
        raise ProtocolViolationError("it sent JSON that is nested too deep") from None
    except ValueError as error:
        raise ProtocolViolationError(f"it sent something that is not JSON: {error!s:.120}") from None
    return _bounded(tree)


def cost(body: bytes) -> int:
    """What reading ``body`` costs, in bytes of plain text. Cheap, and never less than its brackets and commas say."""
    return len(body) + PART_COST * (body.count(b",") + body.count(b"[") + body.count(b"{"))


def plain(tree: Any) -> Any:
    """``tree`` with integers that browsers and fast encoders cannot take (beyond 64 bits) as floats."""
    if isinstance(tree, list):
        return [plain(item) for item in tree]
    if isinstance(tree, dict):
        return {key: plain(item) for key, item in tree.items()}
    if type(tree) is int and not -(2**63) <= tree < 2**64:
        return float(tree)
    return tree


def _bounded(tree: Any) -> Any:
    """Replace lone surrogates in place; refuse what is too deep or has too many parts."""
    holder = [tree]
    level: list[Any] = [holder]
    nodes = 0
    for _ in range(MAX_JSON_DEPTH):
        below: list[Any] = []
        for container in level:
            nodes += len(container)
            if isinstance(container, dict):
                _clean_object(container, below)
            else:
                for index, item in enumerate(container):
                    if isinstance(item, str):
                        if not item.isascii():
                            container[index] = _SURROGATE.sub("\ufffd", item)
                    elif isinstance(item, dict | list):
                        below.append(item)
        if nodes > MAX_JSON_NODES:
            raise ProtocolViolationError(f"it sent JSON of more than {MAX_JSON_NODES} parts")
        if not below:
            return holder[0]
        level = below
    raise ProtocolViolationError(f"it sent JSON nested more than {MAX_JSON_DEPTH} levels deep")


def _clean_object(container: dict[str, Any], below: list[Any]) -> None:
    for key, item in list(container.items()):
        if not key.isascii() and _SURROGATE.search(key):
            raise ProtocolViolationError("it sent an object key that is not text")
        if isinstance(item, str):
            if not item.isascii():
                container[key] = _SURROGATE.sub("\ufffd", item)
        elif isinstance(item, dict | list):
            below.append(item)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("an object names a key twice")  # two readers could each believe another one
    return made


def _int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"an integer of {len(text)} digits")
    return int(text)


def _float(text: str) -> float:
    number = float(text) if len(text) <= 400 else math.inf
    if not math.isfinite(number):
        raise ValueError("a number that is not finite")
    return number


def _constant(_: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")


_DECODER: Final = json.JSONDecoder(
    parse_constant=_constant, parse_float=_float, parse_int=_int, object_pairs_hook=_object
)

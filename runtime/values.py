"""Values between nodes, to and from the wire: exact where they are plain data, a handle where they are not.

The tags are in ``wire.py``. A value comes back as the type it had; what has no tag (a model, a closure, a named
tuple) stays in this worker and travels as a number.
"""

from __future__ import annotations

import json
import math
import sys
from collections import OrderedDict
from collections.abc import Callable, Container, Iterator
from enum import Enum
from typing import Any

from . import passing, plain, tensors, wire
from .blocker import ExecutionBlocker
from .files import Offered, SharedFiles
from .handles import HandleTable
from .peer import RpcError

#: JSON levels that a value may nest; the rest of MAX_DEPTH is for the message around it.
_DEPTH = wire.MAX_DEPTH - 8
#: A tree of more parts than this is kept as an object: it is a graph of shared parts, or nothing for JSON. The host
#: reads a million parts of JSON; a tag takes up to six.
_MAX_PARTS = 900_000
#: The host refuses numbers of more than 128 digits: printing and parsing them takes for ever.
_MAX_INT_BITS = 400
#: Bytes of values that one reply holds in its frame before everything else goes to files.
_REPLY_BUDGET = wire.MAX_FRAME // 2
_SMALL = 256
#: A value with live objects in it stays in the frame up to this size, so that they can go through other sandboxes.
_MAX_READ_PARTS = 10_000
_MAX_READ = 1 << 20
_ONE_PART = frozenset({type(None), bool, int, float, str})


class _TooDeepError(Exception):
    """A value is nested too deeply, or holds itself, or has too many parts."""


class Encoder:
    """Encodes the values of one reply, and can take them all back."""

    def __init__(
        self,
        files: SharedFiles,
        handles: HandleTable,
        given: Container[str] = (),
        offered: Offered | None = None,
    ) -> None:
        self._files = files
        self._handles = handles
        self._given = given  # files that this call was granted
        self._offered = offered
        self._budget = _REPLY_BUDGET
        self._published: list[str] = []
        self._kept: list[int] = []
        self._size = 0
        self._parts = 0
        self._has_foreign = False

    def encode(self, value: Any) -> Any:
        """Return the wire form of ``value``.

        Raises:
            RpcError: a tensor in it has no portable form, or the host refused the space.
        """
        self._size = self._parts = 0
        self._has_foreign = False
        files, kept = len(self._published), len(self._kept)
        try:
            tree = self._encode(value, _DEPTH)
        except _TooDeepError:
            self._take_back(files, kept)
            return self._handle(value)
        limit = wire.INLINE_LIMIT if self._budget > wire.INLINE_LIMIT else _SMALL
        # What the host has to put something else in the place of stays in the frame.
        if (
            self._size > limit // 8 and not self._has_foreign
        ):  # an estimate; only then is it worth serialising to know
            body = json.dumps(tree, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
            data = body.encode("utf-8", "backslashreplace")
            self._size = max(len(data), 4 * self._parts)
            if len(data) > limit:
                tree = {wire.TAG_JSON: {"file": self._publish(data), "nbytes": len(data)}}
                self._size = 100
        self._budget -= self._size
        return tree

    def check_fits(self) -> None:
        """Call it once everything is encoded.

        Raises:
            RpcError: there are so many values that even their references do not fit one frame.
        """
        if self._budget < -_REPLY_BUDGET // 2:
            raise RpcError(
                wire.VALUE_NOT_PORTABLE,
                "the node returned too many values for one answer",
                {"what": "result"},
            )

    def rollback(self) -> None:
        """Give back every file and handle of this reply: it will not be sent."""
        self._take_back(0, 0)

    def _take_back(self, files: int, kept: int) -> None:
        for name in self._published[files:]:
            self._files.discard(name)
        self._handles.release(self._kept[kept:])
        del self._published[files:], self._kept[kept:]

    def _encode(self, value: Any, depth: int) -> Any:
        self._size += 8
        self._parts += 1 if type(value) in _ONE_PART else 7
        if depth < 0 or self._parts > _MAX_PARTS:
            raise _TooDeepError
        encode = _EXACT.get(type(value))
        if encode is not None:
            return encode(self, value, depth)
        return self._other(value, depth)

    def _other(self, value: Any, depth: int) -> Any:
        """Everything whose exact type is not in the table."""
        if type(value) is passing.LiveObject:
            self._has_foreign = True
            return {wire.TAG_FOREIGN: {"id": passing.number_of(value)}}
        if tensors.is_tensor(value):
            return {
                wire.TAG_TENSOR: self._note(
                    tensors.encode_tensor(value, self._files, self._given, self._offered)
                )
            }
        if tensors.is_array(value):
            return {
                wire.TAG_ARRAY: self._note(
                    tensors.encode_array(value, self._files, self._given, self._offered)
                )
            }
        numpy = sys.modules.get("numpy")
        if numpy is not None and isinstance(value, numpy.generic):
            return self._numpy_scalar(value, depth)
        if isinstance(value, ExecutionBlocker):
            return {
                wire.TAG_BLOCKER: None if value.message is None else plain.clean(str(value.message))[:4000]
            }
        torch = sys.modules.get("torch")
        if torch is not None and type(value) is torch.Size:
            return self._tuple(tuple(value), depth)
        if isinstance(value, (str, int, float)) and (isinstance(value, Enum) or not vars_of(value)):
            # Choices of an Enum and trick subclasses: what matters to the next node is that they are text or number.
            return self._encode(_bare(value), depth)
        return self._handle(value)

    def _none_or_bool(self, value: Any, depth: int) -> Any:
        del depth
        return value

    def _int(self, value: int, depth: int) -> Any:
        del depth
        if value.bit_length() > _MAX_INT_BITS:
            return self._handle(value)
        self._size += value.bit_length() // 3
        return value

    def _float(self, value: float, depth: int) -> Any:
        del depth
        self._size += 12
        if math.isfinite(value):
            return value
        return {wire.TAG_FLOAT: "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"}

    def _complex(self, value: complex, depth: int) -> Any:
        return {wire.TAG_COMPLEX: [self._float(value.real, depth), self._float(value.imag, depth)]}

    def _str(self, value: str, depth: int) -> Any:
        del depth
        self._size += len(value)
        if len(value) * 4 <= wire.INLINE_LIMIT and value.isascii():
            return value
        try:
            data = value.encode()
        except UnicodeEncodeError:  # a lone surrogate: JSON parsers refuse it, so it goes round them
            data = value.encode("utf-8", "surrogatepass")
        else:
            if len(data) <= wire.INLINE_LIMIT:
                return value
        self._size -= len(value)
        return {wire.TAG_STR: {"file": self._publish(data), "nbytes": len(data)}}

    def _bytes(self, value: bytes | bytearray, depth: int) -> Any:
        del depth
        self._size += 60
        file = self._publish(value) if value else None
        return {wire.TAG_BYTES: {"file": file, "nbytes": len(value), "mutable": isinstance(value, bytearray)}}

    def _list(self, value: list[Any], depth: int) -> Any:
        return [self._encode(item, depth - 1) for item in value]

    def _tuple(self, value: tuple[Any, ...], depth: int) -> Any:
        return {wire.TAG_TUPLE: [self._encode(item, depth - 2) for item in value]}

    def _set(self, value: set[Any] | frozenset[Any], depth: int) -> Any:
        return {wire.TAG_SET: [self._encode(item, depth - 2) for item in value]}

    def _dict(self, value: dict[Any, Any], depth: int) -> Any:
        if all(type(key) is str and not key.startswith("$") and _is_short_text(key) for key in value):
            tree = {}
            for key, item in value.items():
                self._size += len(key)
                tree[key] = self._encode(item, depth - 1)
            return tree
        pairs = [[self._encode(key, depth - 3), self._encode(item, depth - 3)] for key, item in value.items()]
        return {wire.TAG_DICT: pairs}

    def _numpy_scalar(self, value: Any, depth: int) -> Any:
        if value.dtype.kind in "biufc" and value.dtype.name in wire.ITEMSIZE:
            item = self._encode(value.item(), depth - 2)
            return {wire.TAG_SCALAR: {"dtype": value.dtype.newbyteorder("<").str, "value": item}}
        if value.dtype.kind in "SU":
            return self._encode(value.item(), depth)
        return self._handle(value)

    def _handle(self, value: Any) -> Any:
        payload = self._handles.put(value)
        self._kept.append(payload["id"])
        self._size += 60 + len(payload["type"])
        return {wire.TAG_HANDLE: payload}

    def _note(self, ref: dict[str, Any]) -> dict[str, Any]:
        self._size += 150
        if ref["file"] is not None and ref["file"] not in self._given:
            self._published.append(ref["file"])
        return ref

    def _publish(self, data: bytes | bytearray) -> str:
        name = self._files.publish([memoryview(data)], len(data), self._offered)
        self._published.append(name)
        return name


_EXACT: dict[type, Callable[[Encoder, Any, int], Any]] = {
    type(None): Encoder._none_or_bool,  # noqa: SLF001 - the table of this class
    bool: Encoder._none_or_bool,  # noqa: SLF001
    int: Encoder._int,  # noqa: SLF001
    float: Encoder._float,  # noqa: SLF001
    complex: Encoder._complex,  # noqa: SLF001
    str: Encoder._str,  # noqa: SLF001
    bytes: Encoder._bytes,  # noqa: SLF001
    bytearray: Encoder._bytes,  # noqa: SLF001
    list: Encoder._list,  # noqa: SLF001
    tuple: Encoder._tuple,  # noqa: SLF001
    set: Encoder._set,  # noqa: SLF001
    frozenset: Encoder._set,  # noqa: SLF001
    dict: Encoder._dict,  # noqa: SLF001
    OrderedDict: Encoder._dict,  # noqa: SLF001
}


class Decoder:
    """Decodes values that the host sent; it decodes nothing that it would have to trust."""

    def __init__(self, files: SharedFiles, handles: HandleTable) -> None:
        self._files = files
        self._handles = handles

    def decode(self, tree: Any) -> Any:
        """Return the value of a wire form.

        Raises:
            RpcError: a reference leads nowhere, or the tree is not of ``wire.py``'s grammar (VALUE_NOT_PORTABLE).
        """
        try:
            return self._decode(tree)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RpcError(
                wire.VALUE_NOT_PORTABLE,
                f"a value cannot be decoded: {type(error).__name__}: {error}",
                {"what": "value"},
            ) from error

    def _decode(self, tree: Any) -> Any:
        if isinstance(tree, list):
            return [self._decode(item) for item in tree]
        if not isinstance(tree, dict):
            return tree
        if len(tree) == 1:
            (tag,) = tree
            decode = _BY_TAG.get(tag)
            if decode is not None:
                return decode(self, tree[tag])
        return {key: self._decode(item) for key, item in tree.items()}

    def _pairs(self, payload: list[list[Any]]) -> dict[Any, Any]:
        return {_frozen(self._decode(key)): self._decode(item) for key, item in payload}

    def _scalar(self, payload: dict[str, Any]) -> Any:
        item = self._decode(payload["value"])
        try:
            import numpy as np
        except ImportError:
            return item
        return np.dtype(payload["dtype"]).type(item)

    def _bytes(self, payload: dict[str, Any]) -> bytes | bytearray:
        data = self._content(payload)
        return data if payload["mutable"] else bytes(data)

    def _json(self, payload: dict[str, Any]) -> Any:
        return self._decode(json.loads(self._content(payload)))

    def _content(self, payload: dict[str, Any]) -> bytearray:
        return self._files.read(payload["file"], payload["nbytes"]) if payload["nbytes"] else bytearray()


_BY_TAG: dict[str, Callable[[Decoder, Any], Any]] = {
    wire.TAG_TUPLE: lambda decoder, payload: tuple(decoder.decode(item) for item in payload),
    wire.TAG_DICT: Decoder._pairs,  # noqa: SLF001
    wire.TAG_SET: lambda decoder, payload: {_frozen(decoder.decode(item)) for item in payload},
    wire.TAG_FLOAT: lambda _, payload: float(payload),
    wire.TAG_COMPLEX: lambda decoder, payload: complex(*(decoder.decode(part) for part in payload)),
    wire.TAG_TENSOR: lambda decoder, payload: tensors.decode_tensor(payload, decoder._files),  # noqa: SLF001
    wire.TAG_ARRAY: lambda decoder, payload: tensors.decode_array(payload, decoder._files),  # noqa: SLF001
    wire.TAG_SCALAR: Decoder._scalar,  # noqa: SLF001
    wire.TAG_BYTES: Decoder._bytes,  # noqa: SLF001
    wire.TAG_STR: lambda decoder, payload: decoder._content(payload).decode("utf-8", "surrogatepass"),  # noqa: SLF001
    wire.TAG_JSON: Decoder._json,  # noqa: SLF001
    wire.TAG_HANDLE: lambda decoder, payload: decoder._handles.get(payload),  # noqa: SLF001
    wire.TAG_FOREIGN: lambda decoder, payload: decoder._handles.stand_ins.get(payload),  # noqa: SLF001
    wire.TAG_BLOCKER: lambda _, payload: ExecutionBlocker(payload),
}


def files_in(tree: Any) -> Iterator[str]:
    """The names of all files of tensors and arrays in an encoded value."""
    if isinstance(tree, list):
        for item in tree:
            yield from files_in(item)
    elif isinstance(tree, dict):
        for tag, item in tree.items():
            if tag in {wire.TAG_TENSOR, wire.TAG_ARRAY}:
                if item["file"] is not None:
                    yield item["file"]
            else:
                yield from files_in(item)


def _frozen(value: Any) -> Any:
    """A set that was a member or a key must have been a frozenset."""
    if isinstance(value, tuple):
        return tuple(_frozen(item) for item in value)
    return frozenset(value) if isinstance(value, set) else value


def vars_of(value: Any) -> dict[str, Any]:
    """The instance attributes of a value; empty when it has none."""
    attributes = getattr(value, "__dict__", None)
    return attributes if isinstance(attributes, dict) else {}


def _bare(value: str | float) -> str | int | float:
    """The bare text or number of a subclass, past whatever operators it overrides."""
    if isinstance(value, str):
        return str.__str__(value)
    return int.__index__(value) if isinstance(value, int) else float.__float__(value)


def _is_short_text(key: str) -> bool:
    return len(key) < 4096 and (key.isascii() or plain.clean(key) == key)

"""Encoded values (docs/protocol.md): what a worker may send as one, what it refers to, and plain data made into one.

``Reader`` checks every tag, every tensor ref and every file name of values that came from a worker, and collects the
files and object handles they name. Nothing here touches a file: names are only compared later with what the host
allocated, and bytes are never looked at.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from policies import SandboxId, safe_text
from runtime import wire
from sandbox.calls import ForeignHandle, measure
from sandbox.errors import HandleNotPortableError, ProtocolViolationError, QuotaError

MAX_FILE_BYTES: Final = 1 << 46
MAX_DIMENSIONS: Final = 64
MAX_HANDLE: Final = 2**53
HANDLE_TYPE_LIMIT: Final = 200
BLOCKER_LIMIT: Final = 10_000
_FILE = re.compile(r"[0-9a-f]{32}\Z")
_NUMPY_DTYPE = re.compile(r"[<>|=]?[A-Za-z][A-Za-z0-9_\[\]]{0,23}\Z")
_FLOATS: Final = frozenset({"nan", "inf", "-inf"})


@dataclass(slots=True)
class Parsed:
    """One checked value and what it refers to; ``files`` are still the sandbox's."""

    tree: Any
    files: dict[str, int] = field(default_factory=dict)
    handles: dict[int, None] = field(default_factory=dict)
    foreign: dict[tuple[SandboxId, int], None] = field(default_factory=dict)
    """Handles of other sandboxes that this one was given to hand on."""
    weight: int = 0
    """Memory of the tree itself; only known when the reader counts parts."""
    json_files: dict[str, int] = field(default_factory=dict)
    """Those of ``files`` that hold an encoded value themselves, which must be read before it is known what it names."""

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())


class Reader:
    """Checks values of one sandbox. ``nested``: the content of a ``$json`` file, which may hold no further one.

    ``max_parts``: JSON values in all that is read together, where that is to be bounded. ``foreign``: the objects of
    other sandboxes that it may hand on.
    """

    def __init__(
        self,
        sandbox: SandboxId,
        *,
        nested: bool = False,
        max_parts: int | None = None,
        foreign: Mapping[int, ForeignHandle] | None = None,
    ) -> None:
        self._sandbox = sandbox
        self._foreign = foreign or {}
        self._parts_left = max_parts
        self._nested = nested

    def read(self, tree: Any) -> Parsed:
        """Check one encoded value.

        Raises:
            ProtocolViolationError: it is none, or is nested deeper than ``MAX_DEPTH``.
            QuotaError: it has more parts than are left.
            HandleNotPortableError: it hands on an object that it was not given.
        """
        parsed = Parsed(None)
        if self._parts_left is not None:
            parts, parsed.weight = measure(tree)
            self._parts_left -= parts
            if self._parts_left < 0:
                raise QuotaError(
                    "the node returned too many values in lists and dicts for one message",
                    "return arrays, or fewer values at once",
                )
        parsed.tree = self._value(tree, parsed, 0)
        return parsed

    def _value(self, tree: Any, into: Parsed, depth: int) -> Any:
        if tree is None or isinstance(tree, bool | int | float | str):
            return tree
        if depth >= wire.MAX_DEPTH:
            raise _bad(f"a value nested more than {wire.MAX_DEPTH} levels deep")
        if isinstance(tree, list):
            return [self._value(item, into, depth + 1) for item in tree]
        if not isinstance(tree, dict):
            raise _bad(f"a value of type {type(tree).__name__}")
        if not any(key.startswith("$") for key in tree):
            return {key: self._value(item, into, depth + 1) for key, item in tree.items()}
        if len(tree) != 1:
            raise _bad("an object that mixes a tag with other keys")
        ((tag, body),) = tree.items()
        if tag == wire.TAG_FOREIGN:
            return self._handed_on(body, into)
        check = _CHECKS.get(tag)
        if check is None:
            raise _bad(f"an unknown tag {tag!r:.40}")
        return {tag: check(self, body, into, depth)}

    def _sequence(self, body: Any, into: Parsed, depth: int) -> Any:
        if not isinstance(body, list):
            raise _bad("a tuple or set that is not an array")
        return [self._value(item, into, depth + 1) for item in body]

    def _dict(self, body: Any, into: Parsed, depth: int) -> Any:
        if not isinstance(body, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in body):
            raise _bad("a dict that is not an array of pairs")
        return [[self._value(part, into, depth + 1) for part in pair] for pair in body]

    def _float(self, body: Any, _into: Parsed, _depth: int) -> Any:
        if not isinstance(body, str) or body not in _FLOATS:
            raise _bad("a $float that is neither nan nor infinite")
        return body

    def _complex(self, body: Any, into: Parsed, depth: int) -> Any:
        if not isinstance(body, list) or len(body) != 2:
            raise _bad("a $complex that is not a pair")
        return [self._number(part, into, depth) for part in body]

    def _number(self, part: Any, into: Parsed, depth: int) -> Any:
        if type(part) in (int, float):
            return part
        if isinstance(part, dict) and tuple(part) == (wire.TAG_FLOAT,):
            return self._value(part, into, depth + 1)
        raise _bad("a part of a number that is none")

    def _tensor(self, body: Any, into: Parsed, _depth: int) -> Any:
        _keys(body, wire.TENSOR_REF, "tensor ref")
        itemsize = wire.ITEMSIZE.get(body["dtype"]) if isinstance(body["dtype"], str) else None
        if itemsize is None:
            raise _bad(f"a tensor of unknown dtype {body['dtype']!r:.40}")
        shape, nbytes = body["shape"], body["nbytes"]
        if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS:
            raise _bad(f"a tensor whose shape is not an array of at most {MAX_DIMENSIONS} sizes")
        expected = itemsize
        for size in shape:
            if type(size) is not int or not 0 <= size <= MAX_FILE_BYTES:
                raise _bad("a tensor with a size that is no size")
            # Stays small: each factor is bounded, and a product over the cap is refused at once.
            expected *= size
            if expected > MAX_FILE_BYTES and 0 not in shape:
                raise _bad("a tensor larger than any memory")
        if type(body["requires_grad"]) is not bool:
            raise _bad("a tensor ref whose requires_grad is no boolean")
        if type(nbytes) is not int or nbytes != expected:
            raise _bad(f"a tensor of {nbytes!r:.24} bytes whose shape and dtype make {expected}")
        self._file(body, into)
        return body

    def _scalar(self, body: Any, into: Parsed, depth: int) -> Any:
        _keys(body, ("dtype", "value"), "scalar")
        if not isinstance(body["dtype"], str) or not _NUMPY_DTYPE.match(body["dtype"]):
            raise _bad(f"a scalar of unknown dtype {body['dtype']!r:.40}")
        value = body["value"]
        if not isinstance(value, bool | int | float | str):
            if not isinstance(value, dict) or tuple(value) not in ((wire.TAG_FLOAT,), (wire.TAG_COMPLEX,)):
                raise _bad("a scalar that is not a number")
            self._value(value, into, depth + 1)
        return body

    def _bytes(self, body: Any, into: Parsed, _depth: int) -> Any:
        _keys(body, ("file", "nbytes", "mutable"), "bytes ref")
        if type(body["mutable"]) is not bool:
            raise _bad("a bytes ref whose 'mutable' is no boolean")
        self._file(body, into)
        return body

    def _text(self, body: Any, into: Parsed, _depth: int) -> Any:
        _keys(body, ("file", "nbytes"), "string ref")
        self._file(body, into)
        return body

    def _json(self, body: Any, into: Parsed, _depth: int) -> Any:
        if self._nested:
            raise _bad("a JSON file inside a JSON file")
        _keys(body, ("file", "nbytes"), "JSON ref")
        self._file(body, into)
        if body["file"] is None:
            raise _bad("an empty JSON file")
        into.json_files[body["file"]] = body["nbytes"]
        return body

    def _handle(self, body: Any, into: Parsed, _depth: int) -> Any:
        if not isinstance(body, dict) or not {"id", "type"} <= body.keys() <= {"id", "type", "sandbox"}:
            raise _bad("an object handle with other fields than id and type")
        if (
            type(body["id"]) is not int
            or not 0 <= body["id"] <= MAX_HANDLE
            or not isinstance(body["type"], str)
        ):
            raise _bad("an object handle whose id is no number")
        into.handles[body["id"]] = None
        # Set here, whatever the worker said: it is what keeps a handle in the sandbox that holds the object.
        return {
            "id": body["id"],
            "type": safe_text(body["type"], HANDLE_TYPE_LIMIT),
            "sandbox": self._sandbox,
        }

    def _handed_on(self, body: Any, into: Parsed) -> Any:
        """Once more the handle that the worker was given a number for."""
        _keys(body, ("id",), "stand-in")
        if self._nested:
            raise _bad("a stand-in in a file")
        known = self._foreign.get(body["id"]) if type(body["id"]) is int else None
        if known is None:
            raise HandleNotPortableError(
                "the node returned a stand-in for another extension's live object that it was not given in this prompt",
                "it may have kept one of an earlier prompt",
            )
        into.foreign[(known.sandbox, known.id)] = None
        return {wire.TAG_HANDLE: {"id": known.id, "type": known.type, "sandbox": known.sandbox}}

    def _blocker(self, body: Any, _into: Parsed, _depth: int) -> Any:
        if body is not None and not isinstance(body, str):
            raise _bad("a blocker whose message is no text")
        return None if body is None else safe_text(body, BLOCKER_LIMIT, newlines=True)

    @staticmethod
    def _file(body: dict[str, Any], into: Parsed) -> None:
        name, nbytes = body["file"], body["nbytes"]
        if type(nbytes) is not int or not 0 <= nbytes <= MAX_FILE_BYTES:
            raise _bad(f"a file of {nbytes!r:.24} bytes")
        if nbytes == 0 and name is None:
            return
        if not isinstance(name, str) or not _FILE.match(name):
            raise _bad(f"a file name that the host does not give: {name!r:.60}")
        if into.files.setdefault(name, nbytes) != nbytes:
            raise _bad("one file with two sizes")


_Check = Callable[[Reader, Any, Parsed, int], Any]
# The whole table of what a tag may be; a tag that is not here does not exist.
_CHECKS: Final[dict[str, _Check]] = {
    wire.TAG_TUPLE: Reader._sequence,  # noqa: SLF001
    wire.TAG_SET: Reader._sequence,  # noqa: SLF001
    wire.TAG_DICT: Reader._dict,  # noqa: SLF001
    wire.TAG_FLOAT: Reader._float,  # noqa: SLF001
    wire.TAG_COMPLEX: Reader._complex,  # noqa: SLF001
    wire.TAG_TENSOR: Reader._tensor,  # noqa: SLF001
    wire.TAG_ARRAY: Reader._tensor,  # noqa: SLF001
    wire.TAG_SCALAR: Reader._scalar,  # noqa: SLF001
    wire.TAG_BYTES: Reader._bytes,  # noqa: SLF001
    wire.TAG_STR: Reader._text,  # noqa: SLF001
    wire.TAG_JSON: Reader._json,  # noqa: SLF001
    wire.TAG_HANDLE: Reader._handle,  # noqa: SLF001
    wire.TAG_BLOCKER: Reader._blocker,  # noqa: SLF001
}


def constant(data: Any) -> Any:
    """Plain JSON data (a prompt's widget value) as an encoded value: nothing in it can pass for a tag.

    A user who writes ``{"$tensor": ...}`` into a prompt gets a dict with that key, not somebody's tensor.
    """
    if isinstance(data, float) and not math.isfinite(data):
        return {wire.TAG_FLOAT: "nan" if math.isnan(data) else "inf" if data > 0 else "-inf"}
    if isinstance(data, list | tuple):
        return [constant(item) for item in data]
    if isinstance(data, dict):
        if any(str(key).startswith("$") for key in data):
            return {wire.TAG_DICT: [[constant(key), constant(item)] for key, item in data.items()]}
        return {key: constant(item) for key, item in data.items()}
    return data


def _keys(body: Any, names: tuple[str, ...], what: str) -> None:
    if not isinstance(body, dict) or body.keys() != set(names):
        raise _bad(f"a {what} with other fields than {', '.join(names)}")


def _bad(what: str) -> ProtocolViolationError:
    return ProtocolViolationError(f"it sent {what}")

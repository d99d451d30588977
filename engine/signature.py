"""Cache keys: what makes two node instances the same computation (execution-semantics §4.1).

ComfyUI writes down a node's own part and that of every ancestor, which is quadratic in a chain. Here each node's digest
holds its own part and the digests of its sources, so the total is linear. Identity follows the same rules: class,
IS_CHANGED value, id where the class asks for it, inputs in sorted order, constants by Python equality. One case is
wider on purpose: sources that are equal but distinct count as one, and since equal nodes share one result, so does
everything that hangs on them.

What never matches (NaN, objects, links into nowhere) gets a digest of its own, new in every run.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, NamedTuple

from engine.graph import Graph, GraphNode
from engine.prompt import Link
from engine.values import encode
from sandbox.calls import Value

JSON = Any

DIGEST_SIZE: Final = 20
_FORMS: Final = tuple(struct.Struct(f">{count + 1}Q") for count in range(64))
"""Of numbers and lengths of so many parts."""


class CacheKey(NamedTuple):
    """Where a result is kept. ``scope`` is the sub-cache of an expanding node, empty for submitted nodes; ``root`` the
    (id, class) of the submitted node above it, so that whole sub-caches can be dropped with it."""

    digest: bytes
    scope: bytes = b""
    root: tuple[str, str] | None = None


class NeverEqualError(Exception):
    """A value equals nothing, not even itself."""


class Signatures:
    """Digests and cache keys of one run, extended as expansions add nodes."""

    def __init__(self, graph: Graph, run: str, *, sub_caches: bool) -> None:
        self._graph = graph
        self._run = run.encode()
        self._sub_caches = sub_caches
        self._digests: dict[str, bytes] = {}
        self._scopes: dict[str, bytes] = {}  # by id of the expanding node
        self.fleeting: set[str] = set()
        """Nodes whose key no later run can have: they, or one that they depend on, equal nothing."""
        self.keys: dict[str, CacheKey] = {}

    def extend(self, node_ids: Iterable[str], is_changed: Mapping[str, JSON]) -> None:
        """Compute the keys of these nodes.

        ``is_changed``: encoded results of the nodes that have the method.
        """
        listed = list(node_ids)
        if self._digests:
            for node_id in listed:
                self._digests.pop(node_id, None)  # of a node that an expansion, done again, replaces
                self.fleeting.discard(node_id)
        nodes, digests, keys = self._graph.nodes, self._digests, self.keys
        for node_id in listed:
            if node_id not in digests:
                self._compute(node_id, is_changed)
            if self._sub_caches and nodes[node_id].parent is not None:
                keys[node_id] = self._key(nodes[node_id])
            else:
                keys[node_id] = CacheKey(digests[node_id])

    def scope(self, node_id: str) -> bytes:
        """The sub-cache for children of ``node_id``."""
        known = self._scopes.get(node_id)
        if known is None:
            node = self._graph[node_id]
            above = self._scopes.get(node.parent, b"") if node.parent is not None else b""
            known = _digest(
                above,
                node_id.encode("utf-8", "surrogatepass"),
                node.class_type.encode("utf-8", "surrogatepass"),
            )
            self._scopes[node_id] = known
        return known

    def _key(self, node: GraphNode) -> CacheKey:
        root = self._graph[node.real]
        scope = b"" if node.parent is None else self.scope(node.parent)
        return CacheKey(self._digests[node.node_id], scope, (root.node_id, root.class_type))

    def _compute(self, node_id: str, is_changed: Mapping[str, JSON]) -> None:
        open_nodes: set[str] = set()
        stack, nodes, digests = [node_id], self._graph.nodes, self._digests
        while stack:
            current = stack[-1]
            if current in digests:
                stack.pop()
                continue
            node = nodes[current]
            sources = node.sources
            if sources and current not in open_nodes:
                open_nodes.add(current)
                count = len(stack)
                for link in sources.values():
                    source = link.source
                    # One that is open already is part of a cycle: never equal.
                    if source not in digests and source not in open_nodes and source in nodes:
                        stack.append(source)
                if len(stack) > count:
                    continue
            digests[current] = self._digest(node, sources, is_changed)
            if self.fleeting:
                for link in sources.values():
                    if link.source in self.fleeting:
                        self.fleeting.add(current)
                        break
            stack.pop()

    def _digest(self, node: GraphNode, sources: Mapping[str, Link], is_changed: Mapping[str, JSON]) -> bytes:
        description, constants = node.node_type.description, node.constants
        try:
            parts = [
                node.class_type.encode("utf-8", "surrogatepass"),
                node.node_type.version.encode(),
                canonical(is_changed[node.node_id])
                if is_changed and node.node_id in is_changed
                else _UNCHANGED,
            ]
            if description.not_idempotent or (
                description.hidden and description.api == "v1" and "UNIQUE_ID" in description.hidden.values()
            ):
                parts.append(b"id" + node.node_id.encode("utf-8", "surrogatepass"))
            names: Collection[str] = {*constants, *sources} if constants and sources else constants or sources
            for name in sorted(names) if len(names) > 1 else names:
                parts.append(name.encode("utf-8", "surrogatepass"))
                link = sources.get(name)
                if link is None:
                    value = constants[name]
                    # Encoded first: a prompt may hold {"$tuple": [1]}, which is an object and not a tuple.
                    parts.append(b"c" + canonical(value.tree if isinstance(value, Value) else encode(value)))
                else:
                    source = self._digests.get(link.source)
                    if source is None:
                        raise NeverEqualError
                    parts.append(b"l" + source + str(link.slot).encode())
        except NeverEqualError:
            self.fleeting.add(node.node_id)
            return _digest(b"never", self._run, node.node_id.encode("utf-8", "surrogatepass"))
        return _digest(*parts)


def _digest(*parts: bytes) -> bytes:
    # Their number and lengths first, so that no two lists of parts are one text.
    count = len(parts)
    form = _FORMS[count] if count < len(_FORMS) else struct.Struct(f">{count + 1}Q")
    frame = form.pack(count, *map(len, parts))
    return hashlib.blake2b(b"".join((frame, *parts)), digest_size=DIGEST_SIZE).digest()


def canonical(value: JSON) -> bytes:
    """Bytes of an encoded value, equal exactly when ComfyUI's cache would call the constants equal.

    Numbers compare as in Python (1 == True == 1.0), objects without order, and an empty list equals an empty object
    (both are made the empty set of pairs there). Depth is bounded by whoever let the value in.

    Raises:
        NeverEqualError: NaN, or something that is neither JSON nor a tuple or dict of it.
    """
    if value is None:
        return b"n"
    if isinstance(value, str):
        return b"s" + value.encode("utf-8", "surrogatepass")
    if isinstance(value, int):  # bool too
        return b"i%x" % int(value) if value >= 0 else b"i-%x" % -int(value)
    if isinstance(value, float):
        return _canonical_float(value)
    if isinstance(value, list | tuple):
        return _pairs(b"q", (canonical(item) for item in value), is_ordered=True)
    if isinstance(value, dict):
        return _canonical_object(value)
    raise NeverEqualError


_UNCHANGED: Final = canonical(False)


def _canonical_float(value: float) -> bytes:
    if math.isnan(value):
        raise NeverEqualError
    if math.isinf(value):
        return b"f+inf" if value > 0 else b"f-inf"
    return canonical(int(value)) if value.is_integer() else b"f" + value.hex().encode()


def _canonical_object(value: dict[str, JSON]) -> bytes:
    if len(value) == 1:
        ((tag, body),) = value.items()
        if isinstance(tag, str) and tag.startswith("$"):
            return _canonical_tagged(tag, body)
    return _pairs(
        b"m", (_joined(canonical(key), canonical(item)) for key, item in value.items()), is_ordered=False
    )


def _canonical_tagged(tag: str, body: JSON) -> bytes:
    # The wire's tags (runtime/wire.py). Objects, sets, complex numbers, tensors and long strings never match.
    if tag == "$tuple" and isinstance(body, list):
        return canonical(body)
    if tag == "$float" and body in ("inf", "-inf"):
        return b"f+inf" if body == "inf" else b"f-inf"
    if tag == "$dict" and isinstance(body, list):
        return _pairs(
            b"m", (_joined(canonical(key), canonical(item)) for key, item in body), is_ordered=False
        )
    raise NeverEqualError


def _joined(key: bytes, item: bytes) -> bytes:
    return len(key).to_bytes(8, "big") + key + item


def _pairs(kind: bytes, items: Iterable[bytes], *, is_ordered: bool) -> bytes:
    listed = list(items) if is_ordered else sorted(items)
    if not listed:
        return b"empty"
    return kind + b"".join(len(item).to_bytes(8, "big") + item for item in listed)

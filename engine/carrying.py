"""Which nodes may only carry a live object, as far as their sockets tell: switches, reroutes, and pipes of several.

A socket of the object's own type, of any type, or of a type that some pack made up may hold it, bare or in a list,
tuple or dict of others (a pipe, a context). ComfyUI's own types hold what they are called after and nothing else. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from engine.prompt import as_link
from engine.registry import NodeType
from sandbox.calls import NodeDescription

JSON = Any

#: Nothing but objects in ComfyUI itself and in every pack that keeps to its types.
OBJECT_TYPES: Final = frozenset(
    {"MODEL", "CLIP", "VAE", "CONTROL_NET", "CLIP_VISION", "STYLE_MODEL", "GLIGEN", "UPSCALE_MODEL"}
    | {"SAMPLER", "GUIDER", "NOISE"}
)
#: Sockets that no object comes out of.
_PLAIN: Final = frozenset({"INT", "FLOAT", "STRING", "BOOLEAN", "NUMBER", "COMBO", "IMAGE", "MASK", "LATENT"})
#: ComfyUI's types that never have one of its objects in them.
_OF_THEIR_OWN: Final = OBJECT_TYPES | {"CONDITIONING", "SIGMAS", "AUDIO", "VIDEO", "CLIP_VISION_OUTPUT"}
_ANY_TYPES: Final = frozenset({"*", "ANY", "COMFY_MATCHTYPE_V3"})
_MOST_LOOKED_AT: Final = 500
"""Nodes; of what lies farther back nothing is said."""


def may_hold(socket: JSON, kind: str) -> bool:
    """Whether a value of type ``socket`` may have an object of type ``kind`` in it."""
    if not isinstance(socket, str):
        return False
    return any(
        name == kind
        or name.upper() in _ANY_TYPES
        or (name not in _PLAIN and (kind not in OBJECT_TYPES or name not in _OF_THEIR_OWN))
        for name in map(str.strip, socket.split(","))
    )


def can_hand_on(description: NodeDescription, kind: str | None = None) -> bool:
    """Whether a node may give back an object that it was given: it has an output for one, or adds nodes.

    ``kind``: the type that it was declared with, where that is known.
    """
    if description.enable_expand or description.any_outputs:
        return True
    outputs = description.info.get("output")
    return any(
        (isinstance(socket, str) and socket not in _PLAIN) if kind is None else may_hold(socket, kind)
        for socket in (outputs if isinstance(outputs, list | tuple) else ())
    )


def takes_anything(description: NodeDescription, name: str) -> bool:
    """Whether an input is of any type."""
    if {name, name.partition(".")[0]} & description.any_inputs:
        return True
    socket = declared_type(description, name)
    return isinstance(socket, str) and socket.upper() in _ANY_TYPES


def may_take(description: NodeDescription, name: str) -> bool:
    """Whether an input may be given an object of another sandbox at all.

    A node that has nowhere to hand it on to may still ask whether something is there ("is it none?") and answer with
    plain data. Those that only show what they are given are not among them: there is nothing to show.
    """
    if can_hand_on(description):
        return True
    asks = bool(description.info.get("output")) and not description.output_node
    return asks and takes_anything(description, name)


def declared_type(description: NodeDescription, name: str) -> JSON:
    """The type of an input; None for one that the class does not declare."""
    sections = description.info.get("input")
    for section in sections.values() if isinstance(sections, Mapping) else ():
        for candidate in (name, name.partition(".")[0]):
            spec = section.get(candidate) if isinstance(section, Mapping) else None
            if isinstance(spec, list | tuple) and spec:
                return spec[0]
    return None


def unit(node_type: NodeType) -> tuple[str, str]:
    """What shares a sandbox with it: its group, or itself."""
    return ("group", node_type.group) if node_type.group else ("extension", node_type.extension)


def may_come_from(
    wanted: tuple[str, str],
    node_id: str,
    kind: str,
    prompt: Mapping[str, JSON],
    types: Mapping[str, NodeType],
) -> bool:
    """Whether what comes out of a node may be an object that was made in ``wanted`` and only carried from there."""
    pending, seen = [node_id], {node_id}
    while pending:
        current = pending.pop()
        entry = prompt.get(current)
        node_type = types.get(str(entry.get("class_type"))) if isinstance(entry, Mapping) else None
        if entry is None or node_type is None or unit(node_type) == wanted:
            return True
        if node_type.description.enable_expand and current != node_id:
            return True  # into whosever nodes it likes
        for source in _carrying(entry, node_type.description, kind):
            if source not in seen:
                seen.add(source)
                pending.append(source)
        if len(seen) > _MOST_LOOKED_AT:
            return True
    return False


def _carrying(entry: Mapping[str, JSON], description: NodeDescription, kind: str) -> Iterator[str]:
    """Whose values a node may be handing on when it gives an object of ``kind``."""
    inputs = entry.get("inputs")
    for name, value in inputs.items() if isinstance(inputs, Mapping) else ():
        link = as_link(value)
        if link is None:
            continue
        socket = declared_type(description, name)
        if socket is None or takes_anything(description, name) or may_hold(socket, kind):
            yield link.source

"""Which arguments a node's function gets: decoded inputs, hidden values, V3's nested ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import dynamic, schema, wire
from .dynprompt import DynamicPrompt
from .sdk import registry
from .values import Decoder

_MISSING: tuple[None] = (None,)  # what a link without a value yet stands for; a tuple, as packs know it
AS_IT_IS = frozenset({int, float, str, bool, type(None)})
"""Kinds of values that are their own wire form, and need no decoding."""


@dataclass(slots=True)
class Gathered:
    """The material of one call, before list mapping."""

    arguments: dict[str, Sequence[Any]]
    hidden: dict[str, Any] = field(default_factory=dict)
    """Token -> value, for V3 classes (their function gets no hidden arguments)."""
    layout: dynamic.Layout | None = None
    """How dotted names nest; None when nothing is dynamic."""


def gather(cls: Any, params: Mapping[str, Any], decoder: Decoder, function: Any) -> Gathered:
    """Collect what the node's ``function`` may see of a call's parameters.

    Raises:
        RpcError: a value cannot be decoded.
        Exception: whatever the class's INPUT_TYPES raises.
    """
    sections = schema.input_types(cls)
    v3 = schema.is_v3(cls)
    encoded: Mapping[str, list[Any] | None] = params.get("inputs") or {}
    layout = None
    if v3 and dynamic.has_dynamic(sections):
        layout = dynamic.layout(sections, {name: _constant(tree) for name, tree in encoded.items()})
    passes: Callable[[str, bool], bool] | None = None
    required = sections.get("required")
    known: Any = required if layout is None and type(required) is dict else ()
    arguments: dict[str, Sequence[Any]] = {}
    for name, trees in encoded.items():
        if name not in known:
            if passes is None:
                passes = _filter(cls, sections, params.get("links"), layout, function)
            if not passes(name, trees is None):
                continue
        arguments[name] = (
            _MISSING
            if trees is None
            else [tree if type(tree) in AS_IT_IS else decoder.decode(tree) for tree in trees]
        )
    if not v3 and "hidden" not in sections and not params.get("hidden"):
        return Gathered(arguments)
    hidden = _hidden(params, decoder)
    if v3:
        return Gathered(arguments, hidden, layout)
    for name, token in schema.hidden_tokens(sections).items():
        # V1 takes bare tokens only: a tuple there is meant for the pack's browser code.
        if isinstance(sections["hidden"][name], str):
            arguments[name] = [hidden.get(token)]
    return Gathered(arguments)


def name_leaves(gathered: Gathered) -> None:
    """For the lazy question, parts of dynamic inputs come as ``(value, dotted name)``: the node can name them."""
    if gathered.layout is not None:
        for name in gathered.layout.places.keys() & gathered.arguments.keys():
            if "." in name:
                gathered.arguments[name] = [(item, name) for item in gathered.arguments[name]]


def select(gathered: Gathered, function: Any) -> None:
    """Keep only the arguments that ``function`` names, unless it takes any (validators)."""
    names, takes_any = schema.signature_of(function)
    if not takes_any:
        gathered.arguments = {name: value for name, value in gathered.arguments.items() if name in names}


def _constant(trees: list[Any] | None) -> Any:
    return trees[0] if trees and isinstance(trees[0], (str, int, float)) else None


def _filter(
    cls: Any, sections: Mapping[str, Any], links: Any, layout: dynamic.Layout | None, function: Any
) -> Callable[[str, bool], bool]:
    """Undeclared links are passed, undeclared constants dropped; "declared" is for the class's objects to say."""
    accepts_all = getattr(cls, "ACCEPT_ALL_INPUTS", False) is True
    linked = None if links is None else frozenset(links)

    def passes(name: str, is_missing_link: bool) -> bool:
        if accepts_all or is_missing_link:
            return True
        if layout is not None and name in layout.places:
            return True
        if schema.declares(sections, name) and (layout is None or _is_static(sections, name)):
            return True
        if linked is not None:
            return name in linked
        names, takes_any = schema.signature_of(function)
        return takes_any or name in names

    return passes


def _is_static(sections: Mapping[str, Any], name: str) -> bool:
    """False for a dynamic input whose choice is unknown: it counts as not declared at all."""
    return not any(
        dynamic.has_dynamic({key: {name: section[name]}})
        for key in ("required", "optional")
        if name in (section := sections.get(key, {}))
    )


def _hidden(params: Mapping[str, Any], decoder: Decoder) -> dict[str, Any]:
    values = {name.upper(): decoder.decode(tree) for name, tree in (params.get("hidden") or {}).items()}
    others = values.pop(wire.HIDDEN_CLASSES.upper(), None)
    if isinstance(others, dict):
        registry.node_classes.note_others(others)
    snapshot = params.get("dynprompt")
    if isinstance(snapshot, dict):
        values["DYNPROMPT"] = DynamicPrompt.from_wire(snapshot)
    values.setdefault("UNIQUE_ID", params.get("node_id"))
    values.setdefault("PROMPT", {})  # validators see an empty one
    return values

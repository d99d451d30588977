"""V3 inputs whose number and names depend on other inputs: growing lists, dependent choices, revealing sockets.

On the wire their parts have dotted names (``dc.x``); the node receives nested dicts. Which names are declared follows
from the templates in the node's declaration and from what the prompt holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

AUTOGROW = "COMFY_AUTOGROW_V3"
CHOICE = "COMFY_DYNAMICCOMBO_V3"
SLOT = "COMFY_DYNAMICSLOT_V3"
_DYNAMIC = frozenset({AUTOGROW, CHOICE, SLOT})
_SECTIONS = ("required", "optional")
_MAX_GROWN = 100


@dataclass(slots=True)
class Layout:
    """Where each dotted name belongs in the node's arguments."""

    places: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Declared dotted name -> keys from the outermost argument inward."""
    groups: list[tuple[str, ...]] = field(default_factory=list)
    """Dicts that the node receives even when nothing was put into them."""

    def nest(self, flat: Mapping[str, Any]) -> dict[str, Any]:
        """Return the node's arguments: ``flat`` with its dotted names folded into dicts."""
        nested: dict[str, Any] = {}
        for keys in self.groups:
            _descend(nested, keys)
        for name, value in flat.items():
            keys = self.places.get(name, (name,))
            _descend(nested, keys[:-1])[keys[-1]] = value
        return nested


def has_dynamic(input_types: Mapping[str, Any]) -> bool:
    """True when a declaration holds any dynamic input."""
    return any(
        _type_of(declaration) in _DYNAMIC
        for section in _SECTIONS
        for declaration in dict(input_types.get(section) or {}).values()
    )


def layout(input_types: Mapping[str, Any], chosen: Mapping[str, Any]) -> Layout:
    """Expand a declaration for the inputs that a prompt holds; ``chosen`` maps their names to constant values (links
    to anything)."""
    result = Layout()
    for section in _SECTIONS:
        for name, declaration in dict(input_types.get(section) or {}).items():
            _expand(result, name, (name,), declaration, chosen)
    return result


def _expand(
    result: Layout, name: str, keys: tuple[str, ...], declaration: Any, chosen: Mapping[str, Any]
) -> None:
    kind = _type_of(declaration)
    options = declaration[1] if kind in _DYNAMIC and len(declaration) > 1 else {}
    if kind == AUTOGROW:
        result.groups.append(keys)
        for child in _grown_names(options.get("template") or {}):
            result.places[f"{name}.{child}"] = (*keys, child)
    elif kind == CHOICE:
        for option in options.get("options") or ():
            if option.get("key") == chosen.get(name) and name in chosen:
                result.groups.append(keys)
                result.places[name] = (*keys, keys[-1])
                _expand_children(result, name, keys, option.get("inputs") or {}, chosen)
                break
    elif kind == SLOT:
        if name in chosen:
            result.groups.append(keys)
            result.places[name] = (*keys, keys[-1])
            _expand_children(result, name, keys, options.get("inputs") or {}, chosen)
    else:
        result.places[name] = keys


def _expand_children(
    result: Layout, name: str, keys: tuple[str, ...], inputs: Mapping[str, Any], chosen: Mapping[str, Any]
) -> None:
    for section in _SECTIONS:
        for child, declaration in dict(inputs.get(section) or {}).items():
            _expand(result, f"{name}.{child}", (*keys, child), declaration, chosen)


def _grown_names(template: Mapping[str, Any]) -> list[str]:
    names = template.get("names")
    if names is not None:
        return [str(name) for name in names][:_MAX_GROWN]
    prefix, count = str(template.get("prefix", "")), int(template.get("max", 10))
    return [f"{prefix}{index}" for index in range(min(count, _MAX_GROWN))]


def _type_of(declaration: Any) -> Any:
    if isinstance(declaration, (list, tuple)) and declaration and isinstance(declaration[0], str):
        return str.__str__(declaration[0])
    return None


def _descend(nested: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    for key in keys:
        inner = nested.get(key)
        if not isinstance(inner, dict):
            inner = nested[key] = {}
        nested = inner
    return nested

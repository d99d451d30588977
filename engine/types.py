"""Which output may be linked to which input (execution-semantics §2.2).

Types are what the declarations say: a string, a comma union, ``"*"``, or a list of combo options. Packs subclass
``str`` so that "not equal" is never true (the any-type trick); such an object cannot leave its sandbox, so the worker
reports where one stands and the caller passes that as ``*_is_any``.
"""

from __future__ import annotations

from typing import Any, Final

ANY = "*"
MATCH_TYPE = "COMFY_MATCHTYPE_V3"
COMBO = "COMBO"

#: Plain data or tensors as a rule; an object in one of them says nothing about the next value.
_PLAIN: Final = frozenset(
    {"*", "INT", "FLOAT", "STRING", "BOOLEAN", "NUMBER", "COMBO", "IMAGE", "MASK", "LATENT", "CONDITIONING"}
    | {"AUDIO", "VIDEO", "SIGMAS", "DICT", "LIST", "JSON", "ANY"}
)


def may_link(
    received: Any, declared: Any, *, received_is_any: bool = False, declared_is_any: bool = False
) -> bool:
    """True when an output of type ``received`` may feed an input of type ``declared``."""
    if received_is_any or declared_is_any or received == declared:
        return True
    if isinstance(received, list) and declared == COMBO:
        return True
    universal = (ANY, MATCH_TYPE)
    if received in universal or declared in universal:
        return True
    if not isinstance(received, str) or not isinstance(declared, str):
        return False
    offered, wanted = _members(received), _members(declared)
    return ANY in offered or ANY in wanted or not offered.isdisjoint(wanted)


def type_text(declared: Any) -> str:
    """A type as text for messages and for validators that ask for ``input_types``; a list of options is a combo."""
    return declared if isinstance(declared, str) else COMBO


def may_be_object(declared: str) -> bool:
    """Whether what was seen in an output of this type says whether the next value is a live object."""
    return declared.upper() not in _PLAIN and "," not in declared


def _members(union: str) -> set[str]:
    return {part.strip() for part in union.split(",")}

"""``nodes.NODE_CLASS_MAPPINGS``: the classes of this sandbox, and by name those of the prompt that live in others.

``mapping["Theirs"]`` is a class that knows what comes out of it; ``in``, ``get`` and iteration know this sandbox's
classes only, so that a pack which looks whether another one is installed takes its own way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MOST_KNOWN = 4096


class _NotHereError(NotImplementedError, AttributeError):
    """Something of a class was used that lives in another sandbox."""

    __module__ = "ringfence"


_NotHereError.__name__ = _NotHereError.__qualname__ = "NotProvidedError"


class _ForeignType(type):
    def __getattr__(cls, name: str) -> Any:
        raise _NotHereError(f"{cls.__name__}.{name}: {cls.__doc__}")

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        del args, kwargs
        raise _NotHereError(f"{cls.__name__}(): {cls.__doc__}")


class NodeClasses(dict[str, Any]):
    """The mapping."""

    def __init__(self) -> None:
        super().__init__()
        self._others: dict[str, Mapping[str, Any]] = {}

    def note_others(self, facts: Mapping[str, Mapping[str, Any]]) -> None:
        """Remember what the host says of classes in other sandboxes."""
        if len(self._others) + len(facts) > _MOST_KNOWN:
            self._others.clear()
        self._others.update(facts)

    def __missing__(self, class_type: str) -> Any:
        facts = self._others.get(class_type)
        if facts is None:
            raise KeyError(class_type)
        text = (
            f"this class belongs to extension '{facts['extension']}', which runs in another sandbox; only what comes "
            f"out of it is known here. A graph that this node returns as an expansion may use it"
        )
        return _ForeignType(
            class_type,
            (),
            {
                "__doc__": text,
                "OUTPUT_NODE": facts["output_node"],
                "RETURN_TYPES": tuple(facts["output"]),
                "RETURN_NAMES": tuple(facts["output_name"]),
                "OUTPUT_IS_LIST": tuple(facts["output_is_list"]),
            },
        )

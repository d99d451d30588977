"""Stand-ins for live objects of other sandboxes: they can be handed on, compared by identity and shown, not used.

A switch or reroute node gets one where ComfyUI gives the object itself; when it comes out again, the host knows which
object it stands for. Anything else that is done with it raises an error that says where it lives and what would help.
"""

from __future__ import annotations

import threading
from typing import Any, NoReturn
from weakref import WeakValueDictionary


class HandleNotPortableError(RuntimeError):
    """A live object of another sandbox was used, not only handed on."""


class _NoSuchProtocolError(HandleNotPortableError, AttributeError):
    """``hasattr(value, "__len__")`` is how switches tell lists from objects: asking is no use of it."""


# The name under which the host reports the same thing when it finds out itself.
HandleNotPortableError.__module__ = "ringfence"
_NoSuchProtocolError.__module__ = "ringfence"
_NoSuchProtocolError.__qualname__ = _NoSuchProtocolError.__name__ = HandleNotPortableError.__name__

#: Reads that passing on, ``isinstance``, copying and printing need.
_ALLOWED = frozenset(
    {"__class__", "__copy__", "__deepcopy__", "__repr__", "__str__", "__hash__", "__eq__", "__ne__"}
)
#: What is not asked for to find out what something is, but to take it apart.
_NEVER_ASKED = frozenset({"__dict__", "__reduce__", "__reduce_ex__", "__getstate__"})


class LiveObject:
    """Stands for an object that lives in another sandbox."""

    __slots__ = ("__weakref__", "_ringfence")

    def __init__(self, number: int, kind: str, text: str) -> None:
        object.__setattr__(self, "_ringfence", (number, kind, text))

    def __getattribute__(self, name: str) -> Any:
        if name not in _ALLOWED:
            what = f"attribute {name!r} was asked for"
            if name.startswith("__") and name.endswith("__") and name not in _NEVER_ASKED:
                raise _NoSuchProtocolError(f"{what}, but {_parts(self)[2]}")
            _refuse(self, what)
        return object.__getattribute__(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        _refuse(self, f"attribute {name!r} was set")

    def __delattr__(self, name: str) -> None:
        _refuse(self, f"attribute {name!r} was deleted")

    def __dir__(self) -> NoReturn:
        _refuse(self, "its attributes were listed")

    def __repr__(self) -> str:
        return f"<live {_parts(self)[1]} of another sandbox>"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __bool__(self) -> bool:
        return True

    __hash__ = object.__hash__
    __eq__ = object.__eq__

    def __copy__(self) -> LiveObject:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> LiveObject:
        return self

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        _refuse(self, "it was to be pickled")


def number_of(value: LiveObject) -> int:
    """By which number the host knows it."""
    return _parts(value)[0]


class StandIns:
    """Each number stands for one object as long as anybody here holds it, so that identity holds, too."""

    def __init__(self) -> None:
        self._known: WeakValueDictionary[int, LiveObject] = WeakValueDictionary()
        self._lock = threading.Lock()

    def get(self, payload: dict[str, Any]) -> LiveObject:
        """The stand-in of a TAG_FOREIGN payload."""
        number = int(payload["id"])
        with self._lock:
            known = self._known.get(number)
            if known is None:
                known = self._known[number] = LiveObject(number, str(payload["type"]), str(payload["text"]))
            return known


def _parts(value: LiveObject) -> tuple[int, str, str]:
    parts: tuple[int, str, str] = object.__getattribute__(value, "_ringfence")
    return parts


def _refuse(value: LiveObject, what: str) -> NoReturn:
    raise HandleNotPortableError(f"{what}, but {_parts(value)[2]}")


def _refusing(operation: str) -> Any:
    def refuse(self: LiveObject, *_: Any, **__: Any) -> NoReturn:
        _refuse(self, f"{operation} was used")

    return refuse


# ``__iter__`` is not among them: what has it counts as iterable, and switches ask that; iterating ends in __getitem__.
_USES = """
    call getitem setitem delitem len contains next enter exit aenter aexit await int float complex index bytes array
    neg pos abs invert lt le gt ge add radd sub rsub mul rmul truediv rtruediv floordiv mod pow matmul rmatmul and or
"""
for _name in _USES.split():
    setattr(LiveObject, f"__{_name}__", _refusing(f"__{_name}__"))

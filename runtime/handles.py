"""Live objects that cannot leave this worker: each goes by a number, and the number gives back the very same object."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

from . import aliases, plain, wire
from .passing import StandIns
from .peer import RpcError


class HandleTable:
    """Keeps what was handed out until the host lets go of it. Every hand-out has a number of its own, so the host's
    count of references never has to be guessed here."""

    def __init__(self) -> None:
        self._objects: dict[int, Any] = {}
        self._next = 1
        self._lock = threading.Lock()
        self.stand_ins = StandIns()

    def put(self, value: Any) -> dict[str, Any]:
        """Keep ``value``; return the payload of its TAG_HANDLE."""
        with self._lock:
            number = self._next
            self._next += 1
            self._objects[number] = value
        return {"id": number, "type": type_name(value)}

    def get(self, payload: dict[str, Any]) -> Any:
        """Return the object of a TAG_HANDLE payload.

        Raises:
            RpcError: it is not (or no longer) held here (UNKNOWN_HANDLE).
        """
        number = payload.get("id")
        with self._lock:
            if isinstance(number, int) and number in self._objects:
                return self._objects[number]
        raise RpcError(wire.UNKNOWN_HANDLE, f"this worker holds no object {number}")

    def release(self, numbers: Iterable[int]) -> list[Any]:
        """Let go, unknown numbers ignored; the objects are returned so that the caller chooses where they die."""
        with self._lock:
            return [self._objects.pop(number, None) for number in numbers]

    def __len__(self) -> int:
        return len(self._objects)


def type_name(value: Any) -> str:
    """The qualified class name of a value, as packs know it; bounded."""
    cls = type(value)
    module, name = getattr(cls, "__module__", ""), getattr(cls, "__qualname__", "object")
    if not isinstance(module, str) or module in {"builtins", ""}:
        return plain.clean(str(name))[:200]
    return plain.clean(f"{aliases.shown_name(module)}.{name}")[-200:]

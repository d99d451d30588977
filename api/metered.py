"""How much of the event loop's time one coroutine takes, step by step; what it waits for costs nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Metered(Generic[T]):
    """Await it in place of the coroutine; each step's processor seconds are told to ``charge``."""

    __slots__ = ("_charge", "_coroutine")

    def __init__(self, coroutine: Coroutine[Any, Any, T], charge: Callable[[float], None]) -> None:
        self._coroutine = coroutine
        self._charge = charge

    def __await__(self) -> Generator[Any, Any, T]:
        coroutine, charge, clock = self._coroutine, self._charge, time.thread_time
        error: BaseException | None = None
        while True:
            began = clock()
            try:
                waits_for = coroutine.send(None) if error is None else coroutine.throw(error)
            except StopIteration as end:
                result: T = end.value
                return result
            finally:
                error = None  # its traceback holds this frame
                charge(clock() - began)
            try:
                yield waits_for
            except BaseException as thrown:  # noqa: BLE001 - cancellation and the end of the generator, too, are for the coroutine to see
                error = thrown

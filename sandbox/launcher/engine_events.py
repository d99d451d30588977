"""The engine's events, followed by one thread that reconnects: none is lost, none comes twice.

The SDK's event stream blocks. What an event means is the caller's business.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

import anyio
import anyio.from_thread
import anyio.to_thread
from anyio.abc import TaskStatus

log = logging.getLogger(__name__)

_RETRY_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0)
_SEEN: Final = 512


class EventThread:
    """Calls ``on_event`` on the loop for each ``die`` and ``oom``, and ``on_reconnect`` after a break.

    ``connect`` makes a client of the engine's SDK; the thread has one of its own.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        filters: dict[str, list[str]],
        on_event: Callable[[dict[str, Any]], None],
        on_reconnect: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self._connect = connect
        self._filters = {**filters, "type": ["container"], "event": ["die", "oom"]}
        self._on_event = on_event
        self._on_reconnect = on_reconnect
        self._closing = threading.Event()
        self._stream: Any = None
        self._handing_over = threading.Lock()
        self._seen: list[tuple[Any, ...]] = []
        self._since = f"{time.time() - 1:.9f}"
        self._finished = anyio.Event()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Follow events until ``close``."""
        task_status.started()  # events since construction are asked for, so nobody need wait for the connection
        try:
            await anyio.to_thread.run_sync(
                self._follow, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1)
            )
        finally:
            self._finished.set()

    async def close(self) -> None:
        """End the thread."""
        with self._handing_over:
            self._closing.set()
            stream = self._stream
        if stream is not None:
            await anyio.to_thread.run_sync(_close_quietly, stream)
        with anyio.move_on_after(5.0):
            await self._finished.wait()

    def _follow(self) -> None:
        failures = 0
        while not self._closing.is_set():
            client = None
            try:
                client = self._connect()
                stream = client.api.events(since=self._since, filters=self._filters, decode=True)
                if not self._hand_over(stream):
                    _close_quietly(stream)
                    return
                if failures:
                    anyio.from_thread.run(self._on_reconnect)
                failures = 0
                for event in stream:
                    self._deliver(event)
            except anyio.get_cancelled_exc_class():
                return
            except Exception as error:  # noqa: BLE001  whatever a closing stream raises, we reconnect or end
                if not self._closing.is_set():
                    log.warning("the container engine's event stream broke: %s", error)
            finally:
                if client is not None:
                    _close_quietly(client)
            self._closing.wait(_RETRY_S[min(failures, len(_RETRY_S) - 1)])
            failures += 1

    def _hand_over(self, stream: Any) -> bool:
        """Give ``close`` the stream to end; False when it came first, and so would never end this one."""
        with self._handing_over:
            if self._closing.is_set():
                return False
            self._stream = stream
            return True

    def _deliver(self, event: dict[str, Any]) -> None:
        nanoseconds = int(event.get("timeNano") or 0)
        key = (nanoseconds, event.get("id"), event.get("status"))
        if key in self._seen:
            return
        self._seen = [*self._seen[-_SEEN:], key]
        if nanoseconds:
            self._since = f"{nanoseconds // 10**9}.{nanoseconds % 10**9:09d}"
        anyio.from_thread.run_sync(self._on_event, event)


def _close_quietly(thing: Any) -> None:
    try:
        thing.close()
    except Exception as error:  # noqa: BLE001  it is being thrown away
        log.debug("closing the event stream: %s", error)

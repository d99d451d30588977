"""The thread behind the engine's events ends when it is told to, whatever it is doing then."""

from __future__ import annotations

import queue
import threading
from typing import Any

import anyio
import anyio.to_thread
import pytest

from sandbox.launcher.engine_events import EventThread

pytestmark = pytest.mark.anyio


class Engine:
    """An SDK client whose event stream blocks until it is closed, as a real one does."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.answer = threading.Event()
        self.waiting: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.api = self

    def events(self, **_: Any) -> Engine:
        self.asked.set()
        assert self.answer.wait(60)
        return self

    def __iter__(self) -> Engine:
        return self

    def __next__(self) -> dict[str, Any]:
        event = self.waiting.get(timeout=30)
        if event is None:
            raise StopIteration
        return event

    def close(self) -> None:
        self.waiting.put(None)


async def nothing() -> None:
    """No event may have been missed."""


async def test_closing_while_the_stream_is_being_opened_ends_the_thread() -> None:
    engine = Engine()
    thread = EventThread(lambda: engine, {}, lambda _: None, nothing)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            await group.start(thread.run)
            await anyio.to_thread.run_sync(engine.asked.wait)
            async with anyio.create_task_group() as closing:
                closing.start_soon(thread.close)
                await anyio.wait_all_tasks_blocked()
                engine.answer.set()


async def test_closing_while_the_thread_waits_for_an_event_ends_it() -> None:
    engine = Engine()
    engine.answer.set()
    came = anyio.Event()
    thread = EventThread(lambda: engine, {}, lambda _: came.set(), nothing)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            await group.start(thread.run)
            engine.waiting.put({"timeNano": 1, "id": "a", "status": "die"})
            await came.wait()
            await thread.close()

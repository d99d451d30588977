"""The asyncio loop of a worker: one loop, usually run by a thread of its own, lent to the main thread for imports.

ComfyUI imports packs inside its running loop, on the main thread; tasks that a pack starts then go on afterwards.
Lending the loop gives both, and keeps coroutine nodes off the main thread, which synchronous nodes occupy.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any, TypeVar

from .calling import inference_mode

T = TypeVar("T")


class LoopThread:
    """Owns the loop and the thread that runs it."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread: threading.Thread | None = None
        self._torch = ExitStack()
        self._in_inference_mode = False

    def start(self) -> None:
        """Run the loop on its thread until ``run_here`` borrows it."""
        self._in_inference_mode = False
        self._thread = threading.Thread(target=self._run, name="ringfence-loop", daemon=True)
        self._thread.start()

    def run_here(self, main: Coroutine[Any, Any, T]) -> T:
        """Run ``main`` in the loop on the calling thread; tasks of nodes go on meanwhile."""
        if self._thread is not None:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()
        try:
            return self.loop.run_until_complete(main)
        finally:
            self.start()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Start ``coroutine`` as a task, from any thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def enter_inference_mode(self) -> None:
        """Put the loop's thread into torch's inference mode, once torch is there, for good. Call it on the loop.

        The mode belongs to a thread, and coroutines interleave on it: entering and leaving around each node would
        end the mode of one node when another is done.
        """
        if not self._in_inference_mode and threading.current_thread() is self._thread:
            mode = inference_mode()
            self._torch.enter_context(mode)
            self._in_inference_mode = type(mode).__module__.startswith("torch")

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        while True:
            try:
                self.loop.run_forever()
            except (SystemExit, KeyboardInterrupt):  # from a task that a pack started by itself
                continue
            return

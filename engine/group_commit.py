"""Short transactions for SQLite, whole ones at a time: one hop to one thread, and one commit for all that wait.

A transaction that is awaited statement by statement comes back to the event loop after each, where a flood of others
stands in line. Here it is a plain function, run from its first statement to its last in the writer's thread. Those
that arrive while a commit is on its way to the disk go together in the next one, each behind a savepoint of its own:
what fails takes nothing else with it. ``Database`` is the only user.

A thread has to ask for the interpreter again after each statement, and waits for it longer than the statement takes.
So statements that are said to be short are run on the event loop, and the thread only commits them, which is what
waits for the disk.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Final, TypeVar

import anyio
import sqlalchemy as sa

from engine.writer_connection import Failed, Work, WriterConnection
from engine.writer_turn import WriterTurn
from sandbox import FastPath, takes

T = TypeVar("T")
MOST: Final = 64
"""Transactions in one commit: whoever is first does not wait for all the world."""
MOST_SHORT: Final = 16
"""Of those that the event loop runs in one go: some 2 ms of it."""
SHORT_BYTES: Final = 64 * 1024
"""What a short transaction writes or takes away, at most: ``MOST_SHORT`` of them fit the memory that SQLite has for
pages, so that nothing is written before the commit."""
_OPEN: Final = object()


@dataclass(eq=False, slots=True)
class _Job:
    work: Work
    durable: bool
    is_short: bool
    done: asyncio.Future[None]
    outcome: Any = _OPEN

    def end(self, outcome: Any) -> None:
        self.outcome = outcome
        if not self.done.done():  # else whoever waited is cancelled, and looks at the outcome
            self.done.set_result(None)


class GroupCommit:
    """The one writer; open until ``close``."""

    def __init__(self, engine: Callable[[], sa.Engine], turn: WriterTurn) -> None:
        self._writer = WriterConnection(engine)
        """Of the thread, unless nothing is on its way to it."""
        self._turn = turn
        self._jobs: deque[_Job] = deque()
        self._is_asking = False
        self._batches: SimpleQueue[tuple[list[_Job], list[Any] | None] | None] = SimpleQueue()
        """Jobs, with their outcomes where only the commit is left to do."""
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._is_closed = False

    async def run(self, work: Callable[[sa.Connection], T], *, durable: bool, is_short: bool = False) -> T:
        """What ``work`` returns, once it is committed.

        ``durable`` False: a power cut may undo it (the end of this process does not). ``is_short``: it touches a few
        rows by their keys and ``SHORT_BYTES``, and may be run on the event loop. Raises what ``work`` raises, which
        is then rolled back, or why the commit failed. Cancelling a scope waits for the outcome.
        """
        job = _Job(work, durable, is_short, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        self._ask()
        try:
            await job.done
        except asyncio.CancelledError:
            if anyio.current_effective_deadline() != -math.inf:
                raise  # the task itself is ended, and hears nothing more
            if job.outcome is _OPEN:
                job.done = asyncio.get_running_loop().create_future()
                with anyio.CancelScope(shield=True):
                    await job.done
        if isinstance(job.outcome, Failed):
            raise job.outcome.error
        result: T = job.outcome
        return result

    async def close(self) -> None:
        """End the thread; what was asked for before is done first."""
        loop = asyncio.get_running_loop()
        try:
            while self._is_asking:
                # Not by ``run``, which would go on waiting after whoever waits for this has given up.
                last = _Job(lambda _: None, durable=False, is_short=False, done=loop.create_future())
                self._jobs.append(last)
                await last.done
        finally:
            self._is_closed = True
            thread, self._thread = self._thread, None
            if thread is not None:
                self._batches.put(None)
        if thread is not None:
            await loop.run_in_executor(None, thread.join)

    def _ask(self) -> None:
        """Have what waits committed, when it is this writer's turn."""
        if not self._is_asking:
            self._is_asking = True
            self._turn.ask(self._send)

    def _send(self) -> None:
        batch = self._next_batch()
        try:
            self._thread = self._thread or self._start()
        except RuntimeError as error:
            self._loop.call_soon(self._told, batch, [Failed(error)] * len(batch))
        else:
            outcomes: list[Any] | None = None
            if batch[0].is_short and self._writer.is_plain:
                outcomes = self._writer.begin([job.work for job in batch], durable=_is_durable(batch))
            self._batches.put((batch, outcomes))

    def _next_batch(self) -> list[_Job]:
        """Those that waited longest, as far as they are of one kind."""
        jobs = self._jobs
        if not takes(FastPath.GROUP_COMMIT):
            return [jobs.popleft()]
        are_short = jobs[0].is_short
        batch: list[_Job] = []
        while jobs and jobs[0].is_short is are_short and len(batch) < (MOST_SHORT if are_short else MOST):
            batch.append(jobs.popleft())
        return batch

    def _start(self) -> threading.Thread:
        """Raises: RuntimeError: this is closed, or the process may have no more threads."""
        self._loop = asyncio.get_running_loop()
        if self._is_closed:
            raise RuntimeError("the database is closed")
        # Of a process that ends without closing its database nobody waits for it: a commit is whole or is not.
        thread = threading.Thread(target=self._serve, name="database-writer", daemon=True)
        thread.start()
        return thread

    def _told(self, batch: list[_Job], outcomes: list[Any]) -> None:
        self._is_asking = False
        self._turn.pass_on()
        if self._jobs:
            self._ask()
        for job, outcome in zip(batch, outcomes, strict=True):
            job.end(outcome)

    # -- in the thread -----------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        writer = self._writer
        while (taken := self._batches.get()) is not None:
            batch, begun = taken
            if begun is None:
                outcomes = writer.run([job.work for job in batch], durable=_is_durable(batch))
            else:
                outcomes = writer.commit(begun)
            try:
                self._loop.call_soon_threadsafe(self._told, batch, outcomes)
            except RuntimeError:  # the loop is closed, and nobody listens
                break
        writer.close()


def _is_durable(batch: Sequence[_Job]) -> bool:
    return any(job.durable for job in batch)

"""Who reads what the host says: the main thread itself while it has nothing else to do, a helper while a node runs.

A thread that reads and another that runs nodes cost every call a change of threads. So the main thread reads, finds a
call, runs it, answers, and reads on. Only when one job keeps it for longer than a tick or two does the helper take the
reading over, so that a long node can be cancelled and others' questions are answered; it gives the reading back with
the next job. It looks every 10 ms while jobs follow each other, so that none of them has to wake it. When none has come
for a while it sleeps: then a job has it woken by what the host says meanwhile, and by nothing else.
"""

from __future__ import annotations

import queue
import select
import threading
from collections.abc import Callable
from typing import Final

from .doorbell import Doorbell
from .peer import Peer

TICK_S: Final = 0.01
_IDLE_TICKS: Final = 10
"""Without a job for so long, the helper sleeps until it is needed."""
_SINGLE_JOBS: Final = 8
"""After so many it is woken: to have the door watched for each would cost more than its looking every 10 ms."""

Job = Callable[[], None]


class Reading:
    """The main thread's jobs and the turn to read. ``step`` reads one message and acts on it; at the end of the
    stream it does not return. ``when_idle`` is called, by any thread, when no job has come for a while; ``is_needed``
    says after a job whether that has something to do, for which a helper that sleeps is woken."""

    def __init__(
        self,
        peer: Peer,
        step: Callable[[], bool],
        when_idle: Job = lambda: None,
        is_needed: Callable[[], bool] = lambda: False,
    ) -> None:
        self._peer = peer
        self._step = step
        self._when_idle = when_idle
        self._is_needed = is_needed
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._handed_over = 0
        self._started = 0
        self._is_busy = False
        self._is_waiting = False
        """The main thread waits for a job from whoever reads."""
        self._found_waiting = False
        """It did so when it was given the last one."""
        self._is_parked = False
        """The helper sleeps until it is woken."""
        self._single_jobs = 0
        self._is_asked = False
        self._doorbell = Doorbell(peer.read_fd)
        self._door = select.poll()
        self._door.register(peer.read_fd, select.POLLIN)
        self._main: int | None = None
        peer.read_one = step
        peer.after_reading = self._ask

    def put(self, job: Job) -> None:
        """Have the main thread do something; only whoever reads calls this."""
        self._handed_over += 1
        self._found_waiting = self._is_waiting
        self._is_waiting = False
        self._jobs.put(job)

    def is_next_here(self) -> bool:
        """Whether the host has said something that nobody has acted on. The main thread asks, in a job."""
        return not self._jobs.empty() or self._peer.has_more or bool(self._door.poll(0))

    def run(self) -> None:
        """Read and do jobs, on the main thread; does not return."""
        self._main = threading.get_ident()
        threading.Thread(target=self._help, name="ringfence-reader", daemon=True).start()
        while True:
            job = self._next()
            self._started += 1
            self._is_busy = True
            # Looked at after the line above, as the helper looks at both in turn.
            if was_parked := self._is_parked:
                self._watch()
            job()
            self._is_busy = False
            del job  # it holds the inputs of a node
            if was_parked:
                self._unwatch()

    def _next(self) -> Job:
        while True:
            if not self._jobs.empty():
                return self._jobs.get()
            if self._peer.turn.acquire(blocking=False):
                self._read_one()
                continue
            # Whoever reads gives the turn up and then looks whether somebody waits: here it is said and then tried.
            self._is_waiting = True
            if not self._peer.turn.acquire(blocking=False):
                job = self._given()
                self._is_waiting = False
                return job
            self._is_waiting = False
            self._read_one()

    def _given(self) -> Job:
        """The next job, from whoever reads; the helper does, and cannot say that none has come for a while."""
        try:
            return self._jobs.get(timeout=_IDLE_TICKS * TICK_S)
        except queue.Empty:
            self._when_idle()
            return self._jobs.get()

    def _read_one(self) -> None:
        """With the turn, which is given up: nobody hands over a job now, but one may have come before."""
        try:
            if self._jobs.empty():
                self._step()
        finally:
            self._peer.turn.release()

    # -- the helper ----------------------------------------------------------------------------------------------

    def _ask(self, others_wait: bool) -> None:
        """A thread that read for an answer of its own reads no more, and the main thread may wait for a job."""
        if others_wait or threading.get_ident() != self._main:
            self._is_asked = True
            self._doorbell.ring()
        elif self._peer.has_more:
            # It came along with the answer: the kernel has nothing left to show the helper.
            self._doorbell.ring()

    def _watch(self) -> None:
        """The host may say something during this job, or has done so already."""
        if self._peer.has_more:
            self._doorbell.ring()
        else:
            self._doorbell.watch()

    def _unwatch(self) -> None:
        self._single_jobs += 1
        if self._single_jobs < _SINGLE_JOBS and not self._is_needed():
            self._doorbell.leave()
        else:
            self._single_jobs = 0
            self._doorbell.ring()

    def _help(self) -> None:
        seen = started = idle = 0
        while True:
            self._doorbell.wait(None if self._is_parked else TICK_S)
            self._is_parked = False
            running = self._started if self._is_busy else 0
            idle = 0 if running or started != self._started else idle + 1
            started = self._started
            if self._is_asked or (running and running == seen):
                self._is_asked = False
                # It waits again where it did the job before the turn was given up, and found it taken.
                while self._peer.turn.acquire(blocking=False):
                    self._read()
                    if not self._is_waiting:
                        break
                seen = idle = 0
                continue
            if idle >= _IDLE_TICKS:
                self._is_parked = True
                if self._is_busy or self._is_asked:
                    self._is_parked = False
                else:
                    self._when_idle()
            seen = running

    def _read(self) -> None:
        """Read until the main thread, which waited, was given a job: with the next message it reads itself."""
        try:
            while True:
                handed_over = self._handed_over
                self._step()
                if self._found_waiting and self._handed_over != handed_over:
                    return
        finally:
            self._peer.turn.release()

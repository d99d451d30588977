"""Whoever has the time reads: calls run where they were read, and a long one keeps nobody waiting."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import runtime.reading
from runtime import wire
from runtime.peer import Peer, Reply
from runtime.reading import Reading
from runtime.streams import FrameStream

PATIENCE_S = 60.0


class Turn:
    """The turn to read, with something that happens just before it is taken or given up."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.before_acquire: Callable[[], None] = lambda: None
        self.before_release: Callable[[], None] = lambda: None

    def acquire(self, blocking: bool) -> bool:
        self.before_acquire()
        return self.lock.acquire(blocking)

    def release(self) -> None:
        self.before_release()
        self.lock.release()


def until(holds: Callable[[], bool], patience_s: float = PATIENCE_S) -> bool:
    """Let other threads run until something holds; whether it does."""
    deadline = time.monotonic() + patience_s
    while not holds() and time.monotonic() < deadline:
        time.sleep(0)
    return holds()


class Scene:
    """A worker's reading, with a thread in the part of the main one, and the host's end of the conversation."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.sockets = (ours, theirs)
        self.host = Peer(FrameStream(ours.fileno(), ours.fileno()))
        self.peer = Peer(FrameStream(theirs.fileno(), theirs.fileno()))
        self.turn = self.peer.turn = Turn()
        self.is_needed = self.was_idle = False
        self.reading = Reading(self.peer, self._step, self._when_idle, lambda: self.is_needed)
        self.readers: list[threading.Thread] = []
        self.may_end = threading.Event()
        self.began = threading.Event()
        self.ended = threading.Event()
        self.work: Callable[[], Any] = lambda: None
        self.asked: queue.SimpleQueue[Reply] = queue.SimpleQueue()
        self.peer.listen(self._on_request, lambda method, params: None)
        self.host_thread = threading.Thread(target=self._be_host, daemon=True)
        self.main = threading.Thread(target=self.reading.run, daemon=True)
        self.host_thread.start()
        self.main.start()

    def _when_idle(self) -> None:
        self.was_idle = True

    def _step(self) -> bool:
        if not self.peer.step():
            self.ended.set()
            # A worker's process ends here; this is a thread that may be left behind, with the turn to read.
            threading.Event().wait()
        return True

    def _be_host(self) -> None:
        self.host.serve(lambda method, params, reply: self.asked.put(reply), lambda method, params: None)

    def _on_request(self, method: str, params: dict[str, Any], reply: Reply) -> None:
        self.readers.append(threading.current_thread())
        if method == "ping":
            reply.result("pong")
        elif method == "where":
            self.reading.put(lambda: self._answer(reply, threading.current_thread() is self.main))
        elif method == "block":
            self.reading.put(lambda: self._block(reply))
        elif method == "do":
            self.reading.put(lambda: self._answer(reply, self.work()))
        elif method == "ask":
            self.reading.put(lambda: self._answer(reply, self.peer.call("question", {})))

    @staticmethod
    def _answer(reply: Reply, value: Any) -> None:
        reply.result(value)

    def _block(self, reply: Reply) -> None:
        self.began.set()
        self.may_end.wait(PATIENCE_S)
        reply.result("done")

    def start(self, method: str) -> queue.SimpleQueue[Any]:
        """Call the worker from a thread of its own; where the answer will be."""
        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=lambda: answers.put(self.host.call(method, {})), daemon=True).start()
        return answers

    def waits(self) -> bool:
        """Whether the main thread has done all jobs that it was given, and waits for the next one."""
        reading = self.reading
        return reading._started == reading._handed_over and not reading._is_busy and reading._is_waiting

    def close(self) -> None:
        self.may_end.set()
        self.sockets[0].shutdown(socket.SHUT_RDWR)
        self.host_thread.join(PATIENCE_S)
        # Whoever reads must have come to the end: else it would read on, from whatever has this number next.
        assert self.ended.wait(PATIENCE_S)
        for each in self.sockets:
            each.close()


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.close()


def test_a_job_runs_on_the_thread_that_read_it(scene: Scene) -> None:
    for _ in range(50):
        assert scene.host.call("where", {}) is True
    assert scene.main in scene.readers


def test_while_a_job_takes_long_others_are_answered_and_afterwards_the_main_thread_reads_again(
    scene: Scene,
) -> None:
    blocked = scene.start("block")
    assert scene.began.wait(PATIENCE_S)
    assert [scene.host.call("ping", {}) for _ in range(3)] == ["pong"] * 3
    assert scene.main not in scene.readers[1:]
    scene.may_end.set()
    assert blocked.get(timeout=PATIENCE_S) == "done"
    # One job is handed over by whoever reads now; from the next on it is read where it runs.
    assert scene.host.call("where", {}) is True
    scene.readers.clear()
    assert all(scene.host.call("where", {}) for _ in range(20))
    assert scene.main in scene.readers


def test_a_job_that_asks_the_host_reads_its_answer_and_what_comes_before_it(scene: Scene) -> None:
    answers = scene.start("ask")
    question = scene.asked.get(timeout=PATIENCE_S)
    assert scene.host.call("ping", {}) == "pong"
    question.result("the answer")
    assert answers.get(timeout=PATIENCE_S) == "the answer"


def test_a_thread_that_read_for_itself_leaves_nobody_waiting(scene: Scene) -> None:
    for _ in range(5):
        scene.began.clear()
        scene.may_end.clear()
        blocked = scene.start("block")
        assert scene.began.wait(PATIENCE_S)
        got: queue.SimpleQueue[Any] = queue.SimpleQueue()
        thread = threading.Thread(target=lambda: got.put(scene.peer.call("question", {})))  # noqa: B023
        thread.start()
        question = scene.asked.get(timeout=PATIENCE_S)
        scene.may_end.set()  # the main thread has nothing to do now, and the other one may be the one that reads
        assert blocked.get(timeout=PATIENCE_S) == "done"
        question.result("yes")
        assert got.get(timeout=PATIENCE_S) == "yes"
        thread.join(PATIENCE_S)
        assert scene.host.call("where", {}) is True


def test_many_threads_that_ask_at_once_all_get_their_answers(scene: Scene) -> None:
    def serve() -> None:
        for number in range(200):
            scene.asked.get(timeout=PATIENCE_S).result(number)

    server = threading.Thread(target=serve)
    server.start()
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def ask() -> None:
        for _ in range(25):
            answers.put(scene.peer.call("question", {}))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in (*threads, server):
        thread.join(PATIENCE_S)
    assert sorted(answers.get(timeout=PATIENCE_S) for _ in range(200)) == list(range(200))
    assert scene.host.call("where", {}) is True


def test_a_main_thread_that_did_its_job_before_the_turn_was_given_up_is_not_left_waiting(
    scene: Scene,
) -> None:
    blocked = scene.start("block")
    assert scene.began.wait(PATIENCE_S)
    assert scene.host.call("ping", {}) == "pong"
    assert scene.readers[-1] is not scene.main  # the helper reads now
    scene.may_end.set()
    assert blocked.get(timeout=PATIENCE_S) == "done"
    assert until(scene.waits)
    held_on: list[bool] = []

    def hold_on() -> None:
        if threading.current_thread() is not scene.main and not held_on:
            held_on.append(until(scene.waits))

    scene.turn.before_release = hold_on
    for _ in range(4):
        assert scene.start("where").get(timeout=PATIENCE_S) is True
    assert held_on == [True]


def test_a_job_that_came_between_the_look_for_one_and_the_turn_to_read_is_done_first(scene: Scene) -> None:
    was_done = threading.Event()
    given: list[bool] = []

    def give() -> None:
        """As a thread does that reads for itself: it hands over what it finds on the way."""
        if threading.current_thread() is scene.main and not given and scene.turn.lock.acquire(blocking=False):
            given.append(True)
            scene.reading.put(was_done.set)
            scene.turn.lock.release()

    scene.work = lambda: setattr(scene.turn, "before_acquire", give)
    assert scene.start("do").get(timeout=PATIENCE_S) is None
    while not until(
        lambda: bool(given), patience_s=1.0
    ):  # the helper had the turn: another job gives it back
        assert scene.start("where").get(timeout=PATIENCE_S) is True
    assert was_done.wait(PATIENCE_S)
    assert scene.start("where").get(timeout=PATIENCE_S) is True


def park(scene: Scene) -> None:
    """Let the helper go to sleep; another job gives it back the main thread, where one took so long that it reads."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        assert scene.start("where").get(timeout=PATIENCE_S) is True
        if until(lambda: scene.reading._is_parked, patience_s=1.0):
            return
    raise AssertionError("the helper does not sleep")


def rings(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each time that the main thread wakes the helper: whether it did so in a job."""
    heard: list[bool] = []
    ring = scene.reading._doorbell.ring

    def listen() -> None:
        if threading.current_thread() is scene.main:
            heard.append(scene.reading._is_busy)
        ring()

    monkeypatch.setattr(scene.reading._doorbell, "ring", listen)
    return heard


def test_jobs_that_come_after_a_while_wake_the_helper_once_when_there_are_many(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = rings(scene, monkeypatch)
    park(scene)
    heard.clear()
    # The next message must not come before the door is left: here the host answers faster than a worker's.
    monkeypatch.setattr(scene.reading._doorbell, "watch", lambda: None)
    scene.reading._single_jobs = 0
    monkeypatch.setattr(runtime.reading, "_IDLE_TICKS", 10**9)
    for _ in range(runtime.reading._SINGLE_JOBS - 1):
        assert scene.host.call("where", {}) is True
    assert scene.reading._is_parked
    assert scene.host.call("where", {}) is True
    assert until(lambda: not scene.reading._is_parked)
    assert all(scene.host.call("where", {}) for _ in range(50))
    assert heard == [False]


def test_it_is_woken_after_one_job_that_leaves_something_to_do_later(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    park(scene)
    assert until(lambda: scene.was_idle)
    monkeypatch.setattr(scene.reading._doorbell, "watch", lambda: None)
    scene.reading._single_jobs = 0
    scene.was_idle = False
    assert scene.host.call("where", {}) is True
    assert not until(lambda: scene.was_idle, patience_s=0.3)
    scene.is_needed = True
    assert scene.host.call("where", {}) is True
    assert until(lambda: scene.was_idle)


def test_the_helper_is_woken_at_once_where_the_next_message_has_been_read_already(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lies in this process, where no kernel sees it."""
    heard = rings(scene, monkeypatch)
    park(scene)
    heard.clear()
    with scene.host._stream._lock:  # both frames in one go
        frames = [
            wire.encode_frame({"jsonrpc": "2.0", "id": number, "method": method, "params": {}})
            for number, method in ((-1, "block"), (-2, "ping"))
        ]
        scene.sockets[0].sendall(b"".join(frames))
    assert scene.began.wait(PATIENCE_S)
    assert until(lambda: len(scene.readers) >= 3)  # the ping is acted on while the job runs
    assert scene.readers[-1] is not scene.main
    assert heard[0] is True
    scene.may_end.set()
    assert scene.host.call("where", {}) is True  # it was answered before this


def test_the_helper_is_woken_for_what_came_along_with_an_answer(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The main thread read it, in a job, and the kernel knows nothing of it."""
    scene.work = lambda: (scene.peer.call("question", {}), scene.began.set(), scene.may_end.wait(PATIENCE_S))
    park(scene)
    monkeypatch.setattr(scene.reading._doorbell, "watch", lambda: None)
    done = scene.start("do")
    question = scene.asked.get(timeout=PATIENCE_S)
    scene.readers.clear()
    frames = [
        wire.encode_frame({"jsonrpc": "2.0", "id": question._id, "result": "yes"}),
        wire.encode_frame({"jsonrpc": "2.0", "id": -1, "method": "ping", "params": {}}),
    ]
    scene.sockets[0].sendall(b"".join(frames))
    assert scene.began.wait(PATIENCE_S)
    assert until(lambda: bool(scene.readers))  # the ping is acted on while the job runs
    assert scene.readers[-1] is not scene.main
    scene.may_end.set()
    assert done.get(timeout=PATIENCE_S)


def test_a_main_thread_that_is_given_no_job_for_a_while_says_so(scene: Scene) -> None:
    """While the helper reads, which it does until there is one."""
    blocked = scene.start("block")
    assert scene.began.wait(PATIENCE_S)
    assert scene.host.call("ping", {}) == "pong"
    assert scene.readers[-1] is not scene.main
    scene.was_idle = False
    scene.may_end.set()
    assert blocked.get(timeout=PATIENCE_S) == "done"
    assert until(lambda: scene.was_idle)
    assert scene.start("where").get(timeout=PATIENCE_S) is True


def test_a_helper_that_found_nothing_to_do_sleeps_until_there_is_a_job(scene: Scene) -> None:
    park(scene)
    blocked = scene.start("block")
    assert scene.began.wait(PATIENCE_S)
    assert scene.host.call("ping", {}) == "pong"
    assert scene.readers[-1] is not scene.main
    scene.may_end.set()
    assert blocked.get(timeout=PATIENCE_S) == "done"

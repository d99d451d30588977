from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from runtime import wire
from runtime.peer import Peer, PeerGoneError, Reply, RpcError
from runtime.streams import FrameStream

PATIENCE_S = 60.0


class End:
    """One end of a conversation with its reading thread."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.peer = Peer(FrameStream(connection.fileno(), connection.fileno()))
        self.requests: list[tuple[str, dict[str, Any], Reply]] = []
        self.notifications: list[tuple[str, dict[str, Any]]] = []
        self.arrived = threading.Condition()
        self.thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        try:
            self.peer.serve(self.on_request, self.on_notification)
        except wire.FrameError:
            pass

    def on_request(self, method: str, params: dict[str, Any], reply: Reply) -> None:
        if method == "refuse":
            raise RpcError(wire.QUOTA_EXCEEDED, "no", {"limit": 1})
        if method == "break":
            raise ZeroDivisionError("oops")
        if method == "echo":
            reply.result(params)
        with self.arrived:
            self.requests.append((method, params, reply))
            self.arrived.notify_all()

    def on_notification(self, method: str, params: dict[str, Any]) -> None:
        with self.arrived:
            self.notifications.append((method, params))
            self.arrived.notify_all()

    def wait(self, count: int = 1) -> None:
        with self.arrived:
            assert self.arrived.wait_for(
                lambda: len(self.requests) + len(self.notifications) >= count, PATIENCE_S
            )


@pytest.fixture
def ends() -> Iterator[tuple[End, End]]:
    ours, theirs = (End(connection) for connection in socket.socketpair())
    ours.thread.start()
    theirs.thread.start()
    yield ours, theirs
    for end in (ours, theirs):
        try:
            end.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
    for end in (ours, theirs):
        end.thread.join(PATIENCE_S)
        end.connection.close()


def test_calls_go_both_ways_at_once(ends: tuple[End, End]) -> None:
    for end in ends:
        assert end.peer.call("echo", {"value": [1, None]}) == {"value": [1, None]}


def test_many_threads_each_get_their_own_answer(ends: tuple[End, End]) -> None:
    results: dict[int, Any] = {}

    def ask(number: int) -> None:
        for _ in range(50):
            results[number] = ends[0].peer.call("echo", {"number": number})
            assert results[number] == {"number": number}

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert results == {number: {"number": number} for number in range(8)}


def test_a_refusal_arrives_with_code_and_data(ends: tuple[End, End]) -> None:
    with pytest.raises(RpcError) as caught:
        ends[0].peer.call("refuse", {})
    assert (caught.value.code, caught.value.message, caught.value.data) == (
        wire.QUOTA_EXCEEDED,
        "no",
        {"limit": 1},
    )


def test_a_handler_that_breaks_answers_and_goes_on(ends: tuple[End, End]) -> None:
    with pytest.raises(RpcError) as caught:
        ends[0].peer.call("break", {})
    assert caught.value.code == wire.INTERNAL_ERROR
    assert ends[0].peer.call("echo", {}) == {}


def test_only_the_first_answer_counts(ends: tuple[End, End]) -> None:
    outcome: list[Any] = []
    asker = threading.Thread(target=lambda: outcome.append(ends[0].peer.call("later", {})))
    asker.start()
    ends[1].wait()
    reply = ends[1].requests[0][2]
    assert reply.result(1) is True
    assert reply.error(wire.INTERNAL_ERROR, "too late") is False
    asker.join(PATIENCE_S)
    assert outcome == [1]


def test_a_result_too_large_for_a_frame_can_still_be_answered_with_an_error(ends: tuple[End, End]) -> None:
    failure: list[RpcError] = []

    def ask() -> None:
        try:
            ends[0].peer.call("later", {})
        except RpcError as error:
            failure.append(error)

    asker = threading.Thread(target=ask)
    asker.start()
    ends[1].wait()
    reply = ends[1].requests[0][2]
    with pytest.raises(wire.FrameTooLargeError):
        reply.result("x" * wire.MAX_FRAME)
    assert reply.error(wire.VALUE_NOT_PORTABLE, "too large")
    asker.join(PATIENCE_S)
    assert failure[0].code == wire.VALUE_NOT_PORTABLE


def test_waiting_calls_fail_when_the_other_side_hangs_up(ends: tuple[End, End]) -> None:
    failure: list[BaseException] = []

    def ask() -> None:
        try:
            ends[0].peer.call("later", {})
        except PeerGoneError as error:
            failure.append(error)

    asker = threading.Thread(target=ask)
    asker.start()
    ends[1].wait()
    ends[1].connection.shutdown(socket.SHUT_RDWR)
    asker.join(PATIENCE_S)
    assert isinstance(failure[0], PeerGoneError)
    with pytest.raises(PeerGoneError):
        ends[0].peer.call("echo", {})
    ends[0].peer.notify("anything", {})  # silently nothing


@pytest.mark.parametrize(
    "message",
    [
        {"id": 1, "method": 5, "params": {}},
        {"id": 1, "method": "echo", "params": [1]},
    ],
)
def test_a_malformed_request_is_answered_as_such(ends: tuple[End, End], message: dict[str, Any]) -> None:
    stream = FrameStream(ends[0].connection.fileno(), ends[0].connection.fileno())
    got: list[dict[str, Any]] = []
    seen = threading.Event()

    def settle(answer: dict[str, Any]) -> None:
        got.append(answer)
        seen.set()

    ends[0].peer._settle = settle  # type: ignore[method-assign, assignment]
    stream.write({"jsonrpc": "2.0", **message})
    assert seen.wait(PATIENCE_S)
    assert got[0]["error"]["code"] == wire.INVALID_REQUEST


def test_answers_that_nobody_waits_for_and_odd_notifications_are_ignored(ends: tuple[End, End]) -> None:
    stream = FrameStream(ends[0].connection.fileno(), ends[0].connection.fileno())
    for message in (
        {"id": 999, "result": 1},
        {"id": [], "result": 1},
        {"id": "x", "result": 1},
        {},
        {"method": 5},
        {"method": "n", "params": 1},
    ):
        stream.write({"jsonrpc": "2.0", **message})
    stream.write({"jsonrpc": "2.0", "method": "good", "params": {"a": 1}})
    ends[1].wait()
    assert ends[1].notifications == [("good", {"a": 1})]

"""JSON-RPC 2.0 in both directions over a frame stream.

Knows ids, waiting calls and the two directions; knows nothing of nodes. Whoever holds ``turn`` reads; handlers run on
that thread and must hand long work to others, because every waiting ``call`` is answered by it. A ``call`` that nobody
reads for reads its answer itself.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable
from typing import Any

from . import wire
from .streams import FrameStream
from .written import Written


class RpcError(Exception):
    """An error that crosses the wire: raised by ``Peer.call``, and by handlers that refuse a request."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


class PeerGoneError(Exception):
    """The host hung up: nothing can be asked or told any more."""


class Reply:
    """The answer owed to one request; the first answer counts, from whichever thread."""

    __slots__ = ("_id", "_owed", "_send")

    def __init__(self, send: Callable[[dict[str, Any] | Written], None], request_id: int | str) -> None:
        self._send = send
        self._id = request_id
        self._owed = [True]
        """Whoever takes it out answers: one operation, so no two threads can."""

    def result(self, value: Any) -> bool:
        """Answer with a result; False when the request was answered already.

        Raises:
            FrameTooLargeError: the result does not fit a frame; the request is still unanswered.
        """
        if type(value) is Written:
            identity = self._id if type(self._id) is int else json.dumps(self._id)
            return self._answer(Written(f'{{"jsonrpc":"2.0","id":{identity},"result":{value}}}'))
        return self._answer({"jsonrpc": "2.0", "id": self._id, "result": value})

    def error(self, code: int, message: str, data: Any = None) -> bool:
        """Answer with an error; False when the request was answered already."""
        body: dict[str, Any] = {"code": code, "message": message}
        if data is not None:
            body["data"] = data
        return self._answer({"jsonrpc": "2.0", "id": self._id, "error": body})

    def failure(self, error: RpcError) -> bool:
        return self.error(error.code, error.message, error.data)

    def _answer(self, message: dict[str, Any] | Written) -> bool:
        try:
            self._owed.pop()
        except IndexError:
            return False
        try:
            self._send(message)
        except wire.FrameTooLargeError:
            self._owed.append(True)
            raise
        return True


RequestHandler = Callable[[str, dict[str, Any], Reply], None]
NotificationHandler = Callable[[str, dict[str, Any]], None]


class _Waiter:
    __slots__ = ("answer", "event")

    def __init__(self) -> None:
        self.event = threading.Event()
        self.answer: dict[str, Any] | None = None


class Peer:
    """One end of the conversation."""

    def __init__(self, stream: FrameStream) -> None:
        self._stream = stream
        self._ids = itertools.count(1)
        self._waiting: dict[int, _Waiter] = {}
        self._lock = threading.Lock()
        self._gone = False
        self._on_request: RequestHandler
        self._on_notification: NotificationHandler
        self.turn = threading.Lock()
        """Held by the thread that reads."""
        self.read_one: Callable[[], bool] = self.step
        """What a thread does that reads for the answer to its own call."""
        self.after_reading: Callable[[bool], None] = lambda _: None
        """Called by such a thread when it has its answer; True when others wait for theirs."""

    @property
    def read_fd(self) -> int:
        """Where messages come."""
        return self._stream.read_fd

    @property
    def has_more(self) -> bool:
        """Whether another message has been read from there, or a part of one."""
        return self._stream.has_more

    def listen(self, on_request: RequestHandler, on_notification: NotificationHandler) -> None:
        """Who is told what comes; once, before the first message is read."""
        self._on_request = on_request
        self._on_notification = on_notification

    def call(self, method: str, params: dict[str, Any]) -> Any:
        """Ask the host and wait for its answer. Not from a handler.

        Raises:
            RpcError: the host refused.
            PeerGoneError: the host hung up before it answered.
        """
        waiter = _Waiter()
        call_id = next(self._ids)
        with self._lock:
            if self._gone:
                raise PeerGoneError
            self._waiting[call_id] = waiter
        try:
            self._send({"jsonrpc": "2.0", "id": call_id, "method": method, "params": params})
            self._wait(waiter)
        finally:
            with self._lock:
                self._waiting.pop(call_id, None)
        answer = waiter.answer
        if answer is None:
            raise PeerGoneError
        error = answer.get("error")
        if error is not None:
            code, message = error.get("code", wire.INTERNAL_ERROR), str(error.get("message", ""))
            raise RpcError(code, message, error.get("data"))
        return answer.get("result")

    def notify(self, method: str, params: dict[str, Any]) -> None:
        """Tell the host; silently nothing when it is gone.

        Raises:
            FrameTooLargeError: the message is longer than ``wire.MAX_NOTIFICATION``.
        """
        try:
            self._send({"jsonrpc": "2.0", "method": method, "params": params}, wire.MAX_NOTIFICATION)
        except PeerGoneError:
            pass

    def step(self) -> bool:
        """Read one message and act on it; False when the host has hung up. For the holder of ``turn``.

        Raises:
            FrameError: the stream broke (see ``FrameStream.read``).
        """
        try:
            message = self._stream.read()
        except OSError:  # a reset counts as the host having hung up
            message = None
        except BaseException:
            self._fail_all()
            raise
        if message is None:
            self._fail_all()
            return False
        self._dispatch(message)
        return True

    def serve(self, on_request: RequestHandler, on_notification: NotificationHandler) -> None:
        """Read until the host hangs up; then every waiting call fails.

        Raises:
            FrameError: the stream broke (see ``FrameStream.read``).
        """
        self.listen(on_request, on_notification)
        with self.turn:
            while self.step():
                pass

    def _wait(self, waiter: _Waiter) -> None:
        if not self.turn.acquire(blocking=False):
            waiter.event.wait()
            return
        try:
            while not waiter.event.is_set() and self.read_one():
                pass
        finally:
            self.turn.release()
            self.after_reading(len(self._waiting) > 1)

    def _fail_all(self) -> None:
        with self._lock:
            self._gone = True
            waiting = list(self._waiting.values())
        for waiter in waiting:
            waiter.event.set()

    def _dispatch(self, message: dict[str, Any]) -> None:
        method = message.get("method")
        if method is None:
            self._settle(message)
            return
        request_id = message.get("id")
        params = message.get("params")
        well_formed = isinstance(method, str) and isinstance(params, (dict, type(None)))
        if request_id is None:
            if well_formed:
                self._on_notification(method, params or {})
            return
        reply = Reply(self._send, request_id)
        if not well_formed:
            reply.error(wire.INVALID_REQUEST, "method must be a string and params an object")
            return
        try:
            self._on_request(method, params or {}, reply)
        except RpcError as error:
            reply.failure(error)
        except PeerGoneError:
            pass
        except Exception as error:  # noqa: BLE001 - a broken handler must not end the reader
            reply.error(wire.INTERNAL_ERROR, f"{type(error).__name__}: {error}")

    def _settle(self, message: dict[str, Any]) -> None:
        call_id = message.get("id")
        with self._lock:
            waiter = self._waiting.get(call_id) if isinstance(call_id, int) else None
        if waiter is not None:
            waiter.answer = message
            waiter.event.set()

    def _send(self, message: dict[str, Any] | Written, limit: int = wire.MAX_FRAME) -> None:
        try:
            if isinstance(message, Written):
                self._stream.write_text(message)
            else:
                self._stream.write(message, limit=limit)
        except OSError as error:
            raise PeerGoneError from error

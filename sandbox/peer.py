"""JSON-RPC 2.0 with one worker: frames, ids, who waits for what, and what a worker may do per second.

Knows nothing of nodes. A worker that breaks framing, answers what nobody asked, reuses an id, or does not read what
it is sent has ended the conversation; one that merely talks a lot is read more slowly.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import anyio
import anyio.to_thread
import orjson

from runtime import wire
from sandbox.deadlines import Deadlines
from sandbox.errors import ProtocolViolationError
from sandbox.fast_paths import TAKEN, FastPath
from sandbox.hostile_json import SHORT, cost
from sandbox.messages import Answer, RemoteError, Request, parse_message, short_answer
from sandbox.rates import Allowance
from sandbox.streams import ByteStream, EndOfStreamError

log = logging.getLogger(__name__)

WRITE_TIMEOUT_S: Final = 10.0
MAX_OPEN_REQUESTS: Final = 64
"""Requests of a worker that may be served at once; more wait in its socket."""
BYTES_PER_S: Final = 32 * 1024 * 1024
FRAMES_PER_S: Final = 5_000
_PARSE_IN_THREAD: Final = 512 * 1024
"""Work (``hostile_json.cost``) that is not done on the loop: 4096 parts, 1 to 2 ms."""


class RefusedError(Exception):
    """A request of the worker is refused: becomes an error answer, the session goes on."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.data = data


class RemoteCallError(Exception):
    """The worker answered a call with an error."""

    def __init__(self, error: RemoteError) -> None:
        super().__init__(error.message)
        self.error = error


class ConversationEndedError(Exception):
    """The conversation is over; why stands with whoever runs the peer."""


class PendingCall:
    """One call that waits for its answer. ``close`` it when nobody waits any more."""

    __slots__ = (
        "_answer",
        "_deadlines",
        "_has_deadline",
        "_waiter",
        "_waiting",
        "id",
        "is_abandoned",
        "is_answered",
        "is_settled",
        "unsent",
    )

    def __init__(self, identity: int, waiting: dict[int, PendingCall], deadlines: Deadlines) -> None:
        self.id = identity
        self._waiting = waiting
        self._deadlines = deadlines
        self._has_deadline = False
        self._waiter: asyncio.Future[None] | None = None
        self._answer: Answer | None = None
        self.unsent: bytes | None = None
        """What of it is not on its way yet, for ``Peer.see_through``; None: nothing."""
        self.is_settled = False
        """Whether there is nothing to wait for."""
        self.is_abandoned = False
        self.is_answered = False
        """Whether the answer is there."""

    async def wait(self, limit_s: float | None = None) -> Any:
        """The result; one task at a time may wait for it.

        Raises:
            RemoteCallError: the worker answered with an error.
            ConversationEndedError: it will not answer any more.
            TimeoutError: it has not answered for ``limit_s``.
        """
        if not self.is_settled:
            try:
                await self.settling(limit_s)
            finally:
                self.wait_no_more()
        return self.result()

    def settling(self, limit_s: float | None = None) -> asyncio.Future[None]:
        """What to wait for while it is not settled, and ``wait_no_more`` after; fails with a ``TimeoutError``."""
        loop = asyncio.get_running_loop()
        self._waiter = waiter = loop.create_future()
        # A timer and a future, where a cancel scope would look after every task around it.
        if limit_s is not None:
            self._has_deadline = True
            self._deadlines.add(self, loop, limit_s)
        return waiter

    def wait_no_more(self) -> None:
        """Nobody waits just now."""
        self._waiter = None
        if self._has_deadline:
            self._has_deadline = False
            self._deadlines.remove(self)

    def result(self) -> Any:
        """What it was answered, now that it is settled; raises as ``wait``."""
        answer = self._answer
        if answer is None:
            raise ConversationEndedError
        if answer.error is not None:
            raise RemoteCallError(answer.error)
        return answer.result

    @property
    def failure_code(self) -> int | None:
        """The code of the error that it was answered with, if it was."""
        return None if self._answer is None or self._answer.error is None else self._answer.error.code

    def settle(self, answer: Answer | None) -> None:
        """Called by the peer."""
        self._answer = answer
        self.is_answered = answer is not None
        self.is_settled = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self) -> None:
        """Nobody waits any more; an answer that is still on its way is dropped."""
        self.is_abandoned = True
        self._waiter = None
        if self._has_deadline:
            self._has_deadline = False
            self._deadlines.remove(self)
        if self.is_answered:
            self._waiting.pop(self.id, None)

    def too_late(self) -> None:
        """Called when its deadline has passed."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(TimeoutError())


class Peer:
    """The host's end of one conversation. ``run`` reads; calls may come from any task."""

    def __init__(
        self,
        stream: ByteStream,
        *,
        on_request: Callable[[str, dict[str, Any]], Awaitable[Any]],
        on_notification: Callable[[str, dict[str, Any]], Awaitable[None]],
        frame_limit: int = wire.MAX_FRAME,
        write_timeout_s: float = WRITE_TIMEOUT_S,
    ) -> None:
        self._stream = stream
        self._on_request = on_request
        self._on_notification = on_notification
        self._frame_limit = min(frame_limit, wire.MAX_FRAME)
        self._short = min(self._frame_limit, SHORT)
        self._write_timeout_s = write_timeout_s
        self._newest_id = 0
        self._waiting: dict[int, PendingCall] = {}
        self._serving: set[int] = set()
        self._slots = anyio.Semaphore(MAX_OPEN_REQUESTS)
        self._writing = anyio.Lock(fast_acquire=True)
        self._writers = 0
        """Tasks that write patiently: nobody overtakes them."""
        self._bytes = Allowance(BYTES_PER_S, 2 * BYTES_PER_S)
        self._frames = Allowance(FRAMES_PER_S, 2 * FRAMES_PER_S)
        self.deadlines = Deadlines()
        """For the calls themselves."""
        self._ended = False
        self._does_not_read = False
        self._is_between_frames = False
        """The reader waits for the first byte of a frame."""
        self.longest = 0
        """Bytes of the longest frame that came."""

    async def run(self) -> None:
        """Read until the conversation ends.

        Raises:
            EndOfStreamError: the worker hung up.
            ProtocolViolationError: it broke the protocol.
        """
        if FastPath.INSTANT_ANSWERS in TAKEN:
            self._stream.on_arrival(self._take_answers)
        try:
            async with anyio.create_task_group() as group:
                while True:
                    message = await self._read()
                    if isinstance(message, Answer):
                        self._settle(message)
                    else:
                        await self._dispatch(message, group)
        except BaseExceptionGroup as errors:
            if self._does_not_read:
                raise ProtocolViolationError(
                    f"it has not read what it was sent for {self._write_timeout_s:.0f} s"
                ) from None
            raise _first(errors) from None
        finally:
            self.hang_up()

    def hang_up(self) -> None:
        """End the conversation: every call without an answer fails. Harmless when it has ended."""
        self._ended = True
        self.deadlines.stop()
        self._stream.close()
        for call in list(self._waiting.values()):
            if (
                not call.is_answered
            ):  # an answer that came before the end is one, though nobody has looked at it yet
                call.settle(None)

    async def start(self, method: str, params: dict[str, Any]) -> PendingCall:
        """Send a call and return without waiting for its answer.

        Raises:
            ConversationEndedError: the worker is gone or does not read.
            wire.FrameTooLargeError: the call does not fit a frame; nothing was sent.
        """
        call = self.begin(method, params)
        if call.unsent is not None:
            await self.see_through(call)
        return call

    def begin(self, method: str, params: dict[str, Any]) -> PendingCall:
        """The same as far as it can be done at once: ``see_through`` is for what is ``unsent``. Raises as ``start``."""
        if self._ended:
            raise ConversationEndedError
        self._newest_id = identity = self._newest_id + 1
        frame = encoded({"jsonrpc": "2.0", "id": identity, "method": method, "params": params})
        call = self._waiting[identity] = PendingCall(identity, self._waiting, self.deadlines)
        try:
            call.unsent = self._send(frame)
        except ConversationEndedError:
            self.forget(identity)
            raise
        return call

    def begin_at_once(self, method: str, params: dict[str, Any]) -> PendingCall | None:
        """The same where nothing has to be waited for; None where it cannot be, or would not fit a frame."""
        if self._ended or self._writers or FastPath.INSTANT_WRITES not in TAKEN:
            return None
        try:
            call = self.begin(method, params)
        except (ConversationEndedError, wire.FrameTooLargeError):
            return None
        call.unsent = None  # what the kernel had no room for is the transport's
        return call

    async def see_through(self, call: PendingCall) -> None:
        """Send the rest of a call that has begun.

        Raises:
            ConversationEndedError: the worker is gone or does not read.
        """
        rest, call.unsent = call.unsent, None
        try:
            await self._write_patiently(rest or b"")
        except ConversationEndedError:
            self.forget(call.id)
            raise

    async def call(self, method: str, params: dict[str, Any]) -> Any:
        """Send a call and wait; without a deadline of its own.

        Raises:
            RemoteCallError: the worker answered with an error.
            ConversationEndedError: it did not answer.
        """
        call = await self.start(method, params)
        try:
            return await call.wait()
        finally:
            call.close()

    async def notify(self, method: str, params: dict[str, Any]) -> None:
        """Tell the worker something.

        Raises:
            ConversationEndedError: it is gone or does not read.
        """
        await self._write(encoded({"jsonrpc": "2.0", "method": method, "params": params}))

    def forget(self, identity: int) -> None:
        """Let go of a call."""
        self._waiting.pop(identity, None)

    # -- reading -------------------------------------------------------------------------------------------------

    async def _read(self) -> Request | Answer:
        try:
            take = self._stream.take
            head = take(wire.HEADER.size)
            if head is None:
                self._is_between_frames = True
                try:
                    head = await self._stream.read_exactly(wire.HEADER.size)
                finally:
                    self._is_between_frames = False
            length = wire.frame_length(head, limit=self._frame_limit)
            body = take(length) or await self._stream.read_exactly(length)
            if length > self.longest:
                self.longest = length
        except wire.FrameError as error:
            raise ProtocolViolationError(f"it broke the framing: {error}") from error
        except EndOfStreamError:
            raise
        work = cost(body)
        delay = max(self._bytes.borrow(work), self._frames.borrow(1))
        if delay:
            await anyio.sleep(delay)  # not a wait for anything: this worker is read more slowly
        if work > _PARSE_IN_THREAD:
            return await anyio.to_thread.run_sync(parse_message, body)
        return parse_message(body)

    def _take_answers(self, data: bytes) -> int:
        """Hand over short answers that came whole while the reader waits for a frame; how many bytes they took.

        Whatever is not just that is left for the reader: parts of frames, requests, violations, and frames of a worker
        that has used up what it may send in a second.
        """
        taken = 0
        while self._is_between_frames and not self._ended and len(data) - taken > wire.HEADER.size:
            (length,) = wire.HEADER.unpack_from(data, taken)
            begin = taken + wire.HEADER.size
            end = begin + length
            if not 0 < length <= self._short or end > len(data):
                break
            body = data[begin:end]
            answer = short_answer(body)
            if answer is None:
                break
            call = self._waiting.get(answer.id)
            if call is None or call.is_answered:
                break
            now = time.monotonic()
            work = cost(body)
            if not (self._bytes.take(work, now) and self._frames.take(1.0, now)):
                break
            taken = end
            if length > self.longest:
                self.longest = length
            call.settle(answer)
            if call.is_abandoned:
                self.forget(call.id)
        return taken

    def _settle(self, answer: Answer) -> None:
        call = self._waiting.get(answer.id)
        if call is None or call.is_answered:
            raise ProtocolViolationError(f"it answered call {answer.id}, which nobody made")
        call.settle(answer)
        if call.is_abandoned:
            self.forget(call.id)

    async def _dispatch(self, message: Request, group: anyio.abc.TaskGroup) -> None:
        if message.id is None:
            await self._on_notification(message.method, message.params)
        else:
            if message.id in self._serving:
                raise ProtocolViolationError(f"it used the id {message.id} twice")
            await self._slots.acquire()
            self._serving.add(message.id)
            group.start_soon(self._serve, message, message.id)

    async def _serve(self, request: Request, identity: int) -> None:
        try:
            try:
                answer: dict[str, Any] = {"result": await self._on_request(request.method, request.params)}
            except RefusedError as error:
                answer = {"error": {"code": error.code, "message": str(error), "data": error.data}}
            self._serving.discard(identity)
            await self._write(encoded({"jsonrpc": "2.0", "id": identity, **answer}))
        except ConversationEndedError:
            log.debug("request %d has nobody to answer to", identity)
        finally:
            self._serving.discard(identity)
            self._slots.release()

    async def _write(self, frame: bytes) -> None:
        rest = self._send(frame)
        if rest is not None:
            await self._write_patiently(rest)

    def _send(self, frame: bytes) -> bytes | None:
        """Send what can be sent at once: nearly every frame. None: it went; else what there is to wait for."""
        if self._ended:
            raise ConversationEndedError
        if self._writers or FastPath.INSTANT_WRITES not in TAKEN:
            return frame
        try:
            return None if self._stream.write_at_once(frame) else b""
        except EndOfStreamError:
            raise ConversationEndedError from None

    async def _write_patiently(self, rest: bytes) -> None:
        self._writers += 1
        try:
            with anyio.fail_after(self._write_timeout_s):
                async with self._writing:
                    await self._stream.write(rest)
        except TimeoutError:
            self._does_not_read = True
            self.hang_up()
            raise ConversationEndedError from None
        except EndOfStreamError:
            raise ConversationEndedError from None
        finally:
            self._writers -= 1


def encoded(message: Mapping[str, Any]) -> bytes:
    """``wire.encode_frame``, quickly where that makes no difference.

    Raises: as ``wire.encode_frame``.
    """
    if FastPath.SHORT_JSON not in TAKEN:
        return wire.encode_frame(dict(message))
    try:
        body = orjson.dumps(message)
    except TypeError:  # half of a surrogate pair, a number beyond 64 bits, a key that is no text
        return wire.encode_frame(dict(message))
    if b"null" in body or len(body) > wire.MAX_FRAME:
        return wire.encode_frame(dict(message))  # orjson writes NaN as null, which is to be an error
    return wire.HEADER.pack(len(body)) + body


def _first(errors: BaseExceptionGroup[Any]) -> Exception:
    """The most telling of several: a violation before a hang-up."""
    flat: list[Exception] = []
    pending: list[BaseException] = [errors]
    while pending:
        error = pending.pop()
        if isinstance(error, BaseExceptionGroup):
            pending.extend(error.exceptions)
        elif isinstance(error, Exception):
            flat.append(error)
    return next((error for error in flat if isinstance(error, ProtocolViolationError)), flat[0])

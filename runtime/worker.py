"""The life of a worker: hello, load, describe and run nodes, cancel, bye.

Who does what: synchronous node functions run one at a time on the main thread, which reads while it has none to run;
while it has, another thread reads (see ``reading.py``), which never runs a pack's code; coroutine functions run
together on the loop's thread; descriptions, validators, fingerprints and lazy questions run on a small pool, so that a
long node never keeps them waiting.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from . import ahead, calling, environment, failures, following, versions, wire
from .catalogue import Catalogue
from .files import SharedFiles
from .loop import LoopThread
from .nodecalls import NodeCalls
from .peer import Peer, PeerGoneError, Reply, RpcError
from .reading import Reading
from .sdk import host, paths
from .sdk.context import Flag
from .site import Site
from .stdio import Capture
from .streams import FrameStream
from .watching import Watching
from .written import Written

_POOL = 4
_CODEC_POOL = 2

Make = Callable[[], dict[str, Any] | Written]


@dataclass(slots=True)
class _Call:
    """An execution that the host waits for."""

    params: dict[str, Any]
    reply: Reply
    cls: Any
    interrupted: Flag = field(default_factory=Flag)
    task: asyncio.Task[None] | None = None
    has_started: bool = False


class Worker:
    """One session with the host, from the first frame to the last."""

    def __init__(self, stream: FrameStream, capture: Capture, complain: Callable[[str], None]) -> None:
        self._peer = Peer(stream)
        self._capture = capture
        self._complain = complain
        self._reading = Reading(self._peer, self._step, self._forget_before, self._keeps_tensors)
        self._pool = ThreadPoolExecutor(_POOL, thread_name_prefix="ringfence-pool")
        # Of its own: tensors of coroutine nodes must not wait for somebody's slow validator.
        self._codec = ThreadPoolExecutor(_CODEC_POOL, thread_name_prefix="ringfence-codec")
        self._loop = LoopThread()
        self._files = SharedFiles(
            paths.place(wire.IN_DIRECTORY),
            paths.place(wire.OUT_DIRECTORY),
            allocate=self._allocate,
            discard=lambda name: self._peer.notify(wire.DISCARD, {"file": name}),
        )
        self._catalogue = Catalogue()
        self._nodes = NodeCalls(self._catalogue, self._files, self._loop)
        self._site = Site()
        self._calls: dict[str | int, _Call] = {}
        self._calls_lock = threading.Lock()
        self._before: following.Before | None = None
        """Of the main thread's last call, if the next may follow it."""
        self._watching: Watching | None = None
        self._requests: dict[str, Callable[[dict[str, Any], Reply], None]] = {
            wire.HELLO: self._on_hello,
            wire.BYE: self._on_bye,
            wire.PREPARE: self._on_prepare,
            wire.LOAD: lambda params, reply: self._on_main(
                reply, lambda: self._catalogue.load(params, self._loop)
            ),
            wire.DESCRIBE: lambda params, reply: self._in_pool(
                reply, lambda: self._catalogue.describe(params)
            ),
            wire.VALIDATE: lambda params, reply: self._in_pool(reply, lambda: self._nodes.validate(params)),
            wire.FINGERPRINT: lambda params, reply: self._in_pool(
                reply, lambda: self._nodes.fingerprint(params)
            ),
            wire.LAZY: lambda params, reply: self._in_pool(reply, lambda: self._nodes.lazy(params)),
            wire.EXECUTE: self._on_execute,
            wire.PROMPT_HOOK: lambda params, reply: self._in_pool(
                reply, lambda: self._catalogue.hook_prompt(params)
            ),
            wire.HTTP_REQUEST: self._on_site(self._site.request),
            wire.HTTP_SEND: self._on_site(self._site.send),
            wire.HTTP_READ: self._on_site(self._site.read),
            wire.SOCKET_OPEN: self._on_site(self._site.sockets.open),
            wire.SOCKET_SEND: self._on_site(self._site.sockets.send),
            wire.SOCKET_RECEIVE: self._on_site(self._site.sockets.receive),
        }
        host.connect(self)
        host.lend_loop(self._loop.loop)

    def run(self) -> None:
        """Serve until the host says bye or hangs up; does not return."""
        self._loop.start()
        self._peer.listen(self._on_request, self._on_notification)
        self._reading.run()

    # -- what the sdk asks for (sdk.host.Host) -------------------------------------------------------------------

    def notify(self, method: str, params: dict[str, Any]) -> None:
        try:
            self._peer.notify(method, params)
        except wire.FrameTooLargeError as error:
            print(f"a {method} message was not sent: {error}", file=sys.stderr)  # noqa: T201 - the pack's own log

    def request(self, method: str, params: dict[str, Any]) -> Any:
        try:
            return self._peer.call(method, params)
        except PeerGoneError:
            raise RpcError(wire.INTERNAL_ERROR, "the host is gone") from None

    def granted(self, file: str, nbytes: int) -> Any:
        return self._files.map(file, nbytes)

    def _allocate(self, nbytes: int) -> tuple[str, int]:
        answer = self._peer.call(wire.ALLOCATE, {"bytes": nbytes})
        return str(answer["file"]), int(answer.get("huge", 0))

    def publish(self, data: bytes) -> str | None:
        try:
            return self._files.publish([memoryview(data)], len(data))
        except (RpcError, PeerGoneError):
            return None  # a picture of the progress is not worth a failed node

    # -- reading -------------------------------------------------------------------------------------------------

    def _step(self) -> bool:
        """One message. The end of the stream is the end of the process, on whichever thread."""
        status = 0
        goes_on = False
        try:
            goes_on = self._peer.step()
        except wire.FrameError as error:
            self._complain(f"protocol error: {error}")
            status = 70  # EX_SOFTWARE
        finally:
            if not goes_on:
                os._exit(status)  # no waiting for a pack's threads: nobody is left to hear them
        return goes_on

    def _on_request(self, method: str, params: dict[str, Any], reply: Reply) -> None:
        handler = self._requests.get(method)
        if handler is None:
            raise RpcError(wire.METHOD_NOT_FOUND, f"no method {method[:100]!r}")
        handler(params, reply)

    def _on_notification(self, method: str, params: dict[str, Any]) -> None:
        if method == wire.CANCEL:
            self._cancel(params.get("call"))
        elif method == wire.RELEASE_HANDLES:
            self._bury(self._nodes.handles.release(params.get("handles") or ()))
        elif method == wire.DROP_INSTANCES:
            self._bury(self._nodes.instances.drop(params.get("instances") or []))
        elif method == wire.HTTP_CLOSE:
            self._loop.submit(self._site.close(params))
        elif method == wire.SOCKET_CLOSE:
            self._loop.submit(self._site.sockets.close(params))

    def _bury(self, objects: list[Any]) -> None:
        """Let objects go at once, but their destructors run elsewhere: they are the pack's code."""
        self._pool.submit(objects.clear)

    def _on_hello(self, params: dict[str, Any], reply: Reply) -> None:
        if params.get("protocol") != wire.PROTOCOL_VERSION:
            raise RpcError(
                wire.INVALID_REQUEST,
                f"the host speaks protocol {params.get('protocol')}, this worker {wire.PROTOCOL_VERSION}",
            )
        self._nodes.writes_plainly = params.get("in_full") is not True
        self._files.hands_on = params.get("write_all") is not True
        self._on_main(reply, lambda: self._hello(is_watched=params.get("watch") is True))

    def _hello(self, *, is_watched: bool) -> dict[str, Any]:
        self._capture.start(self._log)
        environment.prepare()
        if is_watched:
            self._watching = Watching(self.notify)
            self._watching.start()
        return {
            "protocol": wire.PROTOCOL_VERSION,
            "python": ".".join(map(str, sys.version_info[:3])),
            "numpy": versions.installed("numpy"),
            "torch": versions.installed("torch"),
            "pid": os.getpid(),
        }

    def _on_prepare(self, params: dict[str, Any], reply: Reply) -> None:
        # Imports belong on the main thread, as a pack's own would be; a question waits for no node.
        put = self._on_main if params.get("modules") else self._in_pool
        put(reply, lambda: ahead.prepare(params))

    def _on_bye(self, params: dict[str, Any], reply: Reply) -> None:
        del params
        self._capture.drain()
        reply.result({})
        os._exit(0)

    # -- running nodes -------------------------------------------------------------------------------------------

    def _on_execute(self, params: dict[str, Any], reply: Reply) -> None:
        node = self._catalogue.node(params)
        call = _Call(params, reply, node.cls)
        self._calls[params["call"]] = call  # a cancellation is read after this, whoever reads it
        if node.is_async:
            self._loop.submit(self._execute_async(call))
        else:
            self._reading.put(partial(self._execute, call))

    def _execute(self, call: _Call) -> None:
        """Run a synchronous node, on the main thread."""
        if self._begin(call):
            self._answer(call.reply, partial(self._execute_here, call), call)
            # One that follows has been sent while this one ran.
            before = self._before  # the helper may forget it meanwhile
            if before is not None and following.is_costly(before) and not self._reading.is_next_here():
                self._before = None

    def _execute_here(self, call: _Call) -> dict[str, Any] | Written:
        before, self._before = self._before, None
        if "follows" in call.params:
            following.fill_in(call.params, before)
        del before  # what it does not need is not kept while it runs
        mapped = self._nodes.prepare(call.cls, call.params, call.interrupted)
        arguments = mapped.gathered.arguments
        try:
            with calling.inference_mode():
                outcomes = self._nodes.run(mapped)
        except BaseException as error:
            raise failures.as_rpc_error(error, arguments) from error
        result = self._nodes.result(call.cls, call.params, outcomes, arguments)
        if type(result) is Written and not call.interrupted.is_set():
            self._before = following.ended(call.params["call"], outcomes[0])
        return result

    async def _execute_async(self, call: _Call) -> None:
        """Run a coroutine node on the loop; tensors are read and written on other threads, to keep the loop free."""
        call.task = asyncio.current_task()
        if not self._begin(call):
            return
        loop = asyncio.get_running_loop()
        arguments: Mapping[str, Any] = {}
        try:
            mapped = await loop.run_in_executor(
                self._codec, self._nodes.prepare, call.cls, call.params, call.interrupted
            )
            arguments = mapped.gathered.arguments
            self._loop.enter_inference_mode()
            outcomes = await mapped.run_async()
        except BaseException as error:  # noqa: BLE001 - cancelled, or whatever the pack raised
            failure = failures.as_rpc_error(error, arguments)
            self._codec.submit(self._answer, call.reply, _raiser(failure), call)
        else:
            # Not awaited: from here on a cancellation comes too late, and half-written files would be lost.
            make = partial(self._nodes.result, call.cls, call.params, outcomes, arguments)
            self._codec.submit(self._answer, call.reply, make, call)

    def _keeps_tensors(self) -> bool:
        before = self._before
        return before is not None and following.holds_tensors(before)

    def _forget_before(self) -> None:
        """No call has come for a while: what the last one made is kept for none."""
        self._before = None

    def _begin(self, call: _Call) -> bool:
        with self._calls_lock:
            call.has_started = not call.interrupted.is_set()
            return call.has_started

    def _cancel(self, call_id: Any) -> None:
        with self._calls_lock:
            call = self._calls.get(call_id)
            if call is None:
                return
            call.interrupted.set()
            if not call.has_started:
                del self._calls[call_id]
        if not call.has_started:
            call.reply.error(wire.INTERRUPTED, "the node was interrupted before it started")
        elif call.task is not None:
            self._loop.loop.call_soon_threadsafe(call.task.cancel)

    # -- answering -----------------------------------------------------------------------------------------------

    def _on_main(self, reply: Reply, make: Make) -> None:
        self._reading.put(lambda: self._answer(reply, make))

    def _on_site(
        self, serve: Callable[[dict[str, Any]], Coroutine[Any, Any, dict[str, Any]]]
    ) -> Callable[[dict[str, Any], Reply], None]:
        """Serve a request about HTTP on the loop; the answer is written on another thread, to keep the loop free."""

        async def on_loop(params: dict[str, Any], reply: Reply) -> None:
            try:
                result = await serve(params)
            except BaseException as error:  # noqa: BLE001 - cancelled, or whatever the pack raised
                self._codec.submit(self._answer, reply, _raiser(failures.as_rpc_error(error)))
            else:
                self._codec.submit(self._answer, reply, lambda: result)

        def start(params: dict[str, Any], reply: Reply) -> None:
            self._loop.submit(on_loop(params, reply))

        return start

    def _in_pool(self, reply: Reply, make: Make) -> None:
        self._pool.submit(self._answer, reply, make)

    def _answer(self, reply: Reply, make: Make, call: _Call | None = None) -> None:
        """Answer a request with what ``make`` returns or raises; what was printed meanwhile goes first."""
        result: dict[str, Any] | Written = {}
        failure: RpcError | None = None
        try:
            result = make()
        except BaseException as error:  # noqa: BLE001 - nothing a pack does may end this thread
            found = failures.as_rpc_error(error)
            # A copy: the original's traceback holds the node's inputs, which are let go before the host hears of it.
            failure = RpcError(found.code, found.message, found.data)
            del found
        self._capture.settle()
        if self._watching is not None:
            self._watching.flush()
        if call is not None:
            self._calls.pop(call.params["call"], None)
        try:
            _send(reply, result, failure)
        except PeerGoneError:
            pass  # the reading thread ends the process

    def _log(self, stream: str, text: str, dropped: int) -> None:
        self._peer.notify(wire.LOG, {"stream": stream, "text": text, "dropped": dropped})


def _send(reply: Reply, result: dict[str, Any] | Written, failure: RpcError | None) -> None:
    if failure is not None:
        reply.failure(failure)
        return
    try:
        reply.result(result)
    except wire.FrameTooLargeError as error:
        reply.error(wire.VALUE_NOT_PORTABLE, f"the result is too large: {error}", {"what": "result"})


def _raiser(error: RpcError) -> Make:
    def raise_it() -> dict[str, Any]:
        raise error

    return raise_it

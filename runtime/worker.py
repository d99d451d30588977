"""The life of a worker: hello, load, describe and run nodes, cancel, bye.

Who does what: one thread reads and never runs a pack's code; synchronous node functions run one at a time on the
main thread; coroutine functions run together on the loop's thread; descriptions, validators, fingerprints and lazy
questions run on a small pool, so that a long node never keeps them waiting.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import inspect
import os
import platform
import queue
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from . import calling, environment, failures, fingerprints, inputs, loader, schema, wire
from .calling import InstanceTable, Mapped
from .files import SharedFiles
from .handles import HandleTable
from .loader import NodeClass
from .loop import LoopThread
from .peer import Peer, PeerGoneError, Reply, RpcError
from .sdk import context, host, paths
from .stdio import Capture
from .streams import FrameStream
from .values import Decoder, Encoder

_POOL = 4
_CODEC_POOL = 2


@dataclass(slots=True)
class _Call:
    """An execution that the host waits for."""

    params: Mapping[str, Any]
    reply: Reply
    node: NodeClass
    interrupted: threading.Event = field(default_factory=threading.Event)
    task: asyncio.Task[None] | None = None
    has_started: bool = False


class Worker:
    """One session with the host, from the first frame to the last."""

    def __init__(self, stream: FrameStream, capture: Capture, complain: Callable[[str], None]) -> None:
        self._peer = Peer(stream)
        self._capture = capture
        self._complain = complain
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._pool = ThreadPoolExecutor(_POOL, thread_name_prefix="ringfence-pool")
        self._codec = ThreadPoolExecutor(_CODEC_POOL, thread_name_prefix="ringfence-codec")
        self._loop = LoopThread()
        self._extensions: dict[str, loader.Extension] = {}
        self._nodes: dict[str, NodeClass] = {}
        self._instances = InstanceTable()
        self._handles = HandleTable()
        self._files = SharedFiles(
            paths.place(wire.IN_DIRECTORY),
            paths.place(wire.OUT_DIRECTORY),
            allocate=self._allocate,
            discard=lambda name: self._peer.notify(wire.DISCARD, {"file": name}),
        )
        self._calls: dict[str | int, _Call] = {}
        self._calls_lock = threading.Lock()
        self._requests: dict[str, Callable[[dict[str, Any], Reply], None]] = {
            wire.HELLO: self._on_hello,
            wire.BYE: self._on_bye,
            wire.LOAD: self._on_load,
            wire.DESCRIBE: lambda params, reply: self._in_pool(self._describe, params, reply),
            wire.VALIDATE: lambda params, reply: self._in_pool(self._validate, params, reply),
            wire.FINGERPRINT: lambda params, reply: self._in_pool(self._fingerprint, params, reply),
            wire.LAZY: lambda params, reply: self._in_pool(self._lazy, params, reply),
            wire.EXECUTE: self._on_execute,
        }
        host.connect(self)

    def run(self) -> None:
        """Serve until the host says bye or hangs up; does not return."""
        threading.Thread(target=self._read, name="ringfence-reader", daemon=True).start()
        self._loop.start()
        while True:
            job = self._jobs.get()
            job()
            del job

    # -- what the sdk asks for (sdk.host.Host) -------------------------------------------------------------------

    def notify(self, method: str, params: dict[str, Any]) -> None:
        try:
            self._peer.notify(method, params)
        except wire.FrameTooLargeError as error:
            print(f"a {method} message was not sent: {error}", file=sys.stderr)  # noqa: T201 - the pack's own log

    def publish(self, data: bytes) -> str | None:
        try:
            return self._files.publish([memoryview(data)], len(data))
        except (RpcError, PeerGoneError):
            return None  # a picture of the progress is not worth a failed node

    # -- reading -------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        status = 0
        try:
            self._peer.serve(self._on_request, self._on_notification)
        except wire.FrameError as error:
            self._complain(f"protocol error: {error}")
            status = 70  # EX_SOFTWARE
        finally:
            os._exit(status)  # no waiting for a pack's threads: nobody is left to hear them

    def _on_request(self, method: str, params: dict[str, Any], reply: Reply) -> None:
        handler = self._requests.get(method)
        if handler is None:
            raise RpcError(wire.METHOD_NOT_FOUND, f"no method {method[:100]!r}")
        handler(params, reply)

    def _on_notification(self, method: str, params: dict[str, Any]) -> None:
        if method == wire.CANCEL:
            self._cancel(params.get("call"))
        elif method == wire.RELEASE_HANDLES:
            self._bury(self._handles.release(params.get("handles") or ()))
        elif method == wire.DROP_INSTANCES:
            self._bury(self._instances.drop(params.get("instances") or []))

    def _bury(self, objects: list[Any]) -> None:
        """Let objects go at once, but their destructors run elsewhere: they are the pack's code."""
        self._pool.submit(objects.clear)

    def _on_hello(self, params: dict[str, Any], reply: Reply) -> None:
        if params.get("protocol") != wire.PROTOCOL_VERSION:
            raise RpcError(
                wire.INVALID_REQUEST,
                f"the host speaks protocol {params.get('protocol')}, this worker {wire.PROTOCOL_VERSION}",
            )
        self._jobs.put(lambda: self._hello(reply))

    def _hello(self, reply: Reply) -> None:
        self._capture.start(self._log)
        environment.prepare()
        answer = {
            "protocol": wire.PROTOCOL_VERSION,
            "python": platform.python_version(),
            "numpy": _version("numpy"),
            "torch": _version("torch"),
            "pid": os.getpid(),
        }
        self._answer(reply, lambda: answer)

    def _on_bye(self, params: dict[str, Any], reply: Reply) -> None:
        del params
        self._capture.drain()
        reply.result({})
        os._exit(0)

    # -- loading and describing ----------------------------------------------------------------------------------

    def _on_load(self, params: dict[str, Any], reply: Reply) -> None:
        self._jobs.put(lambda: self._answer(reply, lambda: self._load(params)))

    def _load(self, params: dict[str, Any]) -> dict[str, Any]:
        name = str(params["name"])
        extension = self._extensions.get(name)
        if extension is None:
            try:
                extension = self._loop.run_here(
                    loader.load(
                        name, params["path"], params.get("module_name"), core=bool(params.get("core"))
                    )
                )
            except BaseException as error:  # also sys.exit at import: the worker lives on
                raise failures.load_failed(error) from error
            self._extensions[name] = extension
        described = loader.describe(extension)
        self._nodes.update(extension.nodes)
        return {
            "api": extension.api,
            "nodes": described,
            "skipped": _skipped(extension),
            "web_directory": extension.web_directory,
            "routes": [route._asdict() for route in extension.routes],
            "notes": extension.notes,
        }

    def _describe(self, params: dict[str, Any]) -> dict[str, Any]:
        class_types = params.get("class_types")
        extensions = list(self._extensions.values())
        return {
            "nodes": [node for extension in extensions for node in loader.describe(extension, class_types)],
            "skipped": [entry for extension in extensions for entry in _skipped(extension)],
        }

    # -- questions about a node, on the pool ---------------------------------------------------------------------

    def _in_pool(
        self, handler: Callable[[dict[str, Any]], dict[str, Any]], params: dict[str, Any], reply: Reply
    ) -> None:
        self._pool.submit(self._answer, reply, lambda: handler(params))

    def _validate(self, params: dict[str, Any]) -> dict[str, Any]:
        cls = self._node(params).cls
        name = schema.validator_name(cls)
        if name is None:
            return {"results": []}
        mapped = self._mapped(cls, name, params, instance=None, is_validator=True)
        return {"results": fingerprints.verdicts(self._run_anywhere(mapped))}

    def _fingerprint(self, params: dict[str, Any]) -> dict[str, Any]:
        cls = self._node(params).cls
        name = schema.fingerprint_name(cls)
        if name is None:
            return {"value": False}
        try:
            mapped = self._mapped(cls, name, params, instance=None)
            return {"value": fingerprints.fingerprint(self._run_anywhere(mapped))}
        except RpcError:
            raise
        except Exception as error:  # noqa: BLE001 - the node then simply runs
            failures.print_to_log(error, f"{name} of {params['class_type']} failed")
            return {"value": fingerprints.NEVER_SAME}

    def _lazy(self, params: dict[str, Any]) -> dict[str, Any]:
        cls = self._node(params).cls
        name = schema.lazy_function_name(cls)
        if name is None:
            return {"names": []}
        mapped = self._mapped(cls, name, params, instance=lambda: self._instance(cls, params), is_lazy=True)
        with calling.inference_mode():
            outcomes = self._run_anywhere(mapped)
        asked = {
            item
            for outcome in outcomes
            if isinstance(outcome, list)
            for item in outcome
            if isinstance(item, str)
        }
        return {"names": sorted(asked)}

    def _run_anywhere(self, mapped: Mapped) -> list[Any]:
        """Run here, or on the loop if the function is a coroutine function."""
        return self._loop.submit(mapped.run_async()).result() if mapped.is_async else mapped.run()

    # -- running nodes -------------------------------------------------------------------------------------------

    def _on_execute(self, params: dict[str, Any], reply: Reply) -> None:
        call = _Call(params, reply, self._node(params))
        with self._calls_lock:
            self._calls[params["call"]] = call
        if call.node.is_async:
            self._loop.submit(self._execute_async(call))
        else:
            self._jobs.put(lambda: self._execute(call))

    def _execute(self, call: _Call) -> None:
        """Run a synchronous node, on the main thread."""
        if not self._begin(call):
            return
        self._answer(call.reply, lambda: self._execute_here(call), call)

    def _execute_here(self, call: _Call) -> dict[str, Any]:
        mapped = self._prepare(call)
        arguments = mapped.gathered.arguments
        try:
            with calling.inference_mode():
                outcomes = mapped.run()
        except BaseException as error:
            raise failures.as_rpc_error(error, arguments) from error
        return self._encode(call, outcomes, arguments)

    async def _execute_async(self, call: _Call) -> None:
        """Run a coroutine node on the loop; tensors are read and written on other threads, to keep the loop free."""
        call.task = asyncio.current_task()
        if not self._begin(call):
            return
        loop = asyncio.get_running_loop()
        arguments: Mapping[str, Any] = {}
        try:
            mapped = await loop.run_in_executor(self._codec, self._prepare, call)
            arguments = mapped.gathered.arguments
            self._loop.enter_inference_mode()
            outcomes = await mapped.run_async()
        except BaseException as error:  # noqa: BLE001 - cancelled, or whatever the pack raised
            failure = failures.as_rpc_error(error, arguments)
            self._codec.submit(self._answer, call.reply, _raiser(failure), call)
        else:
            # Not awaited: from here on a cancellation comes too late, and half-written files would be lost.
            self._codec.submit(
                self._answer, call.reply, lambda: self._encode(call, outcomes, arguments), call
            )

    def _begin(self, call: _Call) -> bool:
        with self._calls_lock:
            call.has_started = not call.interrupted.is_set()
            return call.has_started

    def _prepare(self, call: _Call) -> Mapped:
        cls = call.node.cls
        return self._mapped(
            cls,
            cls.FUNCTION,
            call.params,
            instance=lambda: self._instance(cls, call.params),
            interrupted=call.interrupted,
        )

    def _encode(self, call: _Call, outcomes: list[Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
        encoder = Encoder(self._files, self._handles)
        try:
            return calling.execute_result(call.node.cls, outcomes, encoder)
        except BaseException as error:
            encoder.rollback()
            raise failures.as_rpc_error(error, arguments) from error

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
        if call.task is not None:
            self._loop.loop.call_soon_threadsafe(call.task.cancel)

    # -- shared --------------------------------------------------------------------------------------------------

    def _node(self, params: Mapping[str, Any]) -> NodeClass:
        class_type = params.get("class_type")
        node = self._nodes.get(class_type) if isinstance(class_type, str) else None
        if node is None:
            raise RpcError(wire.UNKNOWN_NODE, f"no node {str(class_type)[:200]!r} is loaded here")
        return node

    def _instance(self, cls: Any, params: Mapping[str, Any]) -> Any:
        return self._instances.get(str(params.get("instance") or params.get("node_id")), cls)

    def _mapped(
        self,
        cls: Any,
        name: str,
        params: Mapping[str, Any],
        *,
        instance: Callable[[], Any] | None,
        interrupted: threading.Event | None = None,
        is_validator: bool = False,
        is_lazy: bool = False,
    ) -> Mapped:
        gathered = inputs.gather(cls, params, Decoder(self._files, self._handles), getattr(cls, name))
        function = calling.bound_function(cls, name, instance, gathered.hidden)
        if is_validator:
            inputs.select(gathered, function)
            if "input_types" in inspect.signature(function).parameters:
                gathered.arguments["input_types"] = [dict(params.get("input_types") or {})]
        if is_lazy:
            inputs.name_leaves(gathered)
        call = context.CallContext(
            params.get("call", 0),
            str(params.get("prompt_id", "")),
            str(params.get("node_id", "")),
            None,
            interrupted or threading.Event(),
        )
        return Mapped(function, gathered, getattr(cls, "INPUT_IS_LIST", False) is True, call)

    def _answer(self, reply: Reply, make: Callable[[], Any], call: _Call | None = None) -> None:
        """Answer a request with what ``make`` returns or raises; what was printed meanwhile goes first."""
        try:
            try:
                result = make()
            except BaseException as error:  # noqa: BLE001 - nothing a pack does may end this thread
                failure = failures.as_rpc_error(error)
                self._capture.restore()
                self._capture.drain()
                self._forget(call)
                reply.failure(failure)
                return
            self._capture.restore()
            self._capture.drain()
            self._forget(call)
            try:
                reply.result(result)
            except wire.FrameTooLargeError as error:
                reply.error(wire.VALUE_NOT_PORTABLE, f"the result is too large: {error}", {"what": "result"})
        except PeerGoneError:
            pass  # the reading thread ends the process

    def _forget(self, call: _Call | None) -> None:
        if call is not None:
            with self._calls_lock:
                self._calls.pop(call.params["call"], None)

    def _allocate(self, nbytes: int) -> str:
        answer = self._peer.call(wire.ALLOCATE, {"bytes": nbytes})
        return str(answer["file"])

    def _log(self, stream: str, text: str, dropped: int) -> None:
        self._peer.notify(wire.LOG, {"stream": stream, "text": text, "dropped": dropped})


def _raiser(error: BaseException) -> Callable[[], Any]:
    def raise_it() -> Any:
        raise error

    return raise_it


def _skipped(extension: loader.Extension) -> list[dict[str, str]]:
    return [{"class_type": class_type, "error": error} for class_type, error in extension.skipped.items()]


def _version(distribution: str) -> str | None:
    """The version that an import would find, without importing it."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None

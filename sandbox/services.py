"""What a worker may ask of the host or tell it while a node runs, each checked and each bounded.

Requests: memory for an output, what a node keeps, files of weights. Notifications: progress, text, logs, events for
clients. A notification over its rate is dropped (and, for logs, counted), a request over its rate waits; nothing a
worker says here can make the host wait for it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import anyio

from policies import EffectivePolicy, ExtensionName, RingfenceError, SandboxId, TenantId, safe_text
from runtime import wire
from sandbox import messages
from sandbox.calls import EventSink, PackEvent, Progress, ProgressSink, measure
from sandbox.errors import ProtocolViolationError, QuotaError, SandboxError
from sandbox.fast_paths import FastPath, takes
from sandbox.hostile_json import plain
from sandbox.logbook import Logbook
from sandbox.node_state import NodeStates, StateHolder
from sandbox.peer import PendingCall, RefusedError
from sandbox.rates import Allowance
from sandbox.resources import ResourceMissingError, ResourceRefusedError, ResourceShelf
from sandbox.tensors import TensorStore
from sandbox.watching import Watch

log = logging.getLogger(__name__)

PROGRESS_PER_S: Final = 50
PREVIEWS_PER_S: Final = 10
EVENTS_PER_S: Final = 50
TEXT_LIMIT: Final = 20_000
TEXT_CHARS_PER_S: Final = 5 * TEXT_LIMIT
STATES_PER_S: Final = 200
RESOURCES_PER_S: Final = 20
_MOST_HELD: Final = 64
EVENT_PARTS: Final = 4_096
"""Values in the data of one event: it is copied and encoded for every client that listens."""


class Services:
    """Serves one sandbox."""

    def __init__(
        self,
        sandbox: SandboxId,
        tenant: TenantId,
        policy: EffectivePolicy,
        store: TensorStore,
        logbook: Logbook,
        events: EventSink | None,
        extension_of_call: Callable[[int], ExtensionName | None],
        *,
        own_folder: str = "",
        node_of_call: Callable[[int], tuple[ExtensionName, str, str] | None] = lambda _: None,
        states: NodeStates | None = None,
        resources: ResourceShelf | None = None,
        watch: Watch | None = None,
    ) -> None:
        self._watch = watch
        self._sandbox = sandbox
        self._tenant = tenant
        self._policy = policy
        self._store = store
        self._logbook = logbook
        self._events = events
        self._extension_of_call = extension_of_call
        self._own_folder = own_folder
        self._node_of_call = node_of_call
        self._node_states = states
        self._resources = resources
        self._state_rate = Allowance(STATES_PER_S, 2 * STATES_PER_S)
        self._resource_rate = Allowance(RESOURCES_PER_S, 2 * RESOURCES_PER_S)
        self._requests: dict[str, Callable[[dict[str, Any]], Awaitable[Any]]] = {
            wire.ALLOCATE: self._allocate,
            wire.STATE_GET: self._state_get,
            wire.STATE_SET: self._state_set,
            wire.STATE_DELETE: self._state_delete,
            wire.RESOURCE_GET: self._resource_get,
        }
        self._sinks: dict[int, ProgressSink] = {}
        self._newest_call = 0
        self._before: PendingCall | None = None
        self._held: list[PackEvent] = []
        self._progress = Allowance(PROGRESS_PER_S, 2 * PROGRESS_PER_S)
        self._previews = Allowance(PREVIEWS_PER_S, PREVIEWS_PER_S)
        self._last_steps = Allowance(PROGRESS_PER_S, 2 * PROGRESS_PER_S)
        self._texts = Allowance(EVENTS_PER_S, 2 * EVENTS_PER_S)
        self._text_chars = Allowance(TEXT_CHARS_PER_S, 2 * TEXT_CHARS_PER_S)

    def listen(self, call: int, sink: ProgressSink) -> None:
        """Hand progress of ``call`` to ``sink``."""
        self._sinks[call] = sink
        if call > self._newest_call:
            self._newest_call = call

    def hold_after(self, before: PendingCall) -> None:
        """Keep what is said to clients once ``before`` has been answered, until ``go_on``: it is of a node of which
        nobody has heard yet that it runs."""
        self._before = before

    def go_on(self) -> None:
        """Say what was kept, which may be of others as well."""
        held, self._held, self._before = self._held, [], None
        for event in held:
            self._send(event)

    def unlisten(self, call: int) -> None:
        """The call is over; progress that is still on its way is dropped."""
        self._sinks.pop(call, None)

    async def request(self, method: str, params: dict[str, Any]) -> Any:
        """Answer a request.

        Raises:
            RefusedError: within the protocol, but not now.
            ProtocolViolationError: outside of it.
        """
        serve = self._requests.get(method)
        if serve is None:
            raise ProtocolViolationError(f"it sent {method} as a request")
        return await serve(params)

    def close(self) -> None:
        """The sandbox ends: what it borrowed is given back."""
        if self._resources is not None:
            self._resources.give_back(self._sandbox)

    async def _allocate(self, params: dict[str, Any]) -> dict[str, Any]:
        asked = messages.checked(messages.Allocate, params, wire.ALLOCATE)
        try:
            file = await self._store.allocate(self._sandbox, asked.bytes)
        except QuotaError as error:
            if self._watch is not None:
                self._watch.refused(error)
            data = {
                "limit": self._policy.shared_memory,
                "asked": asked.bytes,
                "used": self._store.sandbox_bytes(self._sandbox),
            }
            raise RefusedError(wire.QUOTA_EXCEEDED, str(error), data) from error
        except SandboxError as error:
            raise RefusedError(wire.INTERNAL_ERROR, str(error)) from error
        if self._watch is not None:
            self._watch.holds(self._store.sandbox_bytes(self._sandbox))
        huge = self._store.huge_bytes(self._sandbox, file) if takes(FastPath.MAPPED_OUTPUTS) else 0
        return {"file": file, "huge": huge} if huge else {"file": file}

    # -- what a node keeps -------------------------------------------------------------------------------------------

    async def _state_get(self, params: dict[str, Any]) -> dict[str, Any]:
        asked = messages.checked(messages.StateGet, params, wire.STATE_GET)
        states, holder = await self._holder(asked.call)
        with _refusing():
            return {"values": dict(await states.read(holder))}

    async def _state_set(self, params: dict[str, Any]) -> dict[str, Any]:
        asked = messages.checked(messages.StateSet, params, wire.STATE_SET)
        states, holder = await self._holder(asked.call)
        with _refusing():
            await states.write(holder, asked.values)
        return {}

    async def _state_delete(self, params: dict[str, Any]) -> dict[str, Any]:
        asked = messages.checked(messages.StateDelete, params, wire.STATE_DELETE)
        states, holder = await self._holder(asked.call)
        with _refusing():
            await states.delete(holder, asked.names)
        return {}

    async def _holder(self, call: int) -> tuple[NodeStates, StateHolder]:
        await anyio.sleep(self._state_rate.borrow(1))  # not a wait for anything: it asks too often
        if self._node_states is None:
            raise RefusedError(wire.NOT_ALLOWED, "this host keeps no node state")
        node = self._node_of_call(call)
        if node is None:
            raise RefusedError(
                wire.NOT_ALLOWED,
                f"node state is kept for calls that run; call {call} does not run (any more)",
            )
        extension, node_id, class_type = node
        return self._node_states, StateHolder(self._tenant, extension, node_id, class_type)

    # -- files of weights --------------------------------------------------------------------------------------------

    async def _resource_get(self, params: dict[str, Any]) -> dict[str, Any]:
        asked = messages.checked(messages.ResourceGet, params, wire.RESOURCE_GET)
        await anyio.sleep(self._resource_rate.borrow(1))  # not a wait for anything: it asks too often
        if self._resources is None:
            raise RefusedError(wire.NOT_ALLOWED, "this host shares no files")
        with _refusing():
            lent = await self._resources.lend(
                self._sandbox, self._tenant, self._own_folder, self._policy, asked.path
            )
        return {"file": lent.file, "nbytes": lent.nbytes}

    # -- what it says ------------------------------------------------------------------------------------------------

    async def notification(self, method: str, params: dict[str, Any]) -> None:
        """Take note.

        Raises:
            ProtocolViolationError: outside of the protocol.
        """
        if method == wire.LOG:
            piece = messages.checked(messages.LogPiece, params, method)
            self._logbook.add(piece.stream, piece.text, piece.dropped)
            if self._watch is not None:
                self._watch.logged(piece.text)
        elif method == wire.PROGRESS:
            await self._on_progress(messages.checked(messages.ProgressReport, params, method))
        elif method == wire.DISCARD:
            self._store.discard(self._sandbox, messages.checked(messages.Discard, params, method).file)
        elif method == wire.TEXT:
            self._on_text(messages.checked(messages.NodeText, params, method))
        elif method == wire.EVENT:
            self._on_event(messages.checked(messages.SentEvent, params, method))
        elif method == wire.SEEN and self._watch is not None:
            self._watch.claimed(messages.checked(messages.Seen, params, method))
        else:
            raise ProtocolViolationError(f"it sent {method} as a notification")

    async def _on_progress(self, report: messages.ProgressReport) -> None:
        if report.call > self._newest_call:
            raise ProtocolViolationError(f"it reported progress of call {report.call}, which was never made")
        preview = None
        if report.preview is not None:
            if self._previews.take():
                data = await self._store.take_bytes(self._sandbox, report.preview.file, report.preview.nbytes)
                preview = (report.preview.format, data)
            else:
                self._store.discard(self._sandbox, report.preview.file)
        sink = self._sinks.get(report.call)
        # The last step has a rate of its own: a bar that stops at 97 % looks like a node that hangs.
        if sink is not None and (
            self._progress.take() or (report.value >= report.max and self._last_steps.take())
        ):
            node = safe_text(report.node_id, wire.MAX_NODE_ID)
            sink(Progress(node, report.value, report.max, preview, report.legacy))

    def _on_text(self, said: messages.NodeText) -> None:
        if self._may_send() and self._text_chars.take(min(len(said.text), TEXT_LIMIT)):
            node = safe_text(said.node_id, wire.MAX_NODE_ID)
            text = safe_text(said.text, TEXT_LIMIT, newlines=True)
            self._send(PackEvent("progress_text", {"text": text}, None, node))

    def _on_event(self, said: messages.SentEvent) -> None:
        if not self._may_send():
            return
        name, (parts, _) = safe_text(said.event, 128), measure(said.data)
        if parts > EVENT_PARTS:
            text = f"event {name!r} was not passed on: {parts} values in it, at most {EVENT_PARTS} may be"
            self._logbook.add("ringfence", text)
            return
        self._send(PackEvent(name, plain(said.data), said.sid))

    def _may_send(self) -> bool:
        """Asked before anything is done with the content, or the rate would bound the events and not the work."""
        return self._events is not None and self._texts.take()

    def _send(self, event: PackEvent) -> None:
        if self._before is not None and self._before.is_settled:
            if len(self._held) < _MOST_HELD:
                self._held.append(event)
                return
            self.go_on()
        extension = self._extension_of_call(self._newest_call)
        if self._events is not None and extension is not None:
            self._events(self._tenant, extension, event)


@contextmanager
def _refusing() -> Iterator[None]:
    """What cannot be served becomes an error answer; the session goes on."""
    try:
        yield
    except ResourceMissingError as error:
        raise RefusedError(wire.NOT_FOUND, _said(error)) from error
    except ResourceRefusedError as error:
        raise RefusedError(wire.NOT_ALLOWED, _said(error)) from error
    except QuotaError as error:
        raise RefusedError(wire.QUOTA_EXCEEDED, _said(error)) from error
    except RingfenceError as error:
        raise RefusedError(wire.INTERNAL_ERROR, error.message) from error


def _said(error: RingfenceError) -> str:
    return f"{error.message}; {error.hint}" if error.hint else error.message

"""What a worker may ask of the host or tell it while a node runs, each checked and each bounded.

Requests: memory for an output. Notifications: progress, text, logs, events for clients. A notification over its
rate is dropped (and, for logs, counted); nothing a worker says here can make the host wait for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from policies import EffectivePolicy, ExtensionName, SandboxId, TenantId, safe_text
from runtime import wire
from sandbox import messages
from sandbox.calls import EventSink, PackEvent, Progress, ProgressSink, measure
from sandbox.errors import ProtocolViolationError, QuotaError, SandboxError
from sandbox.hostile_json import plain
from sandbox.logbook import Logbook
from sandbox.peer import RefusedError
from sandbox.rates import Allowance
from sandbox.tensors import TensorStore

log = logging.getLogger(__name__)

PROGRESS_PER_S: Final = 50
PREVIEWS_PER_S: Final = 10
EVENTS_PER_S: Final = 50
TEXT_LIMIT: Final = 20_000
TEXT_CHARS_PER_S: Final = 5 * TEXT_LIMIT
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
    ) -> None:
        self._sandbox = sandbox
        self._tenant = tenant
        self._policy = policy
        self._store = store
        self._logbook = logbook
        self._events = events
        self._extension_of_call = extension_of_call
        self._sinks: dict[int, ProgressSink] = {}
        self._newest_call = 0
        self._progress = Allowance(PROGRESS_PER_S, 2 * PROGRESS_PER_S)
        self._previews = Allowance(PREVIEWS_PER_S, PREVIEWS_PER_S)
        self._last_steps = Allowance(PROGRESS_PER_S, 2 * PROGRESS_PER_S)
        self._texts = Allowance(EVENTS_PER_S, 2 * EVENTS_PER_S)
        self._text_chars = Allowance(TEXT_CHARS_PER_S, 2 * TEXT_CHARS_PER_S)

    def listen(self, call: int, sink: ProgressSink) -> None:
        """Hand progress of ``call`` to ``sink``."""
        self._sinks[call] = sink
        self._newest_call = max(self._newest_call, call)

    def unlisten(self, call: int) -> None:
        """The call is over; progress that is still on its way is dropped."""
        self._sinks.pop(call, None)

    async def request(self, method: str, params: dict[str, Any]) -> Any:
        """Answer a request.

        Raises:
            RefusedError: within the protocol, but not now.
            ProtocolViolationError: outside of it.
        """
        if method != wire.ALLOCATE:
            raise ProtocolViolationError(f"it sent {method} as a request")
        asked = messages.checked(messages.Allocate, params, method)
        try:
            return {"file": await self._store.allocate(self._sandbox, asked.bytes)}
        except QuotaError as error:
            data = {
                "limit": self._policy.shared_memory,
                "asked": asked.bytes,
                "used": self._store.sandbox_bytes(self._sandbox),
            }
            raise RefusedError(wire.QUOTA_EXCEEDED, str(error), data) from error
        except SandboxError as error:
            raise RefusedError(wire.INTERNAL_ERROR, str(error)) from error

    async def notification(self, method: str, params: dict[str, Any]) -> None:
        """Take note.

        Raises:
            ProtocolViolationError: outside of the protocol.
        """
        if method == wire.LOG:
            piece = messages.checked(messages.LogPiece, params, method)
            self._logbook.add(piece.stream, piece.text, piece.dropped)
        elif method == wire.PROGRESS:
            await self._on_progress(messages.checked(messages.ProgressReport, params, method))
        elif method == wire.DISCARD:
            self._store.discard(self._sandbox, messages.checked(messages.Discard, params, method).file)
        elif method == wire.TEXT:
            self._on_text(messages.checked(messages.NodeText, params, method))
        elif method == wire.EVENT:
            self._on_event(messages.checked(messages.SentEvent, params, method))
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
            node = safe_text(report.node_id, 256)
            sink(Progress(node, report.value, report.max, preview, report.legacy))

    def _on_text(self, said: messages.NodeText) -> None:
        if self._may_send() and self._text_chars.take(min(len(said.text), TEXT_LIMIT)):
            node = safe_text(said.node_id, 256)
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
        extension = self._extension_of_call(self._newest_call)
        if self._events is not None and extension is not None:
            self._events(self._tenant, extension, event)

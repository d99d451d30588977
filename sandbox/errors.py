"""Errors of the sandbox room.

RingfenceError (policies)
└─ SandboxError            the sandbox failed, not the node: it is replaced on the next call
   ├─ StartError           could not be started (engine, image, GPU, mount): says which and what to do
   │  ├─ LoadFailedError   the extension's import raised, exited or hung
   │  └─ RuntimeRefusedError  the isolation did not prove its walls on this machine
   ├─ EndedError           died or was ended: ``limit`` and ``figure`` say why
   │  └─ CallTimeoutError  ended because a call outlived the policy's timeout
   ├─ ProtocolViolationError  said something it may not say; it was ended
   ├─ QuarantinedError     keeps dying; ``retry_after_s``
   ├─ WatchedError         somebody watches its sandboxes already
   ├─ QuotaError           bytes or objects in /dev/shm beyond a cap
   ├─ HandleNotPortableError  an object handle would leave its sandbox (group)
   ├─ RouteTimeoutError    a route of the pack did not answer in time; the sandbox lives on
   ├─ RouteBusyError       too many requests for routes of one sandbox at once
   └─ RouteRefusedError    a route did not accept a WebSocket: its answer, no failure
NodeRaisedError            the pack's code raised (a result about the node; the sandbox lives on)
└─ NodeInterruptedError    stopped on request
"""

from __future__ import annotations

from policies import RingfenceError


class SandboxError(RingfenceError):
    """The sandbox failed, not the node."""

    code = "sandbox_failed"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)


class StartError(SandboxError):
    """A sandbox could not be started."""

    code = "sandbox_start_failed"


class LoadFailedError(StartError):
    """The extension could not be imported in its sandbox."""

    code = "extension_load_failed"

    def __init__(
        self, message: str, hint: str = "", *, exception_type: str = "", traceback: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message, hint)
        self.exception_type = exception_type
        self.traceback = traceback


class RuntimeRefusedError(StartError):
    """A runtime did not prove its walls on this machine: no sandbox starts in it."""

    code = "runtime_refused"


class EndedError(SandboxError):
    """A sandbox died or was ended; ``limit``: memory, pids, disk, time, signal, exit, protocol or stopped.

    ``call_started`` is false when the failing call never reached the worker (it waited for its turn): it may be made
    again on a new session without running the node twice.
    """

    code = "sandbox_ended"

    def __init__(
        self, message: str, hint: str = "", *, limit: str, figure: str = "", call_started: bool = True
    ) -> None:
        super().__init__(message, hint)
        self.limit = limit
        self.figure = figure
        self.call_started = call_started


class CallTimeoutError(EndedError):
    """A call outlived its timeout and its sandbox was ended."""

    code = "call_timeout"


class ProtocolViolationError(SandboxError):
    """The worker broke the protocol. ``limit`` and ``figure`` as an ``EndedError`` has them."""

    code = "protocol_violation"
    limit = "protocol"
    figure = ""


class QuarantinedError(SandboxError):
    """The sandbox keeps dying and is held back."""

    code = "sandbox_quarantined"

    def __init__(self, message: str, hint: str = "", *, retry_after_s: float) -> None:
        super().__init__(message, hint)
        self.retry_after_s = retry_after_s


class WatchedError(SandboxError):
    """An extension's sandboxes are being watched already."""

    code = "already_watched"


class QuotaError(SandboxError):
    """Bytes or objects in /dev/shm beyond a cap."""

    code = "shm_quota"


class HandleNotPortableError(SandboxError):
    """An object handle would leave the sandbox that holds the object."""

    code = "handle_not_portable"


class RouteTimeoutError(SandboxError):
    """A route or prompt handler of a pack did not answer in time; its sandbox lives on."""

    code = "route_timeout"


class RouteBusyError(SandboxError):
    """Too many requests for the routes of one sandbox are open."""

    code = "route_busy"


class RouteRefusedError(SandboxError):
    """A route did not accept a WebSocket; ``status`` is what it answered."""

    code = "route_refused"

    def __init__(self, message: str, hint: str = "", *, status: int) -> None:
        super().__init__(message, hint)
        self.status = status


class NodeRaisedError(RingfenceError):
    """The pack's own code raised; all text is the pack's, made safe."""

    code = "node_raised"

    def __init__(
        self,
        message: str,
        hint: str = "",
        *,
        exception_type: str,
        traceback: tuple[str, ...] = (),
        inputs: dict[str, list[str | int | float | None]] | None = None,
        out_of_memory: bool = False,
    ) -> None:
        super().__init__(message, hint=hint)
        self.exception_type = exception_type
        self.traceback = traceback
        self.inputs = inputs or {}
        self.out_of_memory = out_of_memory


class NodeInterruptedError(NodeRaisedError):
    """The node stopped because it was asked to (or said so itself)."""

    code = "node_interrupted"

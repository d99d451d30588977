"""What may be asked of a worker and what comes back: the vocabulary between engine and sandbox.

Plain frozen data and the ``Session`` seam. Values are opaque here: a JSON tree in the form of ``docs/protocol.md``
whose tensor files have been taken over by the store, so ``file`` is an object id and means the same in every sandbox.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Final, Never, Protocol

from policies import ExtensionName, SandboxId, TenantId, safe_text
from runtime import wire
from sandbox.records import record

JSON = Any  # a JSON tree; narrowed by messages where it enters

HIDDEN_CLASSES: Final = wire.HIDDEN_CLASSES

PART_BYTES: Final = 100
"""Memory of one part of a tree, its place in a container included; measured: 64 (``[]``) to 104 (``{"a": 0}``, two)."""


NUMBERS: Final = frozenset({int, float, bool, type(None)})
"""Kinds of values that are one part each and no text."""


def measure(tree: Any) -> tuple[int, int]:
    """The number of parts of a tree, and about how many bytes of this process's memory it takes."""
    parts, text = 1, 0
    pending = [tree]
    while pending:
        item = pending.pop()
        if type(item) in NUMBERS:
            continue
        if isinstance(item, str):
            text += len(item) if item.isascii() else 4 * len(item)
        elif isinstance(item, (list, tuple)):
            parts += len(item)
            pending += item
        elif isinstance(item, dict):
            parts += len(item)
            text += sum(map(len, item))
            pending += item.values()
    return parts, parts * PART_BYTES + text


@record
class Value:
    """One value in the engine's hands.

    ``objects`` are the store objects (tensors, bytes, long strings) that the tree names, ``handles`` the object
    handles ``(sandbox, id)``. Whoever holds a Value that came out of a session owns one reference to each object
    and gives it back once, with ``TensorStore.release(value)``; ``TensorStore.retain(value)`` takes another.
    """

    tree: JSON
    objects: tuple[str, ...] = ()
    handles: tuple[tuple[SandboxId, int], ...] = ()
    nbytes: int = 0  # bytes in the store, for cache budgets
    weight: int = field(
        default=0, compare=False
    )  # about what the tree takes of the host's own memory, for the same

    @property
    def is_blocker(self) -> bool:
        """True for an ExecutionBlocker, silent or not."""
        return isinstance(self.tree, dict) and "$blocker" in self.tree


@dataclass(frozen=True, slots=True)
class Validator:
    """Signature of a node's own validation function."""

    args: tuple[str, ...]
    kwargs: bool
    input_types: bool


@dataclass(frozen=True, slots=True)
class NodeDescription:
    """What a worker says of one node class; field meanings in docs/protocol.md."""

    class_type: str
    info: Mapping[str, JSON]
    api: str
    hidden: Mapping[str, str]
    any_inputs: frozenset[str]
    any_outputs: frozenset[int]
    accepts_any_name: bool
    raw_link: frozenset[str]
    lazy: frozenset[str]
    output_node: bool
    not_idempotent: bool
    is_async: bool
    has_lazy: bool
    has_fingerprint: bool
    validator: Validator | None
    dynamic: bool
    enable_expand: bool


@dataclass(frozen=True, slots=True)
class NodeReplacement:
    """A pack says: a node of an old class is now one of a new class (``io.NodeReplace``)."""

    new_node_id: str
    old_node_id: str
    old_widget_ids: tuple[str, ...] | None = None
    input_mapping: tuple[Mapping[str, JSON], ...] | None = None
    """Each ``{"new_id", "old_id"}`` or ``{"new_id", "set_value"}``."""
    output_mapping: tuple[Mapping[str, int], ...] | None = None
    """Each ``{"new_idx", "old_idx"}``."""


@dataclass(frozen=True, slots=True)
class LoadedExtension:
    """Result of loading an extension in a worker."""

    api: str
    nodes: tuple[NodeDescription, ...]
    skipped: Mapping[str, str]  # class_type -> safe error text
    web_directory: str | None
    routes: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    prompt_handlers: int = 0
    node_replacements: tuple[NodeReplacement, ...] = ()


@dataclass(frozen=True, slots=True)
class ForeignHandle:
    """An object of another sandbox that a worker was given a number for."""

    sandbox: SandboxId
    id: int
    type: str


@record
class NodeCall:
    """One request about one node instance; ``inputs[name]`` is None for a link that has no value yet.

    ``hidden`` maps a token in lower case to an encoded value (a large one is a ``$json`` or ``$str`` object that the
    caller holds); ``links`` names the inputs that are links, None when that is not known.
    """

    prompt_id: str
    node_id: str
    class_type: str
    inputs: Mapping[str, Sequence[Value] | None]
    hidden: Mapping[str, JSON] = field(default_factory=dict)
    dynprompt: JSON = None
    instance: str = ""
    links: tuple[str, ...] | None = None
    client_id: str | None = None
    """The client that queued the prompt; packs address messages to it."""
    depth: int = 0
    """How many expansions it lies in; its policy says how many more it may add."""
    foreign: Mapping[int, ForeignHandle] = field(default_factory=dict)
    """Which objects of other sandboxes the worker may hand on, by the number it knows them by."""

    def __str__(self) -> str:
        """Which node it is, in an error's words."""
        return f"node {safe_text(self.node_id, 80)!r} ({safe_text(self.class_type, 80)})"


@record
class ExpandedNode:
    """A node that an expansion adds; inputs may hold live values as constants."""

    class_type: str
    inputs: Mapping[str, Value]
    override_display_id: str | None


@record
class ExpandedCall:
    """One mapped call of a node of which at least one call expanded; a result may be a link to a child."""

    result: tuple[Value, ...]
    expand: Mapping[str, ExpandedNode] | None


@record
class NodeResult:
    """Outcome of node/execute: ``slots`` or, when a call expanded, ``calls``."""

    slots: tuple[tuple[Value, ...], ...] | None
    ui: Mapping[str, JSON] | None
    calls: tuple[ExpandedCall, ...] | None
    blocked: tuple[tuple[int, str], ...]


@record
class Progress:
    """A progress report of a running node; ``preview`` is (format, encoded bytes)."""

    node_id: str
    value: float
    max: float
    preview: tuple[str, bytes] | None
    legacy: bool


@record
class PackEvent:
    """A message that a pack sends to clients (``send_sync``) or progress text (event ``progress_text``)."""

    event: str
    data: JSON
    sid: str | None
    node_id: str | None = None


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request for a route of a pack; the body comes apart from it."""

    method: str
    target: str
    """Path and query as they stood in the request line, percent-encoded."""
    headers: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """What a route answers; nothing of it is fit for a browser before somebody has gone through it."""

    status: int
    headers: tuple[tuple[str, str], ...]
    """Names in lower case; no line breaks or control characters in either."""
    body: AsyncIterator[bytes]


@dataclass(frozen=True, slots=True)
class SocketRequest:
    """A request for a WebSocket on a route of a pack."""

    target: str
    """Path and query as they stood in the request line, percent-encoded."""
    headers: tuple[tuple[str, str], ...]
    protocols: tuple[str, ...] = ()
    """The subprotocols that the client offers."""


@dataclass(frozen=True, slots=True)
class SocketClosed:
    """One side has ended a WebSocket. ``code``: as in its close frame; 1006 when it broke off without one."""

    code: int
    reason: str = ""


class PackSocket(Protocol):
    """A WebSocket on a route of a pack, seen from the client's side. One task receives, one sends."""

    @property
    def protocol(self) -> str | None:
        """The subprotocol that the route chose."""

    async def receive(self) -> str | bytes | SocketClosed:
        """The next message of the route, or its end. What came before is let go of."""

    async def send(self, message: str | bytes) -> None:
        """Hand a message to the route; returns when there is room for the next."""

    def leave(self, end: SocketClosed) -> None:
        """Say what the route is told when the context is left (else 1001)."""

    async def watch(self) -> Never:
        """Run it beside the other two: raises the error with which the WebSocket's sandbox is about to end."""


ProgressSink = Callable[[Progress], None]
EventSink = Callable[[TenantId, ExtensionName, PackEvent], None]


@dataclass(slots=True, eq=False)
class FollowingCall:
    """The call that comes next in a sandbox if the one before it ends well: ``Session.execute`` may send it along.

    ``promised`` are its inputs that are outputs of the call before, by number; in ``call.inputs`` they are None until
    whoever made it has them.
    """

    call: NodeCall
    promised: Mapping[str, int]
    progress: ProgressSink
    is_sent: bool = False
    """Said by the session. It is executed or given up then, and no other call of this sandbox comes before that."""


class Session(Protocol):
    """One live worker with its extension loaded. Every method raises a ``SandboxError`` when the *sandbox* fails
    (EndedError, ProtocolViolationError, QuotaError, CallTimeoutError) and a ``NodeRaisedError`` when the pack's code
    does; the session survives the latter."""

    @property
    def sandbox(self) -> SandboxId: ...
    @property
    def extension(self) -> ExtensionName: ...
    @property
    def group(self) -> str | None: ...
    @property
    def loaded(self) -> LoadedExtension: ...
    @property
    def is_alive(self) -> bool: ...

    async def describe(self, class_types: Sequence[str] | None = None) -> tuple[NodeDescription, ...]:
        """Evaluate the nodes' declarations anew (file lists are live)."""

    async def validate(self, call: NodeCall, input_types: Mapping[str, str]) -> tuple[bool | str | None, ...]:
        """Run the node's own validator."""

    async def fingerprint(self, call: NodeCall) -> JSON:
        """Run IS_CHANGED / fingerprint_inputs; the result is JSON."""

    async def lazy(self, call: NodeCall) -> tuple[str, ...]:
        """Ask which lazy inputs are wanted."""

    async def execute(
        self,
        call: NodeCall,
        progress: ProgressSink,
        following: Callable[[], FollowingCall | None] | None = None,
    ) -> NodeResult:
        """Run the node. Cancelling the awaiting task interrupts it: node/cancel, then after the policy's grace the
        end of the sandbox; the cancellation returns only when the node no longer runs. ``following`` is asked, at most
        once and while the node runs, for a call to send along."""

    async def give_up(self, call: NodeCall) -> None:
        """Interrupt a following call that was sent and will not be executed; returns when it no longer runs."""

    async def drop_instances(self, instances: Sequence[str]) -> None:
        """Forget V1 node objects (empty: all)."""

    async def release_handles(self, handles: Sequence[int]) -> None:
        """Let go of object handles."""

    def http(
        self, request: HttpRequest, body: AsyncIterator[bytes]
    ) -> AbstractAsyncContextManager[HttpResponse]:
        """Ask a route of the extension. Leaving the context ends the exchange; the sandbox lives on in any case but a
        broken protocol. Raises RouteTimeoutError and RouteBusyError as well."""

    def socket(self, request: SocketRequest) -> AbstractAsyncContextManager[PackSocket]:
        """Open a WebSocket on a route of the extension. Leaving the context ends it; the sandbox lives on in any case
        but a broken protocol. Raises RouteRefusedError when the route does not accept, and RouteTimeoutError and
        RouteBusyError as well."""

    async def hook_prompt(self, body: Mapping[str, JSON], limit_s: float) -> JSON:
        """Pass a prompt's body through the extension's prompt handlers; raises RouteTimeoutError as well."""

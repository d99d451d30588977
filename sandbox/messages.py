"""Everything a worker may say, as strict models with limits.

``parse_message`` turns a frame into one of four shapes; each shape's content has a model here and nothing else is
accepted. Display text passes ``safe_text`` where it becomes a plain dataclass of ``calls.py``. A worker that says
anything else has broken the protocol and is ended. JSON itself is read in ``hostile_json.py``, values in
``values.py``.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import Field, StringConstraints, ValidationError

from policies import ExtensionName, SandboxId, safe_text
from runtime import wire
from sandbox import hostile_json
from sandbox.calls import (
    PART_BYTES,
    ForeignHandle,
    LoadedExtension,
    NodeResult,
    SocketClosed,
    Value,
    measure,
)
from sandbox.declarations import MAX_NODES, Registration
from sandbox.errors import (
    LoadFailedError,
    NodeInterruptedError,
    NodeRaisedError,
    ProtocolViolationError,
    QuotaError,
    SandboxError,
)
from sandbox.fast_paths import TAKEN, FastPath
from sandbox.strict import Name, Strict
from sandbox.values import MAX_FILE_BYTES, Parsed, Reader

MAX_ID: Final = 2**53
MAX_RESULT_PARTS: Final = 200_000
"""JSON values in the frame of one node result, all values and ``ui`` together; larger data travels in files."""
PLAIN_SLOTS: Final = 16
PLAIN_TEXT: Final = 200
"""Outputs and characters of what ``executed_plainly`` reads."""
_PLAIN: Final = frozenset({int, float, bool, type(None)})
_EXECUTED: Final = frozenset({"slots", "ui", "calls", "blocked"})
LOG_LIMIT: Final = 64 * 1024
PREVIEW_LIMIT: Final = 8 * 1024 * 1024
TRACEBACK_LINES: Final = 200

Text = Annotated[str, StringConstraints(max_length=1_000_000)]
NodeId = Annotated[str, StringConstraints(min_length=1, max_length=wire.MAX_NODE_ID)]
FileName = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Bytes = Annotated[int, Field(ge=0, le=MAX_FILE_BYTES)]


# How every peer writes an answer. Only an answer may be long, and which it is must be known before it is parsed.
_ANSWER = re.compile(rb'\{"jsonrpc":"2\.0","id":[0-9]{1,16},"(?:result|error)":')


ModelT = TypeVar("ModelT", bound=Strict)


# -- the envelope ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Request:
    """The worker asks for something; ``id`` is None for a notification."""

    id: int | None
    method: str
    params: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """The worker answers call ``id``; exactly one of the two is set (a result may be None)."""

    id: int
    result: Any = None
    error: RemoteError | None = None


class _Failure(Strict):
    type: Text = ""
    message: Text = ""
    traceback: list[Text] = Field(default=[], max_length=1000)
    inputs: dict[Name, list[bool | int | float | Text | None]] = Field(default={})


class RemoteError(Strict):
    """The error object of an answer."""

    code: Annotated[int, Field(ge=-(2**31), lt=2**31)]
    message: Text
    data: Any = None


def short_answer(body: bytes) -> Answer | None:
    """The answer in a short frame that begins as our workers' answers do, as ``parse_message`` reads it.

    None: it is anything else, or broken; ``parse_message`` says what.
    """
    if _ANSWER.match(body) is None:
        return None
    tree = hostile_json.parse_shortly(body)
    # By now the first two keys are what they should be, and no key is there twice.
    if tree is not None and len(tree) == 3 and "result" in tree and tree["id"] <= MAX_ID:
        return Answer(tree["id"], tree["result"])
    try:
        message = parse_message(body)
    except ProtocolViolationError:
        return None
    return message if isinstance(message, Answer) else None


def parse_message(body: bytes) -> Request | Answer:
    """Read one frame.

    Raises:
        ProtocolViolationError: it is no JSON-RPC 2.0 request, notification or answer that a worker may send.
    """
    if len(body) > wire.MAX_NOTIFICATION and not _ANSWER.match(body):
        raise ProtocolViolationError(
            f"it sent a frame of {len(body)} bytes that is no answer; at most {wire.MAX_NOTIFICATION} are allowed"
        )
    tree = hostile_json.parse(body)
    if not isinstance(tree, dict) or tree.get("jsonrpc") != "2.0":
        raise ProtocolViolationError("it sent a frame that is no JSON-RPC 2.0 object")
    keys = tree.keys() - {"jsonrpc"}
    if "method" in keys:
        return _request(tree, keys)
    identity = _id(tree)
    if keys == {"id", "result"}:
        return Answer(identity, result=tree["result"])
    if keys == {"id", "error"}:
        return Answer(identity, error=checked(RemoteError, tree["error"], "error"))
    raise ProtocolViolationError("it sent a frame that is neither request nor answer")


def _request(tree: dict[str, Any], keys: set[str]) -> Request:
    method, params = tree["method"], tree.get("params", {})
    if not keys <= {"id", "method", "params"} or not isinstance(params, dict) or not isinstance(method, str):
        raise ProtocolViolationError("it sent a malformed request")
    if method not in wire.WORKER_METHODS:
        raise ProtocolViolationError(f"it asked for {safe_text(method, 60)!r}, which a worker may not")
    return Request(_id(tree) if "id" in keys else None, method, params)


def _id(tree: dict[str, Any]) -> int:
    identity = tree.get("id")
    if type(identity) is not int or not 0 <= identity <= MAX_ID:
        raise ProtocolViolationError("it sent a frame whose id is no number of ours")
    return identity


def checked(model: type[ModelT], data: Any, what: str) -> ModelT:
    """``data`` as ``model``.

    Raises:
        ProtocolViolationError: it does not fit; names the first place that does not.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = safe_text(".".join(str(part) for part in first["loc"]), 120)
        raise ProtocolViolationError(
            f"it sent a bad {what}: {place or 'it'}: {safe_text(first['msg'], 200)}"
        ) from None


# -- what it may ask -------------------------------------------------------------------------------------------------


class Allocate(Strict):
    """``shm/allocate``: a file of this size, please."""

    bytes: Bytes


class Discard(Strict):
    """``shm/discard``."""

    file: FileName


class Preview(Strict):
    """A preview image in an allocated file."""

    format: Literal["JPEG", "PNG"]
    file: FileName
    nbytes: Annotated[int, Field(ge=1, le=PREVIEW_LIMIT)]


_Number = Annotated[float, Field(strict=False, allow_inf_nan=False, ge=-1e15, le=1e15)]


class ProgressReport(Strict):
    """``node/progress``."""

    call: Annotated[int, Field(ge=0, le=MAX_ID)]
    node_id: NodeId
    value: _Number
    max: _Number
    preview: Preview | None
    legacy: bool


class NodeText(Strict):
    """``node/text``."""

    node_id: NodeId
    text: Text


class LogPiece(Strict):
    """``log``."""

    stream: Literal["stdout", "stderr"]
    text: Annotated[str, StringConstraints(max_length=LOG_LIMIT)]
    dropped: Annotated[int, Field(ge=0, le=2**53)]


class SentEvent(Strict):
    """``event/send``."""

    event: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    data: Any
    sid: Annotated[str, StringConstraints(max_length=128)] | None


class Seen(Strict):
    """``watch/seen``: a claim of a watched worker."""

    kind: Literal["connect", "read", "write", "variable", "tmp", "scratch", "nofile"]
    name: Annotated[str, StringConstraints(max_length=1024)]
    value: Annotated[int, Field(ge=1, le=MAX_ID)]


class StateGet(Strict):
    """``state/get``."""

    call: Annotated[int, Field(ge=0, le=MAX_ID)]


class StateSet(Strict):
    """``state/set``."""

    call: Annotated[int, Field(ge=0, le=MAX_ID)]
    values: Annotated[dict[Name, Any], Field(max_length=wire.MAX_STATE_NAMES)]


class StateDelete(Strict):
    """``state/delete``."""

    call: Annotated[int, Field(ge=0, le=MAX_ID)]
    names: Annotated[list[Name], Field(max_length=wire.MAX_STATE_NAMES)]


class ResourceGet(Strict):
    """``resource/get``: a path inside the sandbox, without links and dots in it."""

    path: Annotated[str, StringConstraints(min_length=2, max_length=4096, pattern=r"^/[^\x00]+$")]


# -- what it may answer ----------------------------------------------------------------------------------------------


class Hello(Strict):
    """Answer to ``worker/hello``."""

    protocol: int
    python: Annotated[str, StringConstraints(max_length=200)] | None
    numpy: Annotated[str, StringConstraints(max_length=200)] | None
    torch: Annotated[str, StringConstraints(max_length=200)] | None
    pid: int


class _Prepared(Strict):
    modules: list[Literal["numpy", "torch"]] = Field(max_length=len(wire.SLOW_MODULES))


class _Skipped(Strict):
    class_type: Annotated[str, StringConstraints(max_length=256)]
    error: Text


class _Route(Strict):
    method: Annotated[str, StringConstraints(max_length=16)]
    path: Annotated[str, StringConstraints(max_length=1024)]


class _Page(Strict):
    """Nodes are looked at one by one in ``declarations.py``: a bad one is left out, and the rest loads."""

    nodes: Annotated[list[Any], Field(max_length=MAX_NODES)]
    skipped: Annotated[list[_Skipped], Field(max_length=MAX_NODES)]
    more: Annotated[int, Field(ge=0, le=MAX_ID)] | None = None


class _Loaded(_Page):
    api: Annotated[str, StringConstraints(max_length=16)]
    web_directory: Annotated[str, StringConstraints(max_length=1024)] | None
    routes: Annotated[list[_Route], Field(max_length=1000)]
    notes: Annotated[list[Text], Field(max_length=1000)]
    prompt_handlers: Annotated[int, Field(ge=0, le=1000)] = 0
    node_replacements: Annotated[list[Any], Field(max_length=1000)] = Field(default=[])


class _Validated(Strict):
    results: Annotated[list[bool | Text | None], Field(max_length=100_000)]


class _Fingerprint(Strict):
    value: Any


class _Lazy(Strict):
    names: Annotated[list[Name], Field(max_length=10_000)]


# Nothing that could begin another header or end the head: the value goes into a response of ours.
_HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$")]
_HeaderValue = Annotated[str, StringConstraints(pattern=r"^[\t -~\u00a0-\u00ff]*$", max_length=8192)]
_Base64 = Annotated[str, StringConstraints(max_length=2 * wire.HTTP_PIECE)]


class _HttpPiece(Strict):
    data: _Base64
    more: bool


class _HttpHead(_HttpPiece):
    status: Annotated[int, Field(ge=200, le=599)]
    headers: Annotated[
        list[Annotated[tuple[_HeaderName, _HeaderValue], Field(strict=False)]],
        Field(max_length=wire.HTTP_HEADERS),
    ]


class _SocketOpened(Strict):
    status: Annotated[int, Field(ge=100, le=599)]
    protocol: Annotated[str, StringConstraints(max_length=1024)] | None


class _SocketPiece(Strict):
    kind: Literal["text", "binary"]
    size: Annotated[int, Field(ge=0, le=wire.SOCKET_FROM_PACK)]
    data: _Base64
    more: bool


class _SocketEnd(Strict):
    kind: Literal["close"]
    code: Annotated[int, Field(ge=0, le=65535)]
    reason: Annotated[str, StringConstraints(max_length=wire.SOCKET_REASON)]


class _Hooked(Strict):
    body: Any


class _Blocked(Strict):
    index: Annotated[int, Field(ge=0, le=10**9)]
    message: Text


class _ExpandedNode(Strict):
    class_type: Name
    inputs: dict[Annotated[str, StringConstraints(max_length=256)], Any]
    override_display_id: NodeId | None = None


class _Call(Strict):
    result: list[Any]
    expand: dict[NodeId, _ExpandedNode] | None


class _Executed(Strict):
    slots: list[list[Any]] | None
    ui: dict[str, Any] | None
    calls: list[_Call] | None
    blocked: Annotated[list[_Blocked], Field(max_length=100_000)]


@dataclass(frozen=True, slots=True)
class ParsedNode:
    """A node of an expansion whose constants still name files of the sandbox."""

    class_type: str
    inputs: dict[str, Parsed]
    override_display_id: str | None


@dataclass(frozen=True, slots=True)
class ParsedCall:
    """One mapped call of an expanding node."""

    result: list[Parsed]
    expand: dict[str, ParsedNode] | None


@dataclass(frozen=True, slots=True)
class ParsedResult:
    """An execute result, checked; the files in it are still the sandbox's."""

    slots: list[list[Parsed]] | None
    calls: list[ParsedCall] | None
    ui: dict[str, Any] | None
    blocked: tuple[tuple[int, str], ...]

    def values(self) -> list[Parsed]:
        """Every value in it."""
        found = [value for slot in self.slots or () for value in slot]
        for call in self.calls or ():
            found += call.result
            for node in (call.expand or {}).values():
                found += node.inputs.values()
        return found


def hello(result: Any) -> Hello:
    """Raises: ProtocolViolationError for anything but a worker of this protocol version."""
    said = checked(Hello, result, "hello")
    if said.protocol != wire.PROTOCOL_VERSION:
        raise ProtocolViolationError(
            f"its runtime speaks protocol {said.protocol}, this host {wire.PROTOCOL_VERSION}",
            "rebuild the node image (make up)",
        )
    return said


def prepared(result: Any) -> frozenset[str]:
    """Which slow modules a worker has imported. Raises: ProtocolViolationError."""
    return frozenset(checked(_Prepared, result, "answer about its modules").modules)


def loaded(result: Any, nodes: Registration) -> tuple[LoadedExtension, int | None]:
    """An extension without its nodes, which go to ``nodes``, and the page that follows.

    Raises:
        ProtocolViolationError: it is no description of an extension.
    """
    said = checked(_Loaded, result, "extension description")
    _enter(said, nodes)
    extension = LoadedExtension(
        api=said.api,
        nodes=(),
        skipped={},
        web_directory=said.web_directory,
        routes=tuple((route.method, route.path) for route in said.routes),
        notes=tuple(safe_text(note) for note in said.notes),
        prompt_handlers=said.prompt_handlers,
        node_replacements=nodes.replacements(said.node_replacements),
    )
    return extension, said.more


def described(result: Any, nodes: Registration) -> int | None:
    """Enter a page of descriptions into ``nodes``; return which page follows.

    Raises:
        ProtocolViolationError: it is no page of descriptions.
    """
    said = checked(_Page, result, "node description")
    _enter(said, nodes)
    return said.more


def _enter(page: _Page, nodes: Registration) -> None:
    nodes.add(page.nodes, {item.class_type: item.error for item in page.skipped})


def validated(result: Any) -> tuple[bool | str | None, ...]:
    """Raises: ProtocolViolationError when it is no list of verdicts."""
    said = checked(_Validated, result, "validation result").results
    return tuple(safe_text(item) if isinstance(item, str) else item for item in said)


def fingerprint(result: Any) -> Any:
    """Raises: ProtocolViolationError when it is no fingerprint."""
    return checked(_Fingerprint, result, "fingerprint").value


def lazy(result: Any) -> tuple[str, ...]:
    """Raises: ProtocolViolationError when it is no list of input names."""
    return tuple(checked(_Lazy, result, "list of lazy inputs").names)


@dataclass(frozen=True, slots=True)
class HttpPiece:
    """A piece of a route's response."""

    data: bytes
    more: bool


@dataclass(frozen=True, slots=True)
class HttpHead:
    """The head of a route's response, and its first piece."""

    status: int
    headers: tuple[tuple[str, str], ...]
    first: HttpPiece


def http_head(result: Any, limit: int) -> HttpHead:
    """Raises: ProtocolViolationError when it is no head of a response whose first piece is at most ``limit`` bytes."""
    said = checked(_HttpHead, result, "HTTP response")
    if sum(len(name) + len(value) for name, value in said.headers) > wire.HTTP_HEADER_CHARACTERS:
        raise ProtocolViolationError("it sent a bad HTTP response: its headers are too long")
    return HttpHead(
        said.status,
        tuple((name.lower(), value) for name, value in said.headers),
        _http_piece(said.data, said.more, limit),
    )


def http_piece(result: Any, limit: int) -> HttpPiece:
    """Raises: ProtocolViolationError when it is no piece of a response of at most ``limit`` bytes."""
    said = checked(_HttpPiece, result, "piece of an HTTP response")
    return _http_piece(said.data, said.more, limit)


def _http_piece(text: str, more: bool, limit: int) -> HttpPiece:
    data = _bytes(text, "HTTP response")
    if len(data) > limit:
        raise ProtocolViolationError(
            f"it sent a piece of {len(data)} bytes of an HTTP response, {limit} were asked"
        )
    if more and not data:
        raise ProtocolViolationError("it sent an empty piece of an HTTP response that is not the last")
    return HttpPiece(data, more)


def _bytes(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text.encode("ascii"), validate=True)
    except ValueError:
        raise ProtocolViolationError(f"it sent a bad {what}: its data are not base64") from None


@dataclass(frozen=True, slots=True)
class SocketPiece:
    """A piece of a message on a WebSocket of a route."""

    kind: Literal["text", "binary"]
    size: int
    """Bytes of the whole message."""
    data: bytes
    more: bool


def socket_opened(result: Any, offered: Sequence[str]) -> tuple[int, str | None]:
    """With which status a route answered a request for a WebSocket, and the subprotocol it chose of those offered.

    Raises:
        ProtocolViolationError: it is no such answer.
    """
    said = checked(_SocketOpened, result, "answer to a WebSocket")
    if said.protocol is not None and said.protocol not in offered:
        raise ProtocolViolationError("it chose a subprotocol of a WebSocket that nobody offered")
    return said.status, said.protocol


def socket_said(result: Any, limit: int) -> SocketPiece | SocketClosed:
    """A piece of at most ``limit`` bytes of what a route says on a WebSocket, or that it said its last.

    Raises:
        ProtocolViolationError: it is neither.
    """
    if isinstance(result, dict) and result.get("kind") == "close":
        end = checked(_SocketEnd, result, "end of a WebSocket")
        return SocketClosed(end.code, safe_text(end.reason, wire.SOCKET_REASON))
    said = checked(_SocketPiece, result, "message on a WebSocket")
    data = _bytes(said.data, "message on a WebSocket")
    if len(data) > min(limit, said.size):
        raise ProtocolViolationError(
            f"it sent {len(data)} bytes of a message of {said.size} on a WebSocket, {limit} were asked"
        )
    if said.more and not data:
        raise ProtocolViolationError(
            "it sent an empty piece of a message on a WebSocket that is not the last"
        )
    return SocketPiece(said.kind, said.size, data, said.more)


def hooked(result: Any) -> Any:
    """Raises: ProtocolViolationError when it is no answer of prompt handlers; what the body holds is not looked at."""
    return hostile_json.plain(checked(_Hooked, result, "answer of a prompt handler").body)


def executed(
    result: Any,
    sandbox: SandboxId,
    *,
    max_values: int,
    max_expansion: int,
    foreign: Mapping[int, ForeignHandle] | None = None,
) -> ParsedResult:
    """Check an execute result; ``foreign`` are the objects of other sandboxes that it may hand on.

    Raises:
        ProtocolViolationError: it is none.
        QuotaError: more values or expanded nodes than the policy allows, or more than ``MAX_RESULT_PARTS``.
        HandleNotPortableError: it hands on an object that it was not given.
    """
    said = checked(_Executed, result, "node result")
    if (said.slots is None) == (said.calls is None):
        raise ProtocolViolationError("it sent a node result with both or neither of slots and calls")
    count = sum(map(len, said.slots or ())) + sum(len(call.result) for call in said.calls or ())
    if count > max_values:
        raise QuotaError(
            f"the node returned {count} values, the policy allows {max_values}", "raise 'limits.outputs'"
        )
    expanded = sum(len(call.expand or ()) for call in said.calls or ())
    if expanded > max_expansion:
        raise QuotaError(
            f"the node expands into {expanded} nodes, the policy allows {max_expansion}",
            "raise 'limits.expansion_nodes'",
        )
    ui_parts, _ = measure(said.ui)
    read = Reader(sandbox, max_parts=MAX_RESULT_PARTS - ui_parts, foreign=foreign).read
    return ParsedResult(
        slots=None if said.slots is None else [[read(item) for item in slot] for slot in said.slots],
        calls=None if said.calls is None else [_call(call, read) for call in said.calls],
        ui=None if said.ui is None else hostile_json.plain(said.ui),
        blocked=tuple((item.index, safe_text(item.message, newlines=True)) for item in said.blocked),
    )


def executed_plainly(result: Any, *, max_values: int) -> NodeResult | None:
    """What becomes of the plainest results: of each output one number, truth or short text. None: not that plain.

    There is nothing to take over in it, so it is what the engine gets.
    """
    if FastPath.PLAIN_RESULTS not in TAKEN or type(result) is not dict or result.keys() != _EXECUTED:
        return None
    slots = result["slots"]
    if (
        result["ui"] is not None
        or result["calls"] is not None
        or result["blocked"] != []
        or type(slots) is not list
    ):
        return None
    if (count := len(slots)) > max_values or count > PLAIN_SLOTS:
        return None
    read: list[tuple[Value]] = []
    for slot in slots:
        if type(slot) is not list or len(slot) != 1:
            return None
        (value,) = slot
        if type(value) in _PLAIN:
            weight = PART_BYTES
        elif type(value) is str and value.isascii() and len(value) <= PLAIN_TEXT:
            weight = PART_BYTES + len(value)
        else:
            return None
        read += [(Value(value, weight=weight),)]
    return NodeResult(tuple(read), None, None, ())


def _call(call: _Call, read: Callable[[Any], Parsed]) -> ParsedCall:
    expand = {
        name: ParsedNode(
            node.class_type,
            {key: read(item) for key, item in node.inputs.items()},
            node.override_display_id,
        )
        for name, node in (call.expand or {}).items()
    }
    return ParsedCall([read(item) for item in call.result], expand or None)


# -- how it may fail ---------------------------------------------------------------------------------------------------

# Codes to our classes: a closed table. What the worker says is only ever text.
_INTERRUPTED = frozenset({wire.INTERRUPTED})
_NODE_FAILED = frozenset({wire.NODE_RAISED, wire.OUT_OF_MEMORY, wire.UNKNOWN_NODE, wire.VALUE_NOT_PORTABLE})
_HINTS: Final = {
    wire.OUT_OF_MEMORY: "lower the batch size or raise 'memory'",
    wire.UNKNOWN_NODE: "reload the extension",
}


def failure(error: RemoteError, extension: ExtensionName) -> NodeRaisedError | SandboxError:
    """The exception that an error answer of a worker becomes here.

    Raises:
        ProtocolViolationError: a code that a worker may not answer with.
    """
    said = checked(_Failure, error.data, "error") if _is_failure(error.data) else _Failure()
    message = safe_text(said.message or error.message, newlines=True)
    kind = safe_text(said.type, 200)
    trace = tuple(safe_text(line, 4000, newlines=True) for line in said.traceback[-TRACEBACK_LINES:])
    if error.code == wire.LOAD_FAILED:
        head = f"{kind}: {message}" if kind else message
        text = f"extension '{extension}' could not be loaded: {head}"
        return LoadFailedError(text, exception_type=kind, traceback=trace)
    if error.code == wire.QUOTA_EXCEEDED:
        return QuotaError(message, "raise 'shared_memory' or return less")
    if error.code == wire.UNKNOWN_HANDLE:
        return SandboxError(message or "an object handle is gone", "run the node that made it again")
    if error.code in _INTERRUPTED:
        return NodeInterruptedError(message or "interrupted", exception_type=kind, traceback=trace)
    if error.code in _NODE_FAILED:
        return NodeRaisedError(
            message,
            _HINTS.get(error.code, ""),
            exception_type=kind or "Exception",
            traceback=trace,
            inputs={
                safe_text(name, 256): [
                    safe_text(item, newlines=True) if isinstance(item, str) else hostile_json.plain(item)
                    for item in items
                ]
                for name, items in list(said.inputs.items())[:256]
            },
            out_of_memory=error.code == wire.OUT_OF_MEMORY,
        )
    raise ProtocolViolationError(f"it answered with error {error.code}: {message}")


def _is_failure(data: Any) -> bool:
    return isinstance(data, dict) and "traceback" in data

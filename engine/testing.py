"""Official stand-ins, for tests only: a storage in memory, a store that counts, and workers that are functions.

``FakeSessions`` is node types and sandboxes in one: node classes are Python functions called in process, and everything
that crosses the line is a Value tree as from a real worker. No setting or flag reaches this module.
"""

from __future__ import annotations

import functools
import inspect
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import anyio

from engine.cache import CacheMode
from engine.dispatcher import EngineLimits
from engine.engine import Engine
from engine.memory_storage import MemoryStorage
from engine.quotas import QuotaBook
from engine.registry import NodeType
from engine.storage import Storage
from engine.values import encode
from policies import ExtensionName, RingfenceError, SandboxId, TenantId, Where, usual_place
from sandbox.calls import (
    ExpandedCall,
    ExpandedNode,
    ForeignHandle,
    HttpRequest,
    HttpResponse,
    LoadedExtension,
    NodeCall,
    NodeDescription,
    NodeResult,
    PackSocket,
    Progress,
    ProgressSink,
    Session,
    SocketRequest,
    Validator,
    Value,
)
from sandbox.errors import (
    EndedError,
    HandleNotPortableError,
    NodeRaisedError,
    RouteRefusedError,
    SandboxError,
)

__all__ = [
    "Blocker",
    "Context",
    "FakeNode",
    "FakeSession",
    "FakeSessions",
    "FakeStore",
    "Live",
    "MemoryStorage",
    "StandIn",
    "Tensor",
    "until_ended",
]

JSON = Any


class FakeStore:
    """Counts references; ``references`` is empty when everybody gave back what they held."""

    def __init__(self) -> None:
        self.references: Counter[str] = Counter()
        self.data: dict[str, Any] = {}
        self.lost: set[str] = set()
        self.given_back: list[tuple[TenantId, int]] = []
        """Who was to have memory back at once, and how many objects were referred to then."""
        self.on_pressure: Callable[[TenantId, SandboxId | None, int], None] = lambda *_: None

    def add(self, data: Any) -> str:
        """A new object with one reference."""
        name = f"object-{len(self.data)}"
        self.data[name] = data
        self.references[name] = 1
        return name

    async def put(self, tenant: TenantId, data: bytes) -> str:  # noqa: ARG002
        return self.add(data)

    def retain(self, value: Value) -> None:
        for name in value.objects:
            if name in self.lost:
                raise SandboxError(f"object {name} is gone")
            if name not in self.references:
                raise AssertionError(f"{name} is retained after it was freed")
            self.references[name] += 1

    def release(self, value: Value) -> None:
        for name in value.objects:
            self.references[name] -= 1
            if self.references[name] == 0:
                del self.references[name]

    async def give_back(self, tenant: TenantId) -> None:
        self.given_back.append((tenant, len(self.references)))


# -- what node functions may take and return ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Blocker:
    """An ExecutionBlocker."""

    message: str | None = None


@dataclass(frozen=True, slots=True)
class Tensor:
    """Something with bytes in the store."""

    data: Any
    nbytes: int = 1_000


@dataclass(frozen=True, slots=True)
class Live:
    """Something that cannot leave its sandbox."""

    data: Any


@dataclass(frozen=True, slots=True)
class StandIn:
    """An object of another sandbox as a node sees it; handed back, it is the object again."""

    id: int
    text: str = field(default="", compare=False)

    @property
    def data(self) -> Any:
        """Using it is refused, as in a real worker."""
        raise NodeRaisedError(self.text, exception_type="ringfence.HandleNotPortableError")


@dataclass(frozen=True, slots=True)
class Context:
    """For functions with a parameter ``context``."""

    call: NodeCall
    report: Callable[[Progress], None]
    session: FakeSession


@dataclass(frozen=True, slots=True)
class FakeNode:
    """A node class: ``function(**inputs)`` returns a tuple of outputs or a dict with ui, result, expand."""

    class_type: str
    function: Callable[..., Any]
    required: Mapping[str, JSON] = field(default_factory=dict)
    optional: Mapping[str, JSON] = field(default_factory=dict)
    outputs: Sequence[JSON] = ("*",)
    extension: str = "fake"
    group: str | None = None
    output_node: bool = False
    input_is_list: bool = False
    output_is_list: Sequence[bool] = ()
    hidden: Mapping[str, str] = field(default_factory=dict)
    lazy: Collection[str] = ()
    check_lazy: Callable[..., list[str]] | None = None
    fingerprint: Callable[..., Any] | None = None
    validate: Callable[..., Any] | None = None
    not_idempotent: bool = False
    raw_link: Collection[str] = ()
    any_inputs: Collection[str] = ()
    any_outputs: Collection[int] = ()
    api: str = "v1"
    private_areas: Collection[str] = ()
    may_expand: bool = True
    info: Mapping[str, JSON] = field(default_factory=dict)

    def describe(self) -> NodeType:
        """Its description, as a worker would give it."""
        declared = {"required": dict(self.required), "optional": dict(self.optional)}
        info = {
            "input": declared,
            "is_input_list": self.input_is_list,
            "output": list(self.outputs),
            "output_is_list": list(self.output_is_list) or [False] * len(self.outputs),
            "name": self.class_type,
            "output_node": self.output_node,
            **self.info,
        }
        validator = None
        if self.validate is not None:
            parameters = _signature(self.validate).parameters
            kwargs = any(item.kind is item.VAR_KEYWORD for item in parameters.values())
            names = tuple(name for name, item in parameters.items() if item.kind is not item.VAR_KEYWORD)
            validator = Validator(names, kwargs, "input_types" in names)
        description = NodeDescription(
            class_type=self.class_type,
            info=info,
            api=self.api,
            hidden=self.hidden,
            any_inputs=frozenset(self.any_inputs),
            any_outputs=frozenset(self.any_outputs),
            accepts_any_name=False,
            raw_link=frozenset(self.raw_link),
            lazy=frozenset(self.lazy),
            output_node=self.output_node,
            not_idempotent=self.not_idempotent,
            is_async=inspect.iscoroutinefunction(self.function),
            has_lazy=self.check_lazy is not None,
            has_fingerprint=self.fingerprint is not None,
            validator=validator,
            dynamic=False,
            enable_expand=self.may_expand,
        )
        return NodeType(
            description,
            ExtensionName(self.extension),
            group=self.group,
            private_areas=frozenset(self.private_areas),
        )


class FakeSessions:
    """Node types, sandboxes and their sessions of one installation, the same for every tenant."""

    def __init__(self, *nodes: FakeNode, store: FakeStore | None = None) -> None:
        self.store = store or FakeStore()
        self.nodes = {node.class_type: node for node in nodes}
        self.calls: list[str] = []  # node ids in the order in which they were executed
        self.depths: dict[str, int] = {}  # of each executed node: how many expansions it lies in
        self.asked: Counter[str] = Counter()  # validate, fingerprint, lazy, refresh
        self._live: dict[tuple[TenantId, str], FakeSession] = {}
        self._count = 0

    async def node_types(self, tenant: TenantId) -> Mapping[str, NodeType]:  # noqa: ARG002
        return {name: node.describe() for name, node in self.nodes.items()}

    async def refresh(self, tenant: TenantId, class_types: Collection[str] | None) -> Mapping[str, NodeType]:  # noqa: ARG002
        self.asked["refresh"] += 1
        return await self.node_types(tenant)

    def is_current(self, tenant: TenantId, class_types: Collection[str]) -> bool:  # noqa: ARG002
        return True

    async def make_current(self, tenant: TenantId, class_types: Collection[str]) -> None:
        """Nothing of it changes."""

    async def acquire(self, tenant: TenantId, extension: ExtensionName) -> Session:
        group = next((node.group for node in self.nodes.values() if node.extension == extension), None)
        key = (tenant, group or extension)
        session = self._live.get(key)
        if session is None:
            self._count += 1
            session = self._live[key] = FakeSession(self, SandboxId(f"sandbox-{self._count}"), extension)
        return session

    def is_alive(self, sandbox: SandboxId) -> bool:
        return any(session.sandbox == sandbox for session in self._live.values())

    def kill(self, extension: str) -> None:
        """End the sandboxes of an extension, as a memory cap would."""
        for key in [key for key in self._live if key[1] == extension]:
            self._live.pop(key).is_alive = False

    def engine(
        self,
        *,
        storage: Storage | None = None,
        cache_mode: CacheMode | None = None,
        limits: EngineLimits | None = None,
        now_ms: Callable[[], int] = lambda: 0,
        quotas: QuotaBook | None = None,
        where: Where = usual_place,
    ) -> Engine:
        """An engine over these sandboxes."""
        return Engine(
            manager=cast("Any", self),
            store=self.store,
            extensions=cast("Any", self),
            storage=storage or MemoryStorage(),
            cache_mode=cache_mode,
            limits=limits,
            now_ms=now_ms,
            quotas=quotas,
            where=where,
        )


class FakeSession:
    """A session whose worker is the node functions themselves."""

    def __init__(self, sessions: FakeSessions, sandbox: SandboxId, extension: ExtensionName) -> None:
        self._sessions = sessions
        self.sandbox = sandbox
        self.extension = extension
        self.loaded = LoadedExtension("v1", (), {}, None, (), ())
        groups = [node.group for node in sessions.nodes.values() if node.extension == extension]
        self.group = next((group for group in groups if group), None)
        self.is_alive = True
        self.objects: dict[int, Any] = {}  # by handle
        self.dropped: list[str] = []
        self._handles = 0
        self._foreign: Mapping[int, ForeignHandle] = {}

    async def describe(self, class_types: Sequence[str] | None = None) -> tuple[NodeDescription, ...]:
        nodes = self._sessions.nodes
        return tuple(nodes[name].describe().description for name in class_types or nodes)

    @asynccontextmanager
    async def http(self, request: HttpRequest, body: AsyncIterator[bytes]) -> AsyncIterator[HttpResponse]:
        """Answers with what it was asked."""
        sent = b"".join([piece async for piece in body])

        async def answer() -> AsyncIterator[bytes]:
            yield f"{request.method} {request.target} ".encode() + sent

        yield HttpResponse(200, (("content-type", "text/plain"),), answer())

    def socket(self, request: SocketRequest) -> AbstractAsyncContextManager[PackSocket]:
        """As a route that accepts no WebSocket."""
        raise RouteRefusedError(f"{request.target} answered 404", status=404)

    async def hook_prompt(self, body: Mapping[str, JSON], limit_s: float) -> JSON:
        """As a pack whose handlers change nothing."""
        del limit_s
        return dict(body)

    async def drop_instances(self, instances: Sequence[str]) -> None:
        self.dropped += instances

    async def release_handles(self, handles: Sequence[int]) -> None:
        for handle in handles:
            del self.objects[handle]

    async def validate(self, call: NodeCall, input_types: Mapping[str, str]) -> tuple[bool | str | None, ...]:
        self._sessions.asked["validate"] += 1
        function = self._node(call).validate
        if function is None:
            raise AssertionError("no validator")
        names = _signature(function).parameters
        kwargs = any(item.kind is item.VAR_KEYWORD for item in names.values())
        given = {
            name: None if values is None else self._read(values[0]) for name, values in call.inputs.items()
        }
        arguments = {name: value for name, value in given.items() if kwargs or name in names}
        if "input_types" in names:
            arguments["input_types"] = dict(input_types)
        return (await self._call(function, arguments),)

    async def fingerprint(self, call: NodeCall) -> JSON:
        self._sessions.asked["fingerprint"] += 1
        function = self._node(call).fingerprint
        if function is None:
            raise AssertionError("no fingerprint")
        arguments = {
            name: None if values is None else self._read(values[0]) for name, values in call.inputs.items()
        }
        return [encode(await self._call(function, self._known(function, arguments)))]

    async def lazy(self, call: NodeCall) -> tuple[str, ...]:
        self._sessions.asked["lazy"] += 1
        function = self._node(call).check_lazy
        if function is None:
            raise AssertionError("no check_lazy_status")
        arguments = {
            name: None if values is None else self._read(values[0]) for name, values in call.inputs.items()
        }
        return tuple(await self._call(function, self._known(function, arguments)))

    async def execute(self, call: NodeCall, progress: ProgressSink) -> NodeResult:
        node = self._node(call)
        self._foreign = call.foreign
        self._sessions.calls.append(call.node_id)
        self._sessions.depths[call.node_id] = call.depth
        rows = _mapped(call.inputs, whole=node.input_is_list)
        results = []
        blocked = []
        for index, row in enumerate(rows):
            found = _blocker(row)
            if found is not None:
                if found.message is not None:
                    blocked.append((index, found.message))
                results.append({"result": tuple(Blocker() for _ in node.outputs)})
                continue
            arguments = {name: self._argument(values) for name, values in row.items()}
            arguments |= {name: call.hidden.get(token.lower()) for name, token in node.hidden.items()}
            context = Context(call, progress, self)
            raw = await self._call(
                node.function, self._known(node.function, {**arguments, "context": context})
            )
            if not self.is_alive:
                raise EndedError(
                    f"extension '{self.extension}' ended: memory cap 512 MiB",
                    limit="memory",
                    figure="512 MiB",
                )
            results.append(raw if isinstance(raw, dict) else {"result": raw})
        return self._result(node, results, tuple(blocked))

    def _result(
        self, node: FakeNode, results: list[dict[str, Any]], blocked: tuple[tuple[int, str], ...]
    ) -> NodeResult:
        ui: dict[str, JSON] = {}
        for result in results:
            for key, items in result.get("ui", {}).items():
                ui.setdefault(key, []).extend(items)
        if any("expand" in result for result in results):
            calls = []
            for result in results:
                graph = result.get("expand")
                children = None
                if graph is not None:
                    children = {
                        child_id: ExpandedNode(
                            child["class_type"],
                            {name: self._write(value) for name, value in child["inputs"].items()},
                            child.get("override_display_id"),
                        )
                        for child_id, child in graph.items()
                    }
                calls.append(ExpandedCall(tuple(map(self._write, result.get("result", ()))), children))
            return NodeResult(None, ui or None, tuple(calls), blocked)
        slots: list[tuple[Value, ...]] = []
        for position in range(len(results[0].get("result", ()))):
            merged: list[Any] = []
            for result in results:
                item = result["result"][position]
                is_list = position < len(node.output_is_list) and node.output_is_list[position]
                merged += item if is_list and not isinstance(item, Blocker) else [item]
            slots.append(tuple(map(self._write, merged)))
        return NodeResult(tuple(slots), ui or None, None, blocked)

    def _node(self, call: NodeCall) -> FakeNode:
        return self._sessions.nodes[call.class_type]

    @staticmethod
    def _known(function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
        parameters = _signature(function).parameters
        if any(item.kind is item.VAR_KEYWORD for item in parameters.values()):
            return {
                name: value for name, value in arguments.items() if name != "context" or name in parameters
            }
        return {name: value for name, value in arguments.items() if name in parameters}

    @staticmethod
    async def _call(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        try:
            result = function(**arguments)
            return await result if inspect.isawaitable(result) else result
        except (RingfenceError, AssertionError):
            raise
        except Exception as error:
            raise NodeRaisedError(str(error), exception_type=type(error).__name__) from error

    def _argument(self, values: Any) -> Any:
        return (
            [self._read(value) for value in values]
            if isinstance(values, tuple | list)
            else self._read(values)
        )

    def _read(self, value: Value) -> Any:
        tree = value.tree
        if isinstance(tree, dict) and len(tree) == 1:
            ((tag, body),) = tree.items()
            if tag in ("$tensor", "$json", "$str"):
                if (
                    body["file"] not in self._sessions.store.references
                    or body["file"] in self._sessions.store.lost
                ):
                    raise AssertionError("a freed object is read")
                return self._sessions.store.data[body["file"]]
            if tag == "$handle":
                return self.objects[body["id"]]
            if tag == "$blocker":
                return Blocker(body)
            if tag == "$foreign":
                return StandIn(body["id"], body["text"])
        if isinstance(tree, list):
            return [self._read(Value(item, value.objects, value.handles)) for item in tree]
        return tree

    def _write(self, value: Any) -> Value:
        if isinstance(value, Blocker):
            return Value({"$blocker": value.message})
        if isinstance(value, Tensor):
            name = self._sessions.store.add(value)
            return Value({"$tensor": {"file": name, "nbytes": value.nbytes}}, (name,), (), value.nbytes)
        if isinstance(value, StandIn):
            known = self._foreign.get(value.id)
            if known is None:
                raise HandleNotPortableError("a stand-in that was not given in this prompt")
            handle = {"id": known.id, "type": known.type, "sandbox": known.sandbox}
            return Value({"$handle": handle}, handles=((known.sandbox, known.id),))
        if isinstance(value, Live):
            self._handles += 1
            self.objects[self._handles] = value
            handle = {"id": self._handles, "type": "Live", "sandbox": self.sandbox}
            return Value({"$handle": handle}, (), ((self.sandbox, self._handles),))
        if isinstance(value, tuple | list):
            parts = [self._write(item) for item in value]
            return Value(
                [part.tree for part in parts],
                tuple(name for part in parts for name in part.objects),
                tuple(handle for part in parts for handle in part.handles),
                sum(part.nbytes for part in parts),
            )
        return Value(encode(value))


@functools.cache
def _signature(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function)


def _mapped(inputs: Mapping[str, Sequence[Value] | None], *, whole: bool) -> list[dict[str, Any]]:
    none = Value(None)
    lists = {name: (none,) if values is None else tuple(values) for name, values in inputs.items()}
    if whole:
        return [dict(lists)]
    longest = max((len(values) for values in lists.values()), default=1)
    if longest == 0:
        return [{}]
    return [
        {name: values[min(index, len(values) - 1)] for name, values in lists.items()}
        for index in range(longest)
    ]


def _blocker(row: Mapping[str, Any]) -> Blocker | None:
    for values in row.values():
        for value in values if isinstance(values, tuple) else (values,):
            if value.is_blocker:
                return Blocker(value.tree["$blocker"])
    return None


async def until_ended(engine: Engine, tenant: TenantId, prompt_id: str, *, timeout_s: float = 60.0) -> JSON:
    """Wait for a prompt's history entry; for tests that do not read events."""
    with anyio.fail_after(timeout_s):
        async with engine.subscribe(tenant) as events:
            entry = await engine.history_entry(tenant, prompt_id)
            while entry is None:
                if await anext(events, None) is None:
                    await anyio.sleep(
                        0.02
                    )  # dropped, for it lags behind a long prompt: ask again now and then
                entry = await engine.history_entry(tenant, prompt_id)
            return entry

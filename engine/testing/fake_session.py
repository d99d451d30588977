"""A session whose worker is the node functions themselves."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

from engine.testing.fake_nodes import JSON, Blocker, Context, FakeNode, Live, StandIn, Tensor, signature_of
from engine.values import encode
from policies import ExtensionName, RingfenceError, SandboxId
from sandbox.calls import (
    ExpandedCall,
    ExpandedNode,
    FollowingCall,
    ForeignHandle,
    HttpRequest,
    HttpResponse,
    LoadedExtension,
    NodeCall,
    NodeDescription,
    NodeResult,
    PackSocket,
    ProgressSink,
    SocketRequest,
    Value,
)
from sandbox.errors import EndedError, HandleNotPortableError, NodeRaisedError, RouteRefusedError

if TYPE_CHECKING:
    from engine.testing.fake_sessions import FakeSessions


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
        self.following: FollowingCall | None = None
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
        names = signature_of(function).parameters
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

    async def execute(
        self,
        call: NodeCall,
        progress: ProgressSink,
        following: Callable[[], FollowingCall | None] | None = None,
    ) -> NodeResult:
        node = self._node(call)
        if self.following is not None:
            if self.following.call is not call:
                raise AssertionError(f"{call} runs in the place of {self.following.call}, which was sent")
            self.following = None
        if (given := None if following is None else following()) is not None:
            given.is_sent = True
            self.following = given
            self._sessions.sent.append(given.call.node_id)
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

    async def give_up(self, call: NodeCall) -> None:
        if self.following is not None and self.following.call is call:
            self.following = None
            self._sessions.given_up.append(call.node_id)

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
        parameters = signature_of(function).parameters
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

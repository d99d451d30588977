"""Runs a node's functions: list mapping, blockers, interruption and context around each mapped call.

Knows nothing of the wire's methods; the worker decides which thread runs what.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

from . import failures, mapping, plain, schema, wire
from .blocker import ExecutionBlocker
from .inputs import Gathered
from .mapping import Returned
from .sdk import context, interruption, state
from .values import Encoder

_MAX_UI = wire.MAX_FRAME // 4


@dataclass(slots=True)
class Blocked:
    """Outcome of a mapped call that was not made, because a blocker was among its arguments."""

    message: str | None


@dataclass(slots=True)
class _Raised:
    """Outcome of a mapped call that failed while others of the same node may still run."""

    error: BaseException


@dataclass(slots=True)
class Mapped:
    """One function and the calls to make of it."""

    function: Callable[..., Any]
    gathered: Gathered
    is_list: bool
    call: context.CallContext
    calls: list[dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        self.calls = mapping.split(self.gathered.arguments, is_list=self.is_list)

    @property
    def is_async(self) -> bool:
        function = getattr(self.function, "__func__", self.function)
        if type(function) is FunctionType and not function.__dict__:
            # What ``inspect`` finds out of a function that nobody has marked, without looking through all kinds.
            return bool(function.__code__.co_flags & inspect.CO_COROUTINE)
        return inspect.iscoroutinefunction(self.function)

    def run(self) -> list[Any]:
        """Make the calls one after the other; an interruption is noticed before each.

        Raises:
            BaseException: whatever the function raises.
        """
        outcomes = []
        with state.kept(self.call.call):
            for index, arguments in enumerate(self.calls):
                call = self._context(index)
                with context.entered(call):
                    if call.interrupted.is_set():
                        raise interruption.InterruptProcessingException
                    blocked = self._blocked(arguments)
                    outcomes.append(self.function(**self._nested(arguments)) if blocked is None else blocked)
        return outcomes

    async def run_async(self) -> list[Any]:
        """Make all calls at once; when all have ended, the first failure in call order is raised.

        Raises:
            BaseException: whatever the function raises.
        """
        tasks = [asyncio.ensure_future(self._one(index)) for index in range(len(self.calls))]
        with state.kept(self.call.call):
            try:
                await asyncio.wait(tasks)
            except asyncio.CancelledError:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                raise
        outcomes = [task.result() for task in tasks]
        for outcome in outcomes:
            if isinstance(outcome, _Raised):
                # sys.exit in a task would take the loop down with it, so it leaves as an error of the node.
                is_exit = isinstance(outcome.error, (SystemExit, KeyboardInterrupt))
                raise failures.as_rpc_error(outcome.error) if is_exit else outcome.error
        return outcomes

    async def _one(self, index: int) -> Any:
        arguments = self.calls[index]
        with context.entered(self._context(index)):
            try:
                interruption.check()
                blocked = self._blocked(arguments)
                return await self.function(**self._nested(arguments)) if blocked is None else blocked
            except asyncio.CancelledError:
                raise
            except BaseException as error:  # noqa: BLE001 - looked at once all calls have ended
                return _Raised(error)

    def _context(self, index: int) -> context.CallContext:
        base = self.call
        if len(self.calls) == 1:
            base.list_index = index
            return base
        return context.CallContext(
            base.call,
            base.prompt_id,
            base.node_id,
            index,
            base.interrupted,
            base.is_execution,
            base.client_id,
        )

    def _blocked(self, arguments: Mapping[str, Any]) -> Blocked | None:
        blocker = mapping.find_blocker(arguments, is_list=self.is_list)
        return None if blocker is None else Blocked(blocker.message)

    def _nested(self, arguments: dict[str, Any]) -> dict[str, Any]:
        layout = self.gathered.layout
        return arguments if layout is None else layout.nest(arguments)


class InstanceTable:
    """V1 node objects: one per node instance and class, kept across prompts."""

    def __init__(self) -> None:
        self._objects: dict[tuple[str, type], Any] = {}

    def get(self, key: str, cls: type) -> Any:
        """Return the object of this node instance, made on first use."""
        try:
            return self._objects[key, cls]
        except KeyError:
            return self._objects.setdefault((key, cls), cls())  # no lock: making it may take minutes

    def drop(self, keys: list[str]) -> list[Any]:
        """Forget objects (all of them, for an empty list); returned so that the caller chooses where they die."""
        gone = [entry for entry in list(self._objects) if not keys or entry[0] in keys]
        return [self._objects.pop(entry, None) for entry in gone]


def bound_function(cls: Any, name: str, instance: Callable[[], Any] | None, hidden: Mapping[str, Any]) -> Any:
    """Return the function to call: of the V1 object, or of a locked clone of the V3 class that holds ``hidden``.

    ``instance`` makes or finds the V1 object; None when the function is the class's own (validators).
    """
    if schema.is_v3(cls):
        return getattr(cls.PREPARE_CLASS_CLONE(dict(hidden)), name)
    return getattr(cls if instance is None else instance(), name)


def execute_result(cls: Any, outcomes: list[Any], encoder: Encoder) -> dict[str, Any]:
    """Merge and encode what the mapped calls gave back: the execute result of docs/protocol.md.

    Raises:
        TypeError, IndexError, KeyError: the node returned something that no node may return.
        RpcError: a value has no portable form, or the host refused the space.
    """
    output_count = len(schema.return_types(cls))
    returned: list[Returned] = []
    blocked: list[dict[str, Any]] = []
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, Blocked):
            if outcome.message is not None:
                blocked.append({"index": index, "message": plain.clean(str(outcome.message))[:4000]})
            returned.append(Returned([ExecutionBlocker(None)] * output_count))
        else:
            returned.append(_declared(mapping.normalise(outcome, output_count), output_count))
    ui = mapping.merge_ui([item.ui for item in returned if item.ui is not None])
    result: dict[str, Any] = {
        "slots": None,
        "ui": None if ui is None else _bounded_ui(ui),
        "calls": None,
        "blocked": blocked,
    }
    if any(item.expand is not None for item in returned):
        result["calls"] = [
            {
                "result": [encoder.encode(value) for value in item.values],
                "expand": None if item.expand is None else _encode_graph(item.expand, encoder),
            }
            for item in returned
        ]
    else:
        slots = mapping.merge_slots([item.values for item in returned], schema.output_is_list(cls))
        result["slots"] = [[encoder.encode(value) for value in slot] for slot in slots]
    encoder.check_fits()
    return result


def _declared(returned: Returned, count: int) -> Returned:
    """Without the values that no output is declared for: no link of a prompt can lead to them."""
    if len(returned.values) <= count:
        return returned
    return Returned(returned.values[:count], returned.ui, returned.expand)


def _bounded_ui(ui: Mapping[str, Any]) -> Any:
    """The UI object as JSON; one that would burst the frame is left out, and the pack's log says so."""
    tidy = plain.to_json(ui)
    size = len(json.dumps(tidy))
    if size <= _MAX_UI:
        return tidy
    print(f"ui object of {size} bytes left out: the limit is {_MAX_UI}", file=sys.stderr)  # noqa: T201
    return None


def _encode_graph(graph: Mapping[str, Any], encoder: Encoder) -> dict[str, Any]:
    """An expansion: the nodes of a graph, whose inputs may hold live values as constants."""
    encoded = {}
    for node_id, node in graph.items():
        if not isinstance(node, Mapping) or "class_type" not in node:
            raise KeyError(f"expand: node {node_id!r} has no class_type")
        display = node.get("override_display_id") or None
        encoded[_name(node_id, wire.MAX_NODE_ID)] = {
            "class_type": _name(node["class_type"]),
            "inputs": {
                plain.clean(str(name)): encoder.encode(value)
                for name, value in (node.get("inputs") or {}).items()
            },
            "override_display_id": None if display is None else _name(display, wire.MAX_NODE_ID),
        }
    return encoded


def _name(value: Any, limit: int = schema.MAX_NAME) -> str:
    """A node id or class name as the host takes it."""
    name = plain.clean(str(value))
    if not 0 < len(name) <= limit:
        raise ValueError(
            f"expand: {name[:40]!r} is no name: it has {len(name)} characters, 1 to {limit} may be"
        )
    return name


def inference_mode() -> AbstractContextManager[Any]:
    """torch's inference mode where torch is loaded: nodes run without autograd unless they ask for it."""
    torch = sys.modules.get("torch")
    enter = getattr(torch, "inference_mode", None)
    return nullcontext() if enter is None else enter()

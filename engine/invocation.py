"""From a node of the graph to a ``NodeCall``: which inputs, which hidden values, and what may not go where.

Rules: execution-semantics §6. The engine sends all constants and links; the worker drops undeclared constants, since
only it can ask the class. One ``Invocations`` per run; it owns the store objects it made for large constants.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from engine.cache import Result
from engine.carrying import unit
from engine.class_facts import class_facts
from engine.errors import NodeInputError
from engine.graph import Graph, GraphNode
from engine.passing import Passages
from engine.registry import NodeType
from engine.storage import QueuedPrompt
from engine.values import INLINE_LIMIT, NONE, Ledger, ValueStore, constant_value, plain
from policies import ExtensionName, SandboxId, TenantId, safe_text
from sandbox.calls import HIDDEN_CLASSES, NodeCall, Session, Value
from sandbox.errors import EndedError

JSON = Any

DYNPROMPT: Final = "DYNPROMPT"
_PROMPT: Final = "PROMPT"
_SHOWS_THE_PROMPT: Final = frozenset({_PROMPT, DYNPROMPT})
_UNIQUE_ID: Final = "UNIQUE_ID"
_ONLY_ITS_ID: Final = frozenset({_UNIQUE_ID})
_FROM_EXTRA_DATA: Final = {"EXTRA_PNGINFO": "extra_pnginfo", "COMFY_USAGE_SOURCE": "comfy_usage_source"}
_FROM_SECRETS: Final = {
    "AUTH_TOKEN_COMFY_ORG": "auth_token_comfy_org",
    "API_KEY_COMFY_ORG": "api_key_comfy_org",
}


class Sessions(Protocol):
    """What the engine needs of ``sandbox.SandboxManager``."""

    async def acquire(self, tenant: TenantId, extension: ExtensionName) -> Session:
        """A live session of the extension's sandbox, started when there is none. Raises: SandboxError."""

    def is_alive(self, sandbox: SandboxId) -> bool:
        """False once a sandbox has ended."""


@dataclass(slots=True)
class Inputs:
    """Gathered inputs of one call. ``lost``: sources whose result holds handles of a sandbox that is gone."""

    values: dict[str, Sequence[Value] | None] = field(default_factory=dict)
    undeclared: frozenset[str] = frozenset()  # constants that the node will not see
    lost: list[str] = field(default_factory=list)

    @property
    def missing(self) -> set[str]:
        """Inputs whose source has no result yet."""
        return {name for name, values in self.values.items() if values is None}

    def plain(self) -> dict[str, list[JSON]]:
        """The inputs as error reports show them."""
        return {
            name: [plain(value) for value in ((NONE,) if values is None else values)[:100]]
            for name, values in self.values.items()
            if name not in self.undeclared
        }


class Invocations:
    """Builds the calls of one run."""

    def __init__(
        self, row: QueuedPrompt, prompt: Mapping[str, JSON], graph: Graph, store: ValueStore, ledger: Ledger
    ) -> None:
        self._row = row
        self._prompt = prompt  # the run's copy, which gets is_changed
        self._graph = graph
        self._store = store
        self._ledger = ledger
        client = row.extra_data.get("client_id")
        self._client_id = client if isinstance(client, str) else None
        self._passages = Passages(ledger, row.tenant)
        self._owned: list[Value] = []
        self._constants: dict[tuple[str, str], Value] = {}  # large ones, by node and input
        self._known_classes: dict[
            tuple[str, str], JSON
        ] = {}  # by sandbox (group): what it may know of others
        self._shared: dict[str, JSON] = {}  # hidden values that are the same for all nodes

    def close(self) -> None:
        """Let go of everything that was made for the run."""
        self._passages.close()
        self._ledger.release_all(self._owned)
        self._owned.clear()
        if not self._graph.added:
            return
        for node in (*self._graph.nodes.values(), *self._graph.replaced):
            if node.parent is not None:
                self._ledger.release_all(
                    value for value in node.constants.values() if isinstance(value, Value)
                )

    async def gather(
        self,
        node: GraphNode,
        session: Session,
        result_of: Callable[[str], Result | None],
        is_alive: Callable[[SandboxId], bool],
    ) -> Inputs:
        """The node's inputs for this session.

        Raises:
            HandleNotPortableError: a live object of another sandbox cannot even be handed on.
            EndedError: an expansion handed over an object whose sandbox is gone.
            QuotaError: a large constant does not fit the tenant's quota.
        """
        found: dict[str, Sequence[Value] | None] = {}
        inputs = Inputs(found)
        if node.constants:
            inputs.undeclared = _undeclared(node)
            for name, value in node.constants.items():
                # Most are in no need of an encoding.
                if _is_small(value):
                    found[name] = (Value(value),)
                else:
                    found[name] = (await self._constant(node, name, value),)
        for name, link in node.links.items():
            result = result_of(link.source)
            if result is None:
                found[name] = None if link.source in self._graph.nodes else (NONE,)
                if found[name] is None and name not in node.node_type.description.lazy:
                    inputs.lost.append(link.source)  # it was there when the node was chosen to run
            elif 0 <= link.slot < len(result.slots):
                found[name] = result.slots[link.slot]
            else:
                found[name] = (NONE,)
        for name, values in found.items():
            for item in values or ():
                if item.handles or item.objects:
                    found[name] = [
                        self._route(node, name, value, session, is_alive, inputs) for value in values or ()
                    ]
                    break
        if inputs.lost:
            inputs.lost = list(dict.fromkeys(inputs.lost))
        return inputs

    def following(
        self,
        node: GraphNode,
        after: GraphNode,
        session: Session,
        result_of: Callable[[str], Result | None],
    ) -> tuple[Inputs, Mapping[str, int], NodeCall] | None:
        """The call of a node that follows ``after``, made before that has ended: as ``gather`` and ``call`` would make
        it, but for those outputs of ``after`` that are named, by input. None where it needs more than plain values.
        """
        description, hidden = node.node_type.description, node.node_type.description.hidden
        if description.has_lazy or (hidden and not _ONLY_ITS_ID.issuperset(hidden.values())):
            return None
        inputs, promised = Inputs(), {}
        found = inputs.values
        if node.constants:
            inputs.undeclared = _undeclared(node)
            for name, value in node.constants.items():
                if not _is_small(value):
                    return None
                found[name] = (Value(value),)
        for name, link in node.links.items():
            if link.source == after.node_id:
                found[name], promised[name] = None, link.slot
            elif (values := _plain_output(result_of(link.source), link.slot)) is not None:
                found[name] = values
            else:
                return None
        call = self.call(node, session, found, ({"unique_id": node.node_id}, None) if hidden else None)
        return inputs, promised, call

    def complete(
        self,
        node: GraphNode,
        inputs: Inputs,
        promised: Mapping[str, int],
        result: Result | None,
        session: Session,
        is_alive: Callable[[SandboxId], bool],
    ) -> bool:
        """Fill in the outputs that were promised; False where one is not there, or a live object."""
        for name, slot in promised.items():
            values = _output(result, slot)
            if values is None:
                return False
            for value in values:
                if value.handles:
                    return False
                if value.objects:
                    values = [self._route(node, name, each, session, is_alive, inputs) for each in values]
                    break
            inputs.values[name] = values
        return not inputs.lost

    def _route(
        self,
        node: GraphNode,
        name: str,
        value: Value,
        session: Session,
        is_alive: Callable[[SandboxId], bool],
        inputs: Inputs,
    ) -> Value:
        if not all(is_alive(sandbox) for sandbox, _ in value.handles) or not self._ledger.is_intact(value):
            if name in node.links:
                inputs.lost.append(node.links[name].source)
                return value
            raise EndedError(
                f"node {safe_text(node.node_id, 80)!r}, input {safe_text(name, 80)!r}: the object it was given by an "
                "expansion is gone with the sandbox that made it",
                limit="stopped",
            )
        return self._let_pass(node, name, value, session)

    def _let_pass(self, node: GraphNode, name: str, value: Value, session: Session) -> Value:
        """As the session's sandbox may see it: an object of another one can be handed on, and not used."""
        if not value.handles:
            return value
        who = f"node {safe_text(node.node_id, 80)!r} ({safe_text(node.class_type, 80)})"
        source = self._graph.nodes.get(node.links[name].source) if name in node.links else None
        return self._passages.let_pass(
            value,
            session,
            f"{who}, input {safe_text(name, 80)!r}",
            (node.node_type, name),
            None if source is None else source.node_type,
        )

    def constants_only(
        self, node: GraphNode, constants: Mapping[str, Value]
    ) -> dict[str, Sequence[Value] | None]:
        """Inputs for validators and IS_CHANGED: links are not followed."""
        values: dict[str, Sequence[Value] | None] = {name: (value,) for name, value in constants.items()}
        values.update(dict.fromkeys(node.links))
        return values

    async def fingerprint_call(self, node: GraphNode, session: Session) -> NodeCall:
        """The call that asks a node whether it changed."""
        constants = {
            name: self._let_pass(node, name, await self._constant(node, name, value), session)
            for name, value in node.constants.items()
        }
        hidden = None
        if node.node_type.description.hidden:
            hidden = await self.hidden(node, fingerprint=True)
        return self.call(node, session, self.constants_only(node, constants), hidden)

    def call(
        self,
        node: GraphNode,
        session: Session,
        inputs: Mapping[str, Sequence[Value] | None],
        hidden: tuple[dict[str, JSON], JSON] | None = None,
    ) -> NodeCall:
        """The call itself, with the ``hidden`` values that the class asks for."""
        given, snapshot = ({}, None) if hidden is None else hidden
        # By place: it is made for every node that runs.
        return NodeCall(
            self._row.prompt_id,
            node.node_id,
            node.class_type,
            inputs,
            given,
            snapshot,
            node.instance,
            tuple(node.links),
            self._client_id,
            node.depth,
            self._passages.granted(session.sandbox),
        )

    async def hidden(self, node: GraphNode, *, fingerprint: bool = False) -> tuple[dict[str, JSON], JSON]:
        """The hidden values that the class asks for, and the graph if it asks for that."""
        tokens = set(node.node_type.description.hidden.values())
        hidden: dict[str, JSON] = {}
        for token in tokens - {DYNPROMPT}:
            if token == _UNIQUE_ID:
                hidden["unique_id"] = node.node_id
            elif fingerprint and token == _PROMPT:
                hidden["prompt"] = {}
            else:
                hidden[token.lower()] = await self._shared_value(token)
        if tokens & _SHOWS_THE_PROMPT and not fingerprint and not node.node_type.core:
            facts = await self._facts(node.node_type)
            if facts is not None:
                hidden[HIDDEN_CLASSES] = facts
        snapshot = self._graph.snapshot() if DYNPROMPT in tokens and not fingerprint else None
        return {name: value for name, value in hidden.items() if value is not _UNKNOWN}, snapshot

    async def _facts(self, reader: NodeType) -> JSON:
        """What the reader's sandbox may know of the prompt's other classes; None when it holds them all."""
        key = unit(reader)
        if key not in self._known_classes:
            nodes = self._graph.nodes
            facts = class_facts(reader, (nodes[node_id].node_type for node_id in self._graph.original))
            value = await constant_value(facts, self._row.tenant, self._store)
            self._owned.append(value)
            self._known_classes[key] = value.tree if facts else None
        return self._known_classes[key]

    async def _shared_value(self, token: str) -> JSON:
        if token in self._shared:
            return self._shared[token]
        if token == _PROMPT:
            source: JSON = self._prompt
        elif token in _FROM_EXTRA_DATA:
            source = self._row.extra_data.get(_FROM_EXTRA_DATA[token])
        elif token in _FROM_SECRETS:
            source = self._row.secrets.get(_FROM_SECRETS[token])
        else:
            return _UNKNOWN
        value = await constant_value(source, self._row.tenant, self._store)
        self._owned.append(value)
        self._shared[token] = value.tree
        return value.tree

    async def _constant(self, node: GraphNode, name: str, value: JSON | Value) -> Value:
        if isinstance(value, Value):
            return value
        if not isinstance(value, str | dict | list):
            return await constant_value(value, self._row.tenant, self._store)
        known = self._constants.get((node.node_id, name))
        if known is None:
            known = await constant_value(value, self._row.tenant, self._store)
            if known.objects:
                self._owned.append(known)
                self._constants[(node.node_id, name)] = known
        return known


def _is_small(value: JSON) -> bool:
    """Whether a constant is in no need of an encoding, nor of a file."""
    kind = type(value)
    if kind is str:
        return len(value) <= _SHORT
    return kind in _SMALL or (kind is float and math.isfinite(value))


def _output(result: Result | None, slot: int) -> Sequence[Value] | None:
    """The values of one output; None where it is not there."""
    return result.slots[slot] if result is not None and 0 <= slot < len(result.slots) else None


def _plain_output(result: Result | None, slot: int) -> Sequence[Value] | None:
    """The same; None also where it names objects, which have to be let pass."""
    values = _output(result, slot)
    for value in values or ():
        if value.objects or value.handles:
            return None
    return values


_UNKNOWN: Final = object()
_NOTHING: Final[frozenset[str]] = frozenset()
_SMALL: Final = frozenset({int, bool, type(None)})
_SHORT: Final = INLINE_LIMIT // 4


def wanted_links(node: GraphNode, names: Sequence[str], inputs: Inputs) -> list[str]:
    """Of the inputs that ``check_lazy_status`` named, those whose sources have to run first.

    Raises:
        NodeInputError: the node has no such input in this prompt.
    """
    undeclared = _undeclared(node)
    wanted = []
    for name in names:
        if name in node.links:
            if name in inputs.missing:
                wanted.append(name)
        elif name not in node.constants or name in undeclared:
            raise NodeInputError(
                f"node {safe_text(node.node_id, 80)!r} ({safe_text(node.class_type, 80)}) asked for its input "
                f"{safe_text(name, 80)!r}, which it does not have in this prompt"
            )
    return list(dict.fromkeys(wanted))


def _undeclared(node: GraphNode) -> frozenset[str]:
    """Constants of which the class knows nothing."""
    description = node.node_type.description
    if description.accepts_any_name or not node.constants:
        return frozenset()
    found = description.info.get("input")
    sections = list(found.values()) if isinstance(found, Mapping) else []
    unknown: list[str] = []
    for name in node.constants:
        for section in sections:
            if type(section) is dict and name in section:
                break
        else:
            unknown.append(name)
    if not unknown:
        return _NOTHING
    declared = {name for section in sections if isinstance(section, Mapping) for name in section}
    return frozenset(name for name in unknown if name.partition(".")[0] not in declared)

"""Results in the hands of one run: what is pinned from the cache, what was made, and who lets go of what.

A run holds every result it may still need until it ends, so neither eviction nor another prompt can take one away.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from engine.cache import Result, ResultCache
from engine.graph import GraphNode
from engine.signature import CacheKey, Signatures
from engine.values import Ledger
from policies import ExtensionName
from sandbox.calls import NodeResult, Value
from sandbox.errors import EndedError

#: How often one node's result may be made anew within a run because its sandbox was lost.
MAX_RECOMPUTED: Final = 3


class RunResults:
    """Results of one run by node, and by key for nodes that are equal."""

    def __init__(self, cache: ResultCache, signatures: Signatures, ledger: Ledger) -> None:
        self._cache = cache
        self._signatures = signatures
        self._ledger = ledger
        self._by_node: dict[str, Result] = {}
        self._by_key: dict[CacheKey, Result] = {}  # made in this run, and held where it was made
        self._unresolved: dict[str, NodeResult] = {}  # of expanded nodes, until their children are done
        self._lost: dict[str, int] = {}  # how often
        self.are_kept = cache.mode.kind != "none"

    def __getitem__(self, node_id: str) -> Result:
        return self._by_node[node_id]

    def of(self, node_id: str) -> Result | None:
        """A node's result, or that of an equal node of this run."""
        result = self._by_node.get(node_id)
        if result is None and self.are_kept and node_id in self._signatures.keys:
            return self._by_key.get(self._signatures.keys[node_id])
        return result

    def pin(self, node_ids: Iterable[str]) -> list[str]:
        """Take these nodes' results from the cache; those of which it is there."""
        found: list[str] = []
        if not self.are_kept:
            return found
        keys, look = self._signatures.keys, self._cache.get
        for node_id in node_ids:
            result = look(keys[node_id])
            if result is not None:
                self._by_node[node_id] = result.hold()
                found.append(node_id)
        return found

    def share(self, node_id: str, twin: str) -> None:
        """An equal node's result is this node's, too."""
        self._by_node[node_id] = self._by_node[twin].hold()

    def keep(self, node: GraphNode, result: Result) -> None:
        """A node's own result; the run becomes its holder in place of the caller."""
        key = self._signatures.keys[node.node_id]
        self._by_node[node.node_id] = result
        if self.are_kept:
            self._by_key.setdefault(key, result)
            if node.node_id not in self._signatures.fleeting:
                self._cache.put(key, result)

    def forget(self, node_id: str) -> bool:
        """Let go of a result that is no longer good; False when there was none."""
        made = self._by_key.pop(self._signatures.keys[node_id], None)
        result = self._by_node.pop(node_id, None)
        if result is not None:
            result.drop()
        return made is not None or result is not None

    def lose(self, node_id: str, extension: ExtensionName) -> None:
        """Let go of a result whose sandbox is gone, to be made anew.

        Raises:
            EndedError: it was lost too often.
        """
        if not self.forget(node_id):
            return  # another reader has said so already
        times = self._lost[node_id] = self._lost.get(node_id, 0) + 1
        if times > MAX_RECOMPUTED:
            raise EndedError(
                f"the result of node {node_id!r} was lost {times} times: the sandbox of extension '{extension}' "
                "that holds its objects keeps ending",
                limit="stopped",
            )

    # -- results of calls, before they are a node's result -----------------------------------------------------------

    def adopt(self, outcome: NodeResult) -> None:
        """Enter everything that a session just returned."""
        if outcome.calls is None:
            for slot in outcome.slots or ():
                for value in slot:
                    if value.handles:
                        self._ledger.adopt(value)
            return
        for value in _all_values(outcome):
            self._ledger.adopt(value)

    def release(self, outcome: NodeResult) -> None:
        """Let go of everything in an outcome that nobody wants."""
        self._ledger.release_all(_all_values(outcome))

    def release_children(self, outcome: NodeResult) -> None:
        """Let go of the inputs of nodes that could not be added."""
        self._ledger.release_all(_child_values(outcome))

    def put_aside(self, node_id: str, outcome: NodeResult) -> None:
        """Keep an expanding node's own values until its children are done."""
        self._unresolved[node_id] = outcome

    def take_aside(self, node_id: str) -> NodeResult:
        """What was put aside, still held."""
        return self._unresolved[node_id]

    def drop_aside(self, node_id: str) -> None:
        """Its values have been merged."""
        self._ledger.release_all(_call_values(self._unresolved.pop(node_id)))

    def close(self) -> None:
        """Let go of everything."""
        for node_id in list(self._unresolved):
            self.drop_aside(node_id)
        for result in self._by_node.values():
            result.drop()
        self._by_node.clear()
        self._by_key.clear()


def _call_values(outcome: NodeResult) -> Iterable[Value]:
    return [value for call in outcome.calls or () for value in call.result]


def _child_values(outcome: NodeResult) -> Iterable[Value]:
    children = [child for call in outcome.calls or () for child in (call.expand or {}).values()]
    return [value for child in children for value in child.inputs.values()]


def _all_values(outcome: NodeResult) -> Iterable[Value]:
    slots = [value for slot in outcome.slots or () for value in slot]
    return [*slots, *_call_values(outcome), *_child_values(outcome)]

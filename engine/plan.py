"""What runs next in one prompt: a pure machine, events in, actions out. No I/O, no clock, no recursion.

A node is held in exactly one of these states:

| state | means | where it is held |
| --- | --- | --- |
| idle | no output needs it (so far) | nowhere |
| waiting | needed, but a source is not done or an equal node is running | ``_blockers``, ``_twins`` |
| ready | could run; its lane is busy or too much is running | ``_ready``, ``_ready_async`` |
| running | the executor works on it | ``_running`` |
| done | its result is there | ``_done`` |

A node that asked for lazy inputs or expanded goes back to waiting; an expanded one is *resolved*, not run again.
Nodes of one lane (a sandbox) run one at a time unless they are async; lanes run side by side. Choice among ready nodes
of a lane follows execution-semantics §3: an output or async node, one that feeds an output, one that feeds such a
node, the rest; first come first among equals. The first failure ends the prompt.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

from sandbox import record

# -- facts about a node ------------------------------------------------------------------------------------------


@record
class PlanNode:
    """What the plan knows of a node. ``key``: equal keys mean equal results; None shares with nobody."""

    node_id: str
    sources: Mapping[str, str]  # input name -> node id, for every link
    lazy: frozenset[str] = frozenset()  # inputs of which the source is only run on request
    lane: Hashable = ""
    is_async: bool = False
    is_output: bool = False
    key: Hashable = None


# -- events ------------------------------------------------------------------------------------------------------


@record
class Started:
    """Begin. ``cached``: nodes whose result is already there."""

    cached: frozenset[str] = frozenset()


@record
class NodeFinished:
    """A node's result is there."""

    node_id: str


@record
class LazyRequested:
    """A node wants these inputs before it can run; at least one of their sources is not done."""

    node_id: str
    inputs: Sequence[str]


@record
class Expanded:
    """A node added ``children``; its result needs ``waits_for`` and it is resolved when they are done.
    ``cached``: children whose result is already there."""

    node_id: str
    children: Sequence[PlanNode]
    waits_for: Sequence[str]
    cached: frozenset[str] = frozenset()


@record
class ResultsLost:
    """A node could not be run because these results are gone (their sandbox is); they have to be made anew."""

    node_id: str
    lost: Sequence[str]


@record
class NodeFailed:
    """A node failed; the prompt ends."""

    node_id: str


@record
class Cancelled:
    """Somebody wants the prompt to stop (or a node said so itself)."""

    node_id: str | None = None


Event: TypeAlias = Started | NodeFinished | LazyRequested | Expanded | ResultsLost | NodeFailed | Cancelled

# -- actions -----------------------------------------------------------------------------------------------------


@record
class RunNode:
    """Call a node with what its sources have."""

    node_id: str


@record
class EmitCached:
    """A needed node's result is already there; say so. ``twin``: the node of this run that made it, if one did."""

    node_id: str
    twin: str | None = None


@record
class ResolveExpansion:
    """All children that a node's result needs are done: merge it, then say NodeFinished."""

    node_id: str


@record
class FinishPrompt:
    """The end. ``node_id``: who failed or was interrupted, if anyone; ``cycle``: nodes that wait for each other."""

    outcome: Literal["success", "failed", "cancelled", "cycle"]
    node_id: str | None = None
    cycle: tuple[str, ...] = ()


Action: TypeAlias = RunNode | EmitCached | ResolveExpansion | FinishPrompt

# -- the machine -------------------------------------------------------------------------------------------------


class Plan:
    """The machine of one prompt."""

    def __init__(self, nodes: Iterable[PlanNode], outputs: Sequence[str], *, max_running: int = 64) -> None:
        self._nodes: dict[str, PlanNode] = {node.node_id: node for node in nodes}
        self._outputs = outputs
        self._max_running = max_running
        self._order: dict[str, int] = {}  # every node that was ever needed -> when it became so
        self._blockers: dict[str, set[str]] = {}  # waiting node -> sources that are not done
        self._dependants: dict[str, list[str]] = {}  # source -> nodes that wait for it
        self._feeds_output: set[str] = set()
        self._ready: dict[Hashable, list[tuple[int, int, str]]] = {}
        self._ready_async: deque[str] = deque()
        self._open_lanes: dict[Hashable, None] = {}  # lanes that have ready nodes and run none
        self._busy_lanes: set[Hashable] = set()
        self._running: set[str] = set()
        self._twins: dict[Hashable, list[str]] = {}  # key of a running node -> equal nodes that wait for it
        self._makers: dict[Hashable, str] = {}  # key -> node of this run that made the result
        self._cached: set[str] = set()
        self._done: set[str] = set()
        self._expanded: set[str] = set()
        self._is_finished = False

    @property
    def running(self) -> frozenset[str]:
        """Nodes the executor is working on."""
        return frozenset(self._running)

    def following(self, node_id: str) -> str | None:
        """The node that runs next, in the same lane, if this one finishes; None where that is not certain."""
        if len(self._running) != 1 or self._ready_async or self._open_lanes:
            return None
        node, found = self._nodes[node_id], None
        if (
            node.is_async
            or self._ready.get(node.lane)
            or (node.key is not None and self._twins.get(node.key))
        ):
            return None
        for dependant in self._dependants.get(node_id, ()):
            blockers = self._blockers.get(dependant)
            if blockers is None or node_id not in blockers or len(blockers) > 1:
                continue
            if found is not None:
                return None
            found = self._nodes[dependant]
        if found is None or found.is_async or found.lane != node.lane or found.node_id in self._expanded:
            return None
        return None if self._is_available(found.node_id) else found.node_id

    def handle(self, event: Event) -> list[Action]:
        """Take in what happened and return what to do, in this order."""
        if self._is_finished:
            return []
        if type(event) is NodeFinished:  # one of each node: nearly always
            self._stop_running(event.node_id)
            self._finish(event.node_id)
        else:
            early = self._take_in(event)
            if early is not None:
                self._is_finished = True
                return [early]
        actions = self._dispatch() if self._ready_async or self._open_lanes else []
        if not self._running and not self._ready_async and not self._open_lanes:
            self._is_finished = True
            cycle = self._find_cycle()
            actions.append(FinishPrompt("cycle", cycle[0], cycle) if cycle else FinishPrompt("success"))
        return actions

    def _take_in(self, event: Event) -> FinishPrompt | None:
        match event:
            case Started(cached):
                self._cached |= cached
                for output in self._outputs:
                    self._need(output)
            case LazyRequested(node_id, inputs):
                self._stop_running(node_id)
                self._wait(node_id, [self._nodes[node_id].sources[name] for name in inputs])
            case Expanded(node_id, children, waits_for, cached):
                self._stop_running(node_id)
                self._expanded.add(node_id)
                for child in children:
                    if child.node_id in self._nodes and child.node_id not in self._running:
                        self._forget_result(child.node_id)  # it expands again, its first result was lost
                    self._nodes[child.node_id] = child
                self._cached |= cached
                for child in children:
                    if child.is_output:
                        self._need(child.node_id)
                self._wait(node_id, waits_for)
            case ResultsLost(node_id, lost):
                self._stop_running(node_id)
                for source in lost:
                    if self._is_available(source):  # else another reader has said so already
                        self._forget_result(source)
                self._wait(node_id, lost)
            case NodeFailed(node_id):
                return FinishPrompt("failed", node_id)
            case Cancelled(node_id):
                return FinishPrompt("cancelled", node_id)
        return None

    # -- becoming needed, waiting, ready ---------------------------------------------------------------------------

    def _need(self, first: str) -> None:
        """Make a node and everything it needs wait or ready. Cached sources are not needed."""
        stack = [first]
        order, nodes = self._order, self._nodes
        has_results = bool(self._done or self._cached)
        while stack:
            node_id = stack.pop()
            if node_id in order:
                continue
            order[node_id] = len(order)
            node = nodes[node_id]
            if has_results and self._is_available(node_id):
                self._blockers[node_id] = set()
                self._make_ready(node_id)
                continue
            missing: list[str] = []
            for name, source in node.sources.items():
                if name not in node.lazy and not (has_results and self._is_available(source)):
                    missing.append(source)
            self._block(node_id, set(missing))
            stack += missing

    def _wait(self, node_id: str, sources: Sequence[str]) -> None:
        """A node that ran goes back to waiting for these sources."""
        blockers = {source for source in sources if not self._is_available(source)}
        self._block(node_id, blockers)
        for source in dict.fromkeys(sources):
            if source in blockers:
                self._need(source)

    def _block(self, node_id: str, blockers: set[str]) -> None:
        self._blockers[node_id] = blockers
        is_output = self._nodes[node_id].is_output
        for source in blockers:
            self._dependants.setdefault(source, []).append(node_id)
            if is_output:
                self._feeds_output.add(source)
        if not blockers:
            self._make_ready(node_id)

    def _make_ready(self, node_id: str) -> None:
        node = self._nodes[node_id]
        if node.is_async or node_id in self._expanded or self._is_available(node_id):
            self._ready_async.append(node_id)  # takes no lane
            return
        place = (0 if node.is_output else self._rank(node_id), self._order[node_id], node_id)
        ready = self._ready.get(node.lane)
        if ready is None:
            self._ready[node.lane] = [place]
        else:
            heapq.heappush(ready, place)
        if node.lane not in self._busy_lanes:
            self._open_lanes[node.lane] = None

    def _rank(self, node_id: str) -> int:
        if node_id in self._feeds_output:
            return 1
        for after in self._dependants.get(node_id, ()):
            if after in self._feeds_output:
                return 2
        return 3

    def _is_available(self, node_id: str) -> bool:
        if node_id in self._done or node_id in self._cached:
            return True
        if not self._makers:
            return False
        node = self._nodes.get(node_id)
        return node is not None and node.key is not None and node.key in self._makers

    # -- running -----------------------------------------------------------------------------------------------------

    def _dispatch(self) -> list[Action]:
        actions: list[Action] = []
        while self._ready_async and len(self._running) < self._max_running:
            self._take(self._ready_async.popleft(), actions)
        while self._open_lanes and len(self._running) < self._max_running:
            lane = next(iter(self._open_lanes))
            heap = self._ready[lane]
            if not heap:
                del self._open_lanes[lane]
                continue
            self._take(heap.pop()[2] if len(heap) == 1 else heapq.heappop(heap)[2], actions)
            while self._ready_async and len(self._running) < self._max_running:
                self._take(self._ready_async.popleft(), actions)
        return actions

    def _take(self, node_id: str, actions: list[Action]) -> None:
        node = self._nodes[node_id]
        if node_id in self._expanded:
            self._running.add(node_id)
            actions.append(ResolveExpansion(node_id))
        elif self._is_available(node_id):
            actions.append(
                EmitCached(node_id, None if node_id in self._cached else self._makers.get(node.key))
            )
            self._finish(node_id)
        elif node.key is not None and node.key in self._twins:
            self._twins[node.key].append(node_id)  # an equal node is running: wait for its result
        else:
            self._running.add(node_id)
            if node.key is not None:
                self._twins[node.key] = []
            if not node.is_async:
                self._busy_lanes.add(node.lane)
                self._open_lanes.pop(node.lane, None)
            actions.append(RunNode(node_id))

    def _stop_running(self, node_id: str) -> None:
        self._running.remove(node_id)
        if node_id in self._expanded:
            return
        node = self._nodes[node_id]
        if not node.is_async:
            self._busy_lanes.discard(node.lane)
            if self._ready.get(node.lane):
                self._open_lanes[node.lane] = None
        # An equal node waits only while this one really runs: one that is parked may need what waits for it.
        for twin in self._twins.pop(node.key, ()) if node.key is not None else ():
            self._make_ready(twin)

    def _finish(self, node_id: str) -> None:
        self._done.add(node_id)
        self._expanded.discard(node_id)
        self._blockers.pop(node_id, None)
        key = self._nodes[node_id].key
        if key is not None and node_id not in self._cached:
            self._makers.setdefault(key, node_id)
        for dependant in self._dependants.pop(node_id, ()):
            blockers = self._blockers.get(dependant)
            if blockers is not None and node_id in blockers:
                blockers.remove(node_id)
                if not blockers:
                    self._make_ready(dependant)

    def _forget_result(self, node_id: str) -> None:
        self._done.discard(node_id)
        self._cached.discard(node_id)
        self._order.pop(node_id, None)
        key = self._nodes[node_id].key
        if key is not None:
            self._makers.pop(key, None)

    # -- the end -----------------------------------------------------------------------------------------------------

    def _find_cycle(self) -> tuple[str, ...]:
        """Nodes that wait for each other, in order; empty when nothing waits."""
        waiting = next((node_id for node_id, blockers in self._blockers.items() if blockers), None)
        path: dict[str, None] = {}
        while waiting is not None and waiting not in path:
            path[waiting] = None
            waiting = next(iter(sorted(self._blockers.get(waiting, ()), key=_order(self._order))), None)
        if waiting is None:
            return ()
        nodes = list(path)
        return tuple(nodes[nodes.index(waiting) :])


def _order(positions: Mapping[str, int]) -> Callable[[str], int]:
    return lambda node_id: positions.get(node_id, len(positions))

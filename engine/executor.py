"""Performs what a ``Plan`` says: one ``PromptRun`` per prompt. A chain of nodes is run by the prompt's own task; once
two may run at a time, all of them are tasks of a group.

Here is what a run does with what happened (results, events, the end). What runs when is ``plan.py``, how a call reaches
a sandbox ``node_calls.py``, what it holds ``invocation.py``. A run never raises for what nodes or sandboxes do: that
becomes its history entry.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, Final

import anyio
import anyio.abc

from engine import plan as pl
from engine.announcer import Announcer
from engine.cache import Result, ResultCache
from engine.early_starts import Voice
from engine.errors import EngineError, ExpansionError, NodeOutputError
from engine.following import Followers
from engine.graph import Graph, GraphNode
from engine.instances import Instances
from engine.invocation import Inputs, Invocations, wanted_links
from engine.large_graphs import compute
from engine.node_calls import NodeCalls, Workbench
from engine.registry import NodeType
from engine.reports import cycle_details, failure_details
from engine.results import RunResults
from engine.returned import check_outcome
from engine.signature import Signatures
from engine.splice import links_of, splice
from engine.storage import QueuedPrompt
from engine.ui_files import with_private_folders
from engine.values import as_json
from policies import RingfenceError, SandboxId
from sandbox import TAKEN, FastPath
from sandbox.calls import FollowingCall, NodeCall, NodeResult, Progress, Session
from sandbox.errors import NodeInterruptedError

JSON = Any

_FOLLOWING: Final = {FastPath.FOLLOWING_CALLS, FastPath.CHAINED_NODES}

_log = logging.getLogger(__name__)


class PromptRun:
    """One prompt being executed."""

    def __init__(
        self,
        bench: Workbench,
        row: QueuedPrompt,
        types: Mapping[str, NodeType],
        cache: ResultCache,
        instances: Instances,
        voice: Voice,
    ) -> None:
        self._bench = bench
        self._row = row
        self._cache = cache
        self._instances = instances
        client = row.extra_data.get("client_id")
        self.client_id: str | None = client if isinstance(client, str) else None
        self.prompt: dict[str, JSON] = {node_id: dict(entry) for node_id, entry in row.prompt.items()}
        # Where nothing is kept between prompts, no two of them share a V1 object, even while both run.
        self._graph = Graph(self.prompt, types, row.prompt_id if cache.mode.kind == "none" else "")
        self._signatures = Signatures(self._graph, row.prompt_id, sub_caches=cache.mode.kind == "classic")
        self._invocations = Invocations(row, self.prompt, self._graph, bench.store, bench.ledger)
        self._calls = NodeCalls(bench, row, self._invocations)
        self._plan: pl.Plan | None = None
        self._alone: anyio.CancelScope | None = None
        """While the prompt's own task runs the nodes."""
        self._tasks: anyio.abc.TaskGroup | None = None
        self._to_start: list[tuple[Callable[[GraphNode], Coroutine[Any, Any, object]], GraphNode]] = []
        """What the group is to do once it is there."""
        self._inbox: deque[pl.Event] = deque()
        self._finish: pl.FinishPrompt | None = None
        self._defect: Exception | None = None
        self._over: asyncio.Event | None = None
        """Of the group."""
        self._is_stopping = False
        self._is_interrupted = False
        self._preparing: anyio.CancelScope | None = None
        self._results = RunResults(cache, self._signatures, bench.ledger)
        self._followers = Followers(
            self._calls,
            self._invocations,
            instances,
            self._results.of,
            self._hear_progress,
            bench.sessions.is_alive,
        )
        self._gathered: dict[str, Inputs] = {}
        self._failures: dict[str, RingfenceError] = {}
        self._started: dict[str, None] = {}
        self._voice = voice
        self._say = Announcer(row, voice, bench.now_ms, self.client_id)

    # -- for the engine ----------------------------------------------------------------------------------------------

    @property
    def running_node(self) -> str | None:
        """Display id of the node that started last."""
        last = next(reversed(self._started), None)
        return None if last is None else self._graph[last].display

    @property
    def nodes_run(self) -> int:
        """How many nodes were run, not taken from the cache."""
        return len(self._say.executed)

    def interrupt(self) -> None:
        """Ask the run to stop; returns at once."""
        self._is_interrupted = True
        if self._preparing is not None:
            self._preparing.cancel()
        self._tell(pl.Cancelled())
        if self._alone is not None:
            self._alone.cancel()

    async def run(self) -> dict[str, JSON]:
        """Execute the prompt and return its history entry. All events but the last two are published here.

        Raises:
            Whatever cancels the surrounding task (shutdown); the run then leaves no entry.
        """
        try:
            self._say.prompt_started()
            nodes = list(self._graph.nodes.values())
            if self._calls.has_fingerprints(nodes):
                with anyio.CancelScope() as self._preparing:
                    if self._is_interrupted:
                        self._preparing.cancel()
                    await self._sign(nodes)
                self._preparing = None
            else:
                await self._extend(self._graph.original, {})
            first, following = await self._begin(), None
            with anyio.CancelScope() as self._alone:
                following = await self._work(first)
            self._alone = None
            if not self._is_over:
                await self._work_together(following)
            await self._calls.give_up_following()
            if self._defect is not None:
                raise self._defect
            return self._end(self._finish or pl.FinishPrompt("cancelled"))
        finally:
            await self._calls.give_up_following()
            self._let_go()

    async def _begin(self) -> GraphNode | None:
        """Make the plan; returns the node that is to run first."""
        cached = self._open_cache()
        self._say.nodes_cached([self._graph[node_id] for node_id in cached])
        plan = await compute(self._made_plan, len(self.prompt))
        first: GraphNode | None = None
        if not self._is_interrupted:
            started = partial(plan.handle, pl.Started(frozenset(cached)))
            actions = await compute(started, len(self.prompt))
            first = self._perform_all(actions, wants_heir=FastPath.CHAINED_NODES in TAKEN)
        self._plan = plan  # from here on it is told at once what happens
        self._advance()
        return first

    @property
    def _is_over(self) -> bool:
        return self._finish is not None or self._defect is not None

    async def _work_together(self, first: GraphNode | None) -> None:
        self._over = asyncio.Event()
        async with anyio.create_task_group() as self._tasks:
            if first is not None:
                self._tasks.start_soon(self._work, first)
            for work, node in self._to_start:
                self._tasks.start_soon(work, node)
            await self._over.wait()
            self._is_stopping = True
            self._tasks.cancel_scope.cancel()

    # -- before the first node -----------------------------------------------------------------------------------------

    async def _sign(self, nodes: Sequence[GraphNode]) -> None:
        """Signatures of these nodes; what IS_CHANGED said goes into the run's prompt, where nodes can see it."""
        found = await self._calls.fingerprints(nodes)
        for node_id, value in found.items():
            if node_id in self.prompt:
                self.prompt[node_id]["is_changed"] = as_json(value)
        await self._extend([node.node_id for node in nodes], found)

    async def _extend(self, node_ids: Sequence[str], found: Mapping[str, JSON]) -> None:
        await compute(partial(self._signatures.extend, node_ids, found), len(node_ids))

    def _open_cache(self) -> list[str]:
        if self._is_interrupted and not self._signatures.keys:
            return []
        keys = self._signatures.keys
        roots = [(node.node_id, node.class_type) for node in self._graph.nodes.values()]
        self._cache.begin(self._row.prompt_id, list(keys.values()), roots)
        return self._results.pin(self._graph.original)

    def _made_plan(self) -> pl.Plan:
        return pl.Plan(map(self._plan_node, self._graph.nodes.values()), self._row.outputs)

    def _plan_node(self, node: GraphNode) -> pl.PlanNode:
        kind, node_id, nodes = node.node_type, node.node_id, self._graph.nodes
        description = kind.description
        sources: dict[str, str] = {}
        for name, link in node.sources.items():
            if link.source in nodes:
                sources[name] = link.source
        return pl.PlanNode(
            node_id,
            sources,
            description.lazy,
            kind.group or kind.extension,
            description.is_async,
            description.output_node,
            self._signatures.keys.get(node_id) if self._results.are_kept else None,
        )

    # -- actions -------------------------------------------------------------------------------------------------------

    def _tell(self, event: pl.Event) -> None:
        """Tell the plan what happened, and do what it says."""
        self._inbox.append(event)
        self._advance()

    def _advance(self, *, wants_heir: bool = False) -> GraphNode | None:
        """Do what the plan says to all that it has not been told yet; nothing while it is made.

        ``wants_heir``: the caller is a task that is done with its node, and runs the one that is returned, if any: a
        chain of nodes is one task.
        """
        heir: GraphNode | None = None
        plan = self._plan
        try:
            while self._inbox and plan is not None and self._finish is None:
                actions = plan.handle(self._inbox.popleft())
                if actions:
                    heir = self._perform_all(actions, wants_heir=wants_heir and heir is None) or heir
        except Exception as error:  # noqa: BLE001 - a defect of ours, and whoever told us is not to blame
            self._defect = error
            self._end_work()
        return heir

    def _perform_all(self, actions: Sequence[pl.Action], *, wants_heir: bool) -> GraphNode | None:
        heir: GraphNode | None = None
        # Work of our own comes before another call.
        if wants_heir and len(actions) > 1:
            wants_heir = not any(isinstance(action, pl.ResolveExpansion) for action in actions)
        for action in actions:
            match action:
                case pl.RunNode(node_id):
                    node = self._graph.nodes[node_id]
                    self._started.pop(node_id, None)
                    self._started[node_id] = None
                    self._say.node_started(node)
                    if wants_heir and heir is None:
                        heir = node
                    else:
                        self._start(self._work, node)
                case pl.ResolveExpansion(node_id):
                    self._start(self._resolve_safely, self._graph[node_id])
                case pl.EmitCached(node_id, twin):
                    self._emit_cached(self._graph[node_id], twin)
                case pl.FinishPrompt():
                    self._finish = action
                    self._is_stopping = True
                    self._end_work()
        return heir

    def _start(self, work: Callable[[GraphNode], Coroutine[Any, Any, object]], node: GraphNode) -> None:
        if self._tasks is None:
            self._to_start.append((work, node))
        else:
            self._tasks.start_soon(work, node)

    def _end_work(self) -> None:
        if self._over is not None:
            self._over.set()

    async def _work(self, first: GraphNode | None) -> GraphNode | None:
        """Run a node, and then, one after the other, those that became ready by it and that no other task runs.

        Where there is no group yet it ends, with the next one, as soon as there is work for one.
        """
        heir = first
        while (node := heir) is not None:
            if self._tasks is None and (self._to_start or self._is_over):
                return node
            try:
                if self._voice.must_wait and self._voice.is_full and not self._calls.has_call_of(node):
                    await self._voice.turn()
                heir = await self._calls.make(node, self._call_in)
            except Exception as error:  # noqa: BLE001 - whatever a node's work raises is an event of the plan
                self._fail(node, error)
                return None
        return None

    def _emit_cached(self, node: GraphNode, twin: str | None) -> None:
        if twin is not None:
            self._results.share(node.node_id, twin)
        self._say.node_cached(node, self._results[node.node_id].ui)

    def _fail(self, node: GraphNode, error: Exception) -> None:
        """A node's work raised this."""
        if isinstance(error, NodeInterruptedError):
            self._tell(pl.Cancelled(node.node_id))
            return
        if not isinstance(error, RingfenceError):
            # A defect of ours must end this prompt with a message, and leave the others alone.
            prompt_id, node_id = self._row.prompt_id, node.node_id
            _log.error("prompt %s node %s: internal error", prompt_id, node_id, exc_info=error)
            error = EngineError("internal error of the engine; see the host's log")
        self._failures.setdefault(node.node_id, error)
        self._tell(pl.NodeFailed(node.node_id))

    async def _call_in(self, session: Session, node: GraphNode) -> GraphNode | None:
        made = await self._followers.taken_over(session, node) or await self._made_now(session, node)
        if made is None:
            return None
        inputs, call = made
        self._gathered[node.node_id] = inputs
        began = ended = self._bench.now_ms()
        try:
            outcome = await session.execute(
                call,
                lambda progress: self._hear_progress(node, progress),
                partial(self._following, session, node) if _FOLLOWING <= TAKEN else None,
            )
        finally:
            ended = self._say.node_ran(node, session.sandbox, began)
        self._results.adopt(outcome)
        if self._is_stopping:
            self._results.release(outcome)
            return None
        try:
            check_outcome(node, inputs.values, outcome)
        except NodeOutputError:
            self._results.release(outcome)
            raise
        for _, message in outcome.blocked:
            self._say.node_blocked(node, message)
        ui = None if outcome.ui is None else with_private_folders(outcome.ui, node.node_type)
        if ui:
            self._say.ui(node, ui)
        heir = None
        if outcome.calls is None:
            result = Result(self._bench.ledger, outcome.slots or (), ui)
            heir = self._keep(node, result, ended, made_in=session.sandbox)
        else:
            self._results.put_aside(node.node_id, outcome)
            await self._expand(node, outcome)
        del self._gathered[node.node_id]
        return heir

    async def _made_now(self, session: Session, node: GraphNode) -> tuple[Inputs, NodeCall] | None:
        """The call of a node and its inputs; None where others have to run before."""
        inputs = await self._invocations.gather(
            node, session, self._results.of, self._bench.sessions.is_alive
        )
        if inputs.lost:
            self._lose(node, inputs.lost)
            return None
        self._gathered[node.node_id] = inputs
        self._instances.note(session, node)
        hidden = await self._invocations.hidden(node) if node.node_type.description.hidden else None
        call = self._invocations.call(node, session, inputs.values, hidden)
        if node.node_type.description.has_lazy:
            wanted = wanted_links(node, await session.lazy(call), inputs)
            if wanted:
                self._tell(pl.LazyRequested(node.node_id, wanted))
                return None
        return inputs, call

    def _following(self, session: Session, node: GraphNode) -> FollowingCall | None:
        """The call of the node that comes after one that runs, where that is certain."""
        if self._plan is None or self._is_stopping or self._voice.is_full:
            return None
        node_id = self._plan.following(node.node_id)
        return None if node_id is None else self._followers.call_of(self._graph[node_id], node, session)

    def _lose(self, node: GraphNode, lost: Sequence[str]) -> None:
        """These results cannot be used any more: have them made anew, but not without end."""
        for source in lost:
            self._results.lose(source, self._graph[source].node_type.extension)
        self._tell(pl.ResultsLost(node.node_id, lost))

    # -- results -------------------------------------------------------------------------------------------------------

    async def _expand(self, node: GraphNode, outcome: NodeResult) -> None:
        calls = outcome.calls or ()
        try:
            children = self._graph.expand(node, calls, limit=self._bench.expansion_nodes)
        except ExpansionError:
            # The graph owns their values only once it has taken them in.
            self._results.release_children(outcome)
            raise
        waits_for = links_of(calls)
        for source in waits_for:
            if source not in self._graph.nodes:
                raise ExpansionError(
                    f"node {node.node_id!r}: its result links to {source!r}, which is no known node",
                    kind="comfy_execution.graph.NodeNotFoundError",
                )
        await self._sign(children)
        for child in children:
            self._results.forget(
                child.node_id
            )  # of an earlier expansion of this node, when its result was lost
        keys = {self._signatures.keys[child.node_id] for child in children}
        self._cache.keep_in_scope(self._signatures.scope(node.node_id), keys)
        cached = frozenset(self._results.pin(child.node_id for child in children))
        self._tell(
            pl.Expanded(node.node_id, [self._plan_node(child) for child in children], waits_for, cached)
        )

    async def _resolve_safely(self, node: GraphNode) -> None:
        try:
            self._resolve(node)
        except Exception as error:  # noqa: BLE001 - an event of the plan, as in `_work`
            self._fail(node, error)

    def _resolve(self, node: GraphNode) -> None:
        outcome = self._results.take_aside(node.node_id)
        is_list = node.node_type.description.info.get("output_is_list") or ()
        who = f"extension '{node.node_type.extension}', node {node.node_id!r}"
        slots = splice(outcome.calls or (), is_list, self._results.of, self._bench.ledger, who)
        self._results.drop_aside(node.node_id)
        ui = None if outcome.ui is None else with_private_folders(outcome.ui, node.node_type)
        self._keep(node, Result(self._bench.ledger, slots, ui), self._bench.now_ms(), made_in=None)

    def _keep(
        self, node: GraphNode, result: Result, now: int, *, made_in: SandboxId | None
    ) -> GraphNode | None:
        if node.node_type.perhaps_objects:
            self._bench.live.note(self._row.tenant, node.node_type, result.slots, made_in=made_in)
        self._results.keep(node, result)
        self._say.node_finished(node, now)
        self._inbox.append(pl.NodeFinished(node.node_id))
        return self._advance(wants_heir=made_in is not None and FastPath.CHAINED_NODES in TAKEN)

    def _let_go(self) -> None:
        self._followers.close()
        self._cache.end(self._row.prompt_id)
        self._results.close()
        self._invocations.close()

    def _hear_progress(self, node: GraphNode, progress: Progress) -> None:
        if self._is_stopping:
            return
        if node.node_id not in self._started:
            self._followers.note_early(node, progress)
            return
        # A pack may name another node; believe it only where that node is one of this run that has started.
        named = progress.node_id if progress.node_id in self._started else node.node_id
        self._say.progress(self._graph[named], progress)

    # -- the end -------------------------------------------------------------------------------------------------------

    def _end(self, finish: pl.FinishPrompt) -> dict[str, JSON]:
        self._say.rest_of_progress()
        match finish.outcome:
            case "success":
                self._repeat_intermediate()
                self._say.prompt_succeeded()
            case "cancelled":
                running = self._plan.running if self._plan is not None else ()
                started = (node_id for node_id in self._started if node_id in running)
                node_id = finish.node_id or next(started, None) or self._row.outputs[0]
                self._say.prompt_interrupted(self._graph[self._graph[node_id].real])
            case "cycle":
                self._say.prompt_failed(cycle_details(finish.cycle, self._graph, executed=self._say.executed))
            case "failed":
                node_id = finish.node_id or ""
                gathered = self._gathered.get(node_id)
                details = failure_details(
                    self._failures[node_id],
                    self._graph[node_id],
                    self._graph,
                    executed=self._say.executed,
                    current_inputs={} if gathered is None else gathered.plain(),
                )
                self._say.prompt_failed(details)
        return self._say.history_entry(is_success=finish.outcome == "success")

    def _repeat_intermediate(self) -> None:
        """Cached UI of nodes that were not needed this time, where the class wants it shown anyway."""
        nodes, outputs = self._graph.nodes, self._say.outputs
        for node_id in self._graph.original:
            node = nodes[node_id]
            if node.node_type.repeats_ui and node_id not in outputs:
                result = self._results.of(node_id)
                if result is not None and result.ui:
                    self._say.ui(node, result.ui)

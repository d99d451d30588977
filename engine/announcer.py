"""What one run says: its events, and what of them ends up in the history.

Nothing is decided here but wording and order within one announcement; ``executor.py`` says when.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from engine import events as ev
from engine.early_starts import Voice
from engine.graph import GraphNode
from engine.progress import ProgressLog
from engine.reports import history_entry, node_meta, whereabouts
from engine.storage import QueuedPrompt
from sandbox.calls import Progress

JSON = Any


class Announcer:
    """The voice of one run."""

    def __init__(
        self,
        row: QueuedPrompt,
        voice: Voice,
        now_ms: Callable[[], int],
        client_id: str | None,
    ) -> None:
        self._row = row
        self._tenant = row.tenant
        self._prompt_id = row.prompt_id
        self._voice = voice
        self._now_ms = now_ms
        self._client_id = client_id
        self._progress = ProgressLog()
        self._messages: list[tuple[str, Mapping[str, JSON]]] = []
        self._meta: dict[str, JSON] = {}
        self._nodes: dict[str, JSON] = {}  # where each ran
        self.outputs: dict[str, JSON] = {}
        self.executed: dict[str, None] = {}  # ids run afresh, in order

    # -- the prompt --------------------------------------------------------------------------------------------------

    def prompt_started(self) -> None:
        """Execution begins."""
        now = self._keep("execution_start", {})
        self._voice.say(ev.PromptStarted(self._tenant, self._client_id, self._prompt_id, now))

    def nodes_cached(self, nodes: Sequence[GraphNode]) -> None:
        """These need not run."""
        for node in nodes:
            self._nodes[node.node_id] = whereabouts(node, sandbox=None, duration_ms=None)
        ids = [node.node_id for node in nodes]
        now = self._keep("execution_cached", {"nodes": ids})
        self._voice.say(ev.NodesCached(self._tenant, self._client_id, self._prompt_id, now, ids))

    def prompt_succeeded(self) -> None:
        """The end, all well."""
        now = self._keep("execution_success", {})
        self._voice.say(ev.PromptSucceeded(self._tenant, self._client_id, self._prompt_id, now))

    def prompt_failed(self, details: Mapping[str, JSON]) -> None:
        """The end, by a failure."""
        now = self._keep("execution_error", details)
        self._voice.say(ev.PromptFailed(self._tenant, self._client_id, self._prompt_id, now, details))

    def prompt_interrupted(self, real: GraphNode) -> None:
        """The end, on request; ``real`` is the submitted node that was running."""
        executed = list(self.executed)
        node_id, class_type = real.node_id, real.class_type
        now = self._keep(
            "execution_interrupted", {"node_id": node_id, "node_type": class_type, "executed": executed}
        )
        self._voice.say(
            ev.PromptInterrupted(
                self._tenant, self._client_id, self._prompt_id, now, node_id, class_type, executed
            )
        )

    def history_entry(self, *, is_success: bool) -> dict[str, JSON]:
        """What the history keeps of the run."""
        return history_entry(
            self._row,
            outputs=self.outputs,
            meta=self._meta,
            messages=self._messages,
            is_success=is_success,
            nodes=self._nodes,
        )

    # -- nodes -------------------------------------------------------------------------------------------------------

    def node_started(self, node: GraphNode) -> None:
        """A node is about to be called."""
        now = self._now_ms()
        self._show(node, 0.0, 1.0, "running", now)
        self._voice.say(
            ev.NodeStarted(self._tenant, self._client_id, self._prompt_id, now, node.node_id, node.display)
        )

    def node_ran(self, node: GraphNode, sandbox: str, began: int) -> int:
        """Its sandbox answered, well or not; a node that is called again counts both times. Returns what time it is."""
        now, before = self._now_ms(), self._nodes.get(node.node_id)
        duration = now - began
        if before is not None:
            duration += before["duration_ms"] or 0
        self._nodes[node.node_id] = whereabouts(node, sandbox=sandbox, duration_ms=duration)
        return now

    def node_finished(self, node: GraphNode, now: int) -> None:
        """A node's own result is there."""
        self.executed[node.node_id] = None
        maximum = self._progress.maximum(node.node_id)
        self._show(node, maximum, maximum, "finished", now)

    def node_cached(self, node: GraphNode, ui: Mapping[str, JSON] | None) -> None:
        """A needed node's result was already there."""
        self._nodes.setdefault(node.node_id, whereabouts(node, sandbox=None, duration_ms=None))
        self.ui(node, ui)
        self._show(node, 1.0, 1.0, "finished", self._now_ms())

    def node_blocked(self, node: GraphNode, text: str) -> None:
        """A blocker with a message met its first reader."""
        self._voice.say(
            ev.NodeBlocked(
                self._tenant,
                self._client_id,
                self._prompt_id,
                self._now_ms(),
                node.node_id,
                node.class_type,
                text,
                list(self.executed),
            )
        )

    def ui(self, node: GraphNode, ui: Mapping[str, JSON] | None) -> None:
        """A node has something to show, or had nothing to show when it was found cached."""
        if ui:
            self.outputs[node.node_id] = ui
            self._meta[node.node_id] = node_meta(node)
        self._voice.say(
            ev.NodeExecuted(
                self._tenant, self._client_id, self._prompt_id, self._now_ms(), node.node_id, node.display, ui
            )
        )

    def progress(self, node: GraphNode, progress: Progress) -> None:
        """A node reports how far it is."""
        self._show(
            node,
            progress.value,
            progress.max,
            "running",
            self._now_ms(),
            progress.legacy,
            progress.preview,
        )

    def rest_of_progress(self) -> None:
        """At the end: the states that were held back."""
        view = self._progress.last()
        if view is not None:
            changed = next(reversed(self._progress.states))
            self._voice.say(
                ev.ProgressChanged(
                    self._tenant, self._client_id, self._prompt_id, self._now_ms(), view, changed
                )
            )

    # -- how ---------------------------------------------------------------------------------------------------------

    def _show(
        self,
        node: GraphNode,
        value: float,
        maximum: float,
        state: str,
        now: int,
        legacy: bool = False,
        preview: tuple[str, bytes] | None = None,
    ) -> None:
        node_id = node.node_id
        moved = ev.NodeProgress(node_id, value, maximum, state, node.display, node.parent, node.real)
        view = self._progress.moved(moved, must_show=legacy or preview is not None)
        if view is not None:
            self._voice.say(
                ev.ProgressChanged(
                    self._tenant, self._client_id, self._prompt_id, now, view, node_id, legacy, preview
                )
            )

    def _keep(self, name: str, data: Mapping[str, JSON]) -> int:
        """Have the history keep ``data`` under a name; the time of it."""
        now = self._now_ms()
        self._messages.append((name, {**data, "prompt_id": self._prompt_id, "timestamp": now}))
        return now

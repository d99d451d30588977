"""A prompt that was claimed: what it needs is brought up to date, it is built and run, or refused with the reason.

When it is claimed, and what becomes of its entry, is ``dispatcher.py``; what its run does ``executor.py``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import anyio

from engine.belongings import Belongings, Kept
from engine.early_starts import Voice
from engine.events import PromptFailed
from engine.executor import PromptRun
from engine.large_graphs import compute
from engine.node_calls import Workbench
from engine.registry import NodeType, NodeTypes
from engine.reports import refused_entry
from engine.storage import QueuedPrompt
from policies import RingfenceError, TenantId

JSON = Any
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Claimed:
    """One such prompt."""

    row: QueuedPrompt
    voice: Voice
    run: PromptRun | None = None
    is_interrupted: bool = False
    before: anyio.CancelScope | None = None
    """What it waits for before it has a run."""

    def interrupt(self) -> None:
        """Ask it to stop; returns at once."""
        self.is_interrupted = True
        if self.before is not None:
            self.before.cancel()
        if self.run is not None:
            self.run.interrupt()


class Runner:
    """Takes claimed prompts to their history entries."""

    def __init__(
        self,
        bench: Workbench,
        extensions: NodeTypes,
        belongings: Belongings,
        running: Callable[[TenantId], Iterable[QueuedPrompt]],
    ) -> None:
        """``running``: a tenant's prompts that run now."""
        self._bench = bench
        self._extensions = extensions
        self._belongings = belongings
        self._running = running

    async def run(self, claimed: Claimed) -> dict[str, JSON]:
        """The prompt's history entry. All events but the last two are said here.

        Raises:
            Whatever cancels the surrounding task (shutdown); the prompt then has no entry.
        """
        try:
            return await self._run(claimed)
        except Exception as error:  # noqa: BLE001 - a defect of ours ends this prompt and no other
            _log.exception("prompt %s: internal error", claimed.row.prompt_id)
            text = f"internal error of the engine: {type(error).__name__}"
            return self._refuse(claimed, "ringfence.InternalError", text)

    async def _run(self, claimed: Claimed) -> dict[str, JSON]:
        row = claimed.row
        used = {entry["class_type"] for entry in row.prompt.values()}
        try:
            await self._make_current(claimed, used)
        except RingfenceError as error:
            return self._refuse(claimed, f"ringfence.{type(error).__name__}", str(error))
        types = await self._extensions.node_types(row.tenant)
        gone = sorted(used - types.keys())
        if gone:
            text = f"no extension provides these node classes any more: {', '.join(gone[:20])}"
            return self._refuse(claimed, "ringfence.NodeTypeGoneError", text)
        kept = self._belongings.of(row.tenant)
        run = await self._build(claimed, types, kept)
        claimed.run = run
        if claimed.is_interrupted:
            run.interrupt()
        await self._belongings.drop_stale(kept, self._running(row.tenant))
        started = time.monotonic()
        try:
            entry = await run.run()
        finally:
            await self._belongings.clean_up(row.prompt_id, kept)
        _log.info(
            "prompt %s of tenant %s: %s, %d nodes run, %.3f s",
            row.prompt_id,
            row.tenant,
            entry["status"]["status_str"],
            run.nodes_run,
            time.monotonic() - started,
        )
        return entry

    async def _make_current(self, claimed: Claimed, used: Collection[str]) -> None:
        tenant = claimed.row.tenant
        if claimed.is_interrupted or self._extensions.is_current(tenant, used):
            return
        with anyio.CancelScope() as claimed.before:
            await self._extensions.make_current(tenant, used)
        claimed.before = None

    async def _build(self, claimed: Claimed, types: Mapping[str, NodeType], kept: Kept) -> PromptRun:
        row = claimed.row

        def build() -> PromptRun:
            return PromptRun(self._bench, row, types, kept.cache, kept.instances, claimed.voice)

        return await compute(build, len(row.prompt))

    def _refuse(self, claimed: Claimed, kind: str, text: str) -> dict[str, JSON]:
        row = claimed.row
        details, entry = refused_entry(row, kind, text, self._bench.now_ms())
        client_id = row.extra_data.get("client_id")
        claimed.voice.say(PromptFailed(row.tenant, client_id, row.prompt_id, self._bench.now_ms(), details))
        return entry

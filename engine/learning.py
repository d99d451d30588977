"""Running an extension under watch, and what is learned of it: its smallest policy.

The extension is loaded anew in a sandbox with the walls of its policy of today, prompts go through the engine as
everybody's do, and in the end the watched sandbox is replaced. Bounded in time; whoever is cancelled leaves no prompt,
no watch and no watched sandbox behind.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.to_thread

from engine.errors import EngineError, PromptInvalidError
from engine.events import PromptEnded
from engine.live_types import ERROR_TYPE
from engine.prompt import PromptRequest, Submitted
from engine.trial_prompts import Maker, UnfillableError
from policies import (
    ExtensionName,
    LearnedPolicy,
    PolicyStore,
    RingfenceError,
    TenantId,
    learn_policy,
    safe_text,
)

if TYPE_CHECKING:
    from engine.engine import Engine
    from sandbox import Watch

JSON = Any
Progress = Callable[[str], None]
Submit = Callable[[PromptRequest], Awaitable[Submitted]]

MOST_PROMPTS: Final = 1_000
"""In one run, those for single nodes included."""
NODE_S: Final = 60.0
"""For the prompt of one node."""
_LAST_LOOK_S: Final = 10.0
_GONE_S: Final = 30.0
_TEXT: Final = 500
_CROSSING: Final = "HandleNotPortableError"


class NothingToLearnError(EngineError):
    """The extension cannot be run."""

    code = "nothing-to-learn"


@dataclass(frozen=True, slots=True)
class Trial:
    """A prompt that is run to see what the extension needs for it."""

    name: str
    request: PromptRequest
    is_made_up: bool = False
    """Of one node, with made-up values: it may fail, and its entry in the history goes again."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a trial."""

    name: str
    state: str
    """``ok``, ``failed``, ``refused``, ``slow`` or ``skipped``."""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Lesson:
    """What was learned, and from what."""

    extension: ExtensionName
    policy: LearnedPolicy
    outcomes: tuple[Outcome, ...]
    has_run: bool
    """Whether it could be loaded at all."""
    is_whole: bool
    """False when the time was up before every prompt had run."""


class Learner:
    """Learns policies; one extension of a tenant at a time (``SandboxManager.watch`` sees to it)."""

    def __init__(self, engine: Engine, policies: PolicyStore) -> None:
        self._engine = engine
        self._policies = policies

    async def learn(
        self,
        tenant: TenantId,
        extension: ExtensionName,
        trials: Sequence[Trial],
        *,
        with_nodes: bool,
        limit_s: float,
        submit: Submit,
        progress: Progress,
    ) -> Lesson:
        """Load it, run the prompts (``with_nodes``: and each of its nodes), and say what it needed.

        Errors of the extension's are part of what is seen, and so is a limit that it meets.

        Raises:
            ExtensionUnknownError, NothingToLearnError: there is nothing to run.
            WatchedError: it is being learned already.
            StartError, PolicyError: it cannot be started, or its policy is wrong or changed meanwhile.
        """
        info = await self._engine.extensions.get(tenant, extension)
        if info.state != "ready":
            raise NothingToLearnError(
                f"extension '{extension}' is {info.state}: nothing of it can be run",
                hint=f"ringfence extension reload {extension}",
            )
        now = await anyio.to_thread.run_sync(self._policies.effective, extension, tenant)
        # What is in the cache would not be run, and so not be seen.
        await self._engine.free(tenant, unload_models=False, free_memory=True)
        outcomes: list[Outcome] = []
        async with self._engine.sandboxes.watch(tenant, extension) as watch:
            with anyio.move_on_after(limit_s) as limit:
                await self._run_all(watch, extension, trials, with_nodes, submit, progress, outcomes)
            with anyio.move_on_after(_LAST_LOOK_S):
                await self._engine.sandboxes.observe(watch)
        seen = watch.seen
        policy = await anyio.to_thread.run_sync(
            lambda: learn_policy(self._policies, extension, tenant, seen, now)
        )
        return Lesson(extension, policy, tuple(outcomes), not seen.failed_import, not limit.cancelled_caught)

    async def _run_all(
        self,
        watch: Watch,
        extension: ExtensionName,
        trials: Sequence[Trial],
        with_nodes: bool,
        submit: Submit,
        progress: Progress,
        outcomes: list[Outcome],
    ) -> None:
        engine, tenant = self._engine, watch.tenant
        progress(f"loading '{extension}' in a watched sandbox")
        try:
            await engine.sandboxes.acquire(tenant, extension)
        except RingfenceError as error:
            watch.seen.failed_import = safe_text(error.message, _TEXT)
            outcomes.append(Outcome("its import", "failed", watch.seen.failed_import))
            return
        await engine.sandboxes.observe(watch)
        chosen = list(trials)
        if with_nodes:
            made, skipped = await self._of_nodes(tenant, extension)
            chosen += made
            outcomes += skipped
        for number, trial in enumerate(chosen[:MOST_PROMPTS], 1):
            progress(f"{number}/{len(chosen)}: {trial.name}")
            outcome = await self._run(watch, trial, submit)
            await engine.sandboxes.observe(watch)
            if outcome.state != "ok":
                progress(f"{trial.name}: {outcome.state}: {outcome.text}")
            outcomes.append(outcome)

    async def _of_nodes(
        self, tenant: TenantId, extension: ExtensionName
    ) -> tuple[list[Trial], list[Outcome]]:
        """A prompt for each node of the extension that one can be made for, and the nodes that are left out."""
        types = await self._engine.extensions.node_types(tenant)
        maker = Maker(await self._engine.object_info(tenant))
        trials, skipped = [], []
        for class_type in sorted(name for name, node in types.items() if node.extension == extension):
            name = f"node {safe_text(class_type, 80)}"
            try:
                graph = maker.prompt(class_type)
            except (UnfillableError, KeyError, TypeError, ValueError) as error:  # a declaration of the pack's
                skipped.append(Outcome(name, "skipped", safe_text(str(error), _TEXT)))
                continue
            trials.append(Trial(name, PromptRequest(prompt=graph), is_made_up=True))
        return trials, skipped

    async def _run(self, watch: Watch, trial: Trial, submit: Submit) -> Outcome:
        tenant = watch.tenant
        request = replace(trial.request, prompt_id=str(uuid.uuid4()))
        prompt_id = request.prompt_id
        assert prompt_id is not None  # noqa: S101 - just made
        try:
            async with self._engine.subscribe(tenant) as events:
                await submit(request)
                with anyio.move_on_after(NODE_S if trial.is_made_up else None) as limit:
                    async for event in events:
                        if isinstance(event, PromptEnded) and event.prompt_id == prompt_id:
                            break
                    entry = await self._ended(tenant, prompt_id)
                if limit.cancelled_caught:
                    return Outcome(trial.name, "slow", f"it did not end within {NODE_S:g} s")
        except PromptInvalidError as error:
            return Outcome(trial.name, "refused", _refusal(watch, error))
        finally:
            with anyio.move_on_after(_GONE_S, shield=True):
                if await self._engine.cancel(tenant, prompt_id):
                    await self._ended(tenant, prompt_id)
                if trial.is_made_up:
                    await self._engine.delete_history(tenant, [prompt_id])
        return _outcome(watch, trial, entry)

    async def _ended(self, tenant: TenantId, prompt_id: str) -> JSON:
        """The entry of a prompt, once it has ended; a reader of events may have been dropped."""
        while (entry := await self._engine.history_entry(tenant, prompt_id)) is None:
            queue = await self._engine.queue(tenant)
            if prompt_id not in {item.prompt_id for item in (*queue.running, *queue.pending)}:
                return await self._engine.history_entry(tenant, prompt_id)
            await anyio.sleep(0.1)
        return entry


def _refusal(watch: Watch, error: PromptInvalidError) -> str:
    for node in error.node_errors.values():
        for each in node.get("errors", ()):
            if each.get("type") == ERROR_TYPE:
                watch.crossed(str(each.get("details", "")))
    details = [
        str(each.get("details") or each.get("message", ""))
        for node in error.node_errors.values()
        for each in node.get("errors", ())
    ]
    return safe_text("; ".join(details) or error.message, _TEXT)


def _outcome(watch: Watch, trial: Trial, entry: JSON) -> Outcome:
    status = entry.get("status", {}) if isinstance(entry, Mapping) else {}
    for name, data in reversed(status.get("messages", ())):
        if name == "execution_error":
            text = f"{data.get('exception_type', '')}: {str(data.get('exception_message', '')).strip()}"
            if str(data.get("exception_type", "")).endswith(_CROSSING):
                watch.crossed(text)
            return Outcome(trial.name, "failed", safe_text(text, _TEXT))
    if status.get("status_str") == "success":
        return Outcome(trial.name, "ok")
    return Outcome(trial.name, "failed", "it was interrupted")

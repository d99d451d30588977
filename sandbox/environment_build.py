"""One build of one environment: resolved to a lock where there is none, installed, written down, put on the shelf."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.to_thread

from sandbox.build_tools import BuildTools, install, versions
from sandbox.environment_locks import KeptLock, lock_digest, locked_hashes, preferences, refuse_changed
from sandbox.environment_plan import Plan, keeps_torch
from sandbox.environment_shelf import EnvironmentShelf
from sandbox.environment_steps import BuildSteps, Progress
from sandbox.launcher import build_verb as verb
from sandbox.resolver_answers import Lock, prune_lock


class EnvironmentBuild:
    """Enter with ``async with``; its job's directory is gone afterwards.

    With its first step it takes one of ``slots``, and its time begins to count.
    """

    def __init__(
        self,
        job: verb.BuildJob,
        plan: Plan,
        image: verb.NodeImage,
        tools: BuildTools | None,
        steps: BuildSteps,
        shelf: EnvironmentShelf,
        slots: anyio.CapacityLimiter,
        progress: Progress,
    ) -> None:
        """``tools``: of its source builds; None where there are none."""
        self.image = image
        self.tools = tools
        self._job = job
        self._plan = plan
        self._steps = steps
        self._shelf = shelf
        self._slots = slots
        self._progress = progress
        self._stack = AsyncExitStack()
        self._deadline: float | None = None
        self._seconds: float | None = None
        """How long installing took; None before it was done."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self._stack.aclose()
            await anyio.to_thread.run_sync(lambda: shutil.rmtree(self._job.directory, ignore_errors=True))

    async def resolve(self, kept: KeptLock | None) -> str:
        """The text of a new lock; versions of ``kept`` are preferred, and none of them may have another content.

        Raises: EnvironmentFailedError.
        """
        plan, image, job = self._plan, self.image, self._job
        deadline = await self._begin()
        before = locked_hashes(kept.text) if kept is not None else {}
        await anyio.to_thread.run_sync(self._steps.prepare, job, plan, preferences(plan, image, kept))
        self._progress(f"resolving {len(plan.requirements)} requirement(s) for Python {image.python}")
        await self._steps.run(job, "resolve", plan, deadline, self._progress)
        text = await anyio.to_thread.run_sync(self._steps.lock_text, job)
        lock = prune_lock(text, image, keep_torch=keeps_torch(plan))
        for note in lock.notes:
            self._progress(note)
        if kept is not None:
            refuse_changed(before, kept.text, lock.text)
        return text

    async def install(self, lock: Lock) -> None:
        """Install what is locked into the job's directory, unless that was done. Raises: EnvironmentFailedError."""
        if self._seconds is not None:
            return
        deadline = await self._begin()
        started = time.monotonic()
        await anyio.to_thread.run_sync(self._steps.prepare, self._job, self._plan, ())
        await anyio.to_thread.run_sync((self._job.directory / "in" / verb.LOCK).write_text, lock.text)
        if lock.packages:
            names = ", ".join(f"{name} {version}" for name, version in lock.packages.items())
            self._progress(f"installing {names}")
            await install(self._steps, self._job, self._plan, self.tools, deadline, self._progress)
        elif self.tools is not None:
            self.tools.text = self.tools.text or ""
        self._seconds = time.monotonic() - started

    async def put(self, lock: Lock, key: str) -> Mapping[str, Any]:
        """Put it on the shelf as ``key``, with what it is made of; returns what was written down of it.

        Raises: EnvironmentFailedError.
        """
        await self.install(lock)
        text = None if self.tools is None else self.tools.text
        manifest = {
            "key": key,
            "plan": self._plan.key,
            "lock": lock_digest(lock.text),
            "image": self.image.id,
            "python": self.image.python,
            "requirements": self._plan.requirements,
            "packages": dict(lock.packages),
            "notes": lock.notes,
            "seconds": round(self._seconds or 0.0, 3),
            **({} if text is None else {"tools": lock_digest(text), "build_tools": dict(versions(text))}),
        }
        finished = await anyio.to_thread.run_sync(self._finish, key, manifest, text)
        self._progress(f"environment {key[:12]} built in {manifest['seconds']} s")
        return finished

    async def _begin(self) -> float:
        if self._deadline is None:
            await self._stack.enter_async_context(self._slots)
            self._deadline = time.monotonic() + self._job.timeout_s
        return self._deadline

    def _finish(self, key: str, manifest: Mapping[str, Any], tools: str | None) -> Mapping[str, Any]:
        if manifest["packages"]:
            self._steps.settle(self._job.directory / "out" / verb.SITE)
        return self._shelf.put(self._job.directory, key, manifest, tools)

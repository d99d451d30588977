"""What goes on behind the catalogue: outdated extensions are brought up to date, and workers are asked for their lists.

After a change of the image or of a policy the descriptions at hand are of what was there before, and a new one costs an
environment and a sandbox. So the catalogue answers with what is known, a few extensions at a time are brought up to
date behind it, and a prompt waits for the extensions that it uses and for no other. Owns the tasks that do so.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

import anyio
import anyio.abc

from engine.extension_errors import UpdateFailedError
from engine.extension_loader import Loader, failure_of
from engine.extension_records import Failure
from engine.extension_shelf import Entry
from policies import ExtensionName, TenantId

logger = logging.getLogger(__name__)

PARALLEL: Final = 2  # updates that nobody waits for, at the same time
RETRY_S: Final = 60.0  # until an update that failed is tried again without a prompt that needs it
PACK_S: Final = 2.0  # how long the catalogue waits for a pack's lists
CORE_S: Final = 30.0  # and for the built-in nodes', whose sandbox may have to start

_Key = tuple[TenantId, ExtensionName]


@dataclass(slots=True, eq=False)
class _Update:
    entry: Entry
    started: float | None = None
    """None while it is in the line."""
    done: anyio.Event = field(default_factory=anyio.Event)
    failure: Failure | None = None


class Updates:
    """Enter with ``async with``; leaving stops what is under way."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._updates: dict[_Key, _Update] = {}
        self._line: list[_Update] = []
        self._failed: dict[_Key, tuple[Failure, float]] = {}
        self._late: set[_Key] = set()
        """Packs that are still describing their nodes for a catalogue that did not wait any longer."""
        self._behind: set[_Key] = set()
        """Packs that are asked although their last answer still stands."""
        self._slow: set[_Key] = set()
        """Packs that were late the last time."""
        self._exit = AsyncExitStack()
        self._tasks: anyio.abc.TaskGroup

    async def __aenter__(self) -> Self:
        self._tasks = await self._exit.enter_async_context(anyio.create_task_group())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tasks.cancel_scope.cancel()
        # Without the error: what ended the host must not look like an error of these tasks.
        await self._exit.__aexit__(None, None, None)

    # -- outdated extensions -----------------------------------------------------------------------------------

    def start(self, entry: Entry) -> None:
        """Bring a stale extension up to date when its turn comes, unless that failed a moment ago."""
        key = _key(entry)
        known = self._updates.get(key)
        failed = self._failed.get(key)
        if (known is not None and known.entry is entry) or (failed and time.monotonic() < failed[1]):
            return
        self._add(entry)
        self._next()

    async def need(self, entry: Entry) -> None:
        """Bring a stale extension up to date now and wait for it.

        Raises:
            UpdateFailedError: with what stopped it.
        """
        update = self._updates.get(_key(entry))
        if update is None or update.entry is not entry:
            update = self._add(entry)
        if update.started is None:
            self._begin(update)
        await update.done.wait()
        if update.failure is not None:
            why = update.failure
            raise UpdateFailedError(
                f"extension '{entry.name}' could not be brought up to date with the node image and its policy: "
                f"{why.message}",
                hint=why.hint or f"ringfence extension reload {entry.name}",
            )

    def _add(self, entry: Entry) -> _Update:
        update = self._updates[_key(entry)] = _Update(entry)
        self._line.append(update)
        return update

    def _next(self) -> None:
        while self._line and sum(each.started is not None for each in self._updates.values()) < PARALLEL:
            self._begin(self._line[0])

    def _begin(self, update: _Update) -> None:
        self._line.remove(update)
        update.started = time.monotonic()
        self._tasks.start_soon(self._run, update)

    async def _run(self, update: _Update) -> None:
        entry, key = update.entry, _key(update.entry)
        self._failed.pop(key, None)
        logger.info("extension %s of tenant %s is being brought up to date", entry.name, entry.tenant)
        try:
            await self._loader.update(entry)
        except Exception as error:  # noqa: BLE001 - whatever it is: it concerns this extension only
            update.failure = failure_of(error)
            self._failed[key] = (update.failure, time.monotonic() + RETRY_S)
            logger.warning("extension %s could not be brought up to date: %s", entry.name, error)
        except BaseException as error:
            update.failure = failure_of(error)
            raise
        else:
            took = time.monotonic() - (update.started or 0.0)
            logger.info("extension %s is up to date (%.1f s)", entry.name, took)
        finally:
            if self._updates.get(key) is update:
                del self._updates[key]
            update.done.set()
            self._next()

    # -- live lists ---------------------------------------------------------------------------------------------

    async def describe(self, entries: Sequence[Entry]) -> None:
        """Ask workers for their declarations anew; what does not come in time is taken when it comes.

        Nobody waits for one whose last answer still stands.
        """
        async with anyio.create_task_group() as waiting:
            for entry in entries:
                if _key(entry) not in self._late:
                    waiting.start_soon(self._describe, entry)

    async def _describe(self, entry: Entry) -> None:
        key, done = _key(entry), anyio.Event()
        if await self._loader.is_current(entry):
            self._slow.discard(key)
            if entry.described is not None and not entry.described.is_fresh and key not in self._behind:
                self._behind.add(key)
                self._tasks.start_soon(self._ask, entry, lambda: self._behind.discard(key))
            return

        def asked() -> None:
            self._late.discard(key)
            done.set()

        self._tasks.start_soon(self._ask, entry, asked)
        limit_s = CORE_S if entry.core else PACK_S
        with anyio.move_on_after(limit_s):
            await done.wait()
        if done.is_set():
            self._slow.discard(key)
            return
        self._late.add(key)
        self._slow.add(key)
        logger.warning(
            "extension %s does not describe its nodes within %g s: the catalogue has them as they were known",
            entry.name,
            limit_s,
        )

    async def _ask(self, entry: Entry, done: Callable[[], None]) -> None:
        try:
            await self._loader.describe(entry, None)
        except Exception:
            logger.exception("extension %s could not be described anew", entry.name)
        finally:
            done()

    # -- for people ---------------------------------------------------------------------------------------------

    def note(self, entry: Entry) -> str:
        """Why the descriptions at hand may be old; empty: they are not."""
        key = _key(entry)
        if key in self._slow:
            when = "when the catalogue was last asked for: lists of files in its nodes may be old"
            return f"did not describe its nodes within {PACK_S:g} s {when}"
        if not entry.stale:
            return ""
        update, failed = self._updates.get(key), self._failed.get(key)
        if update is not None:
            step = "waits for its turn to be" if update.started is None else "is being"
            return f"{step} brought up to date with the node image and its policy"
        if failed is not None:
            return f"could not be brought up to date with the node image and its policy: {failed[0].message}"
        return "is brought up to date with the node image and its policy when it is used"


def _key(entry: Entry) -> _Key:
    return (entry.tenant, entry.name)

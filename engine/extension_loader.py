"""Bringing an extension up: build its environment, start its sandbox once, read its nodes, remember them.

Each step may fail; then this extension is ``failed`` with the reason, nothing of it runs, and nothing else is touched.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread

from engine.described import Described, Rest, roots_of
from engine.directory_looks import look
from engine.extension_errors import NoNodesError
from engine.extension_ports import BuiltEnvironment, EnvironmentKeeper, Progress, Sandboxes, SandboxView
from engine.extension_records import (
    Failure,
    SandboxState,
    description_key,
    last_descriptions,
    read_descriptions,
    read_lock,
    write_descriptions,
    write_lock,
)
from engine.extension_shelf import Entry, GroupEnvironment, Shelf
from engine.load_hints import module_hint
from policies import (
    EffectivePolicy,
    RingfenceError,
    SandboxId,
    TenantId,
)
from sandbox.calls import LoadedExtension, Session
from sandbox.errors import LoadFailedError, StartError

logger = logging.getLogger(__name__)


class Loader:
    """Takes entries of the shelf through building and loading."""

    def __init__(self, shelf: Shelf, environments: EnvironmentKeeper) -> None:
        self._shelf = shelf
        self._environments = environments
        self._group_locks: dict[tuple[TenantId, str], anyio.Lock] = {}
        self._outdated: set[str] = set()
        """Environments that a group had before; a sandbox that is about to end may still use one."""
        self._unused: set[str] = set()
        """Environments that are to go unless somebody uses them."""
        self._choosing = 0
        """Who is being given an environment now, perhaps one of those, and has not said so in its record yet."""
        self.sandboxes: Sandboxes | None = None

    # -- packs -------------------------------------------------------------------------------------------------

    async def bring_up(self, entry: Entry, progress: Progress, *, spare: Sequence[SandboxId] = ()) -> None:
        """Build, start and read; afterwards the record says ready or failed, and why.

        ``spare`` are sandboxes of an older version, which a failure of this one does not concern.

        Raises: PolicyError, EnvironmentFailedError, SandboxError, NoNodesError.
        """
        record = entry.record
        record.state, record.failure, entry.loading = "building", None, True
        await self._shelf.save(entry)
        try:
            policy = await self._shelf.read_policy(entry)
            record.policy_digest = policy.digest()
            await self._choose_environment(entry, policy, progress)
            progress("starting its sandbox to read its nodes")
            await self.accept(entry, (await self._first_start(entry)).loaded)
            await anyio.to_thread.run_sync(write_lock, entry.directory, record.content_hash, entry.lock)
            record.state = "ready"
            progress(f"ready: {record.nodes} node(s), API {record.api}")
        except BaseException as error:
            record.state, record.failure = "failed", failure_of(error)
            entry.take(None)
            with anyio.CancelScope(shield=True):
                started = [sandbox for sandbox in self.live(entry) if sandbox not in spare]
                await self.stop(entry, started, "could not be loaded")
            raise
        finally:
            entry.loading = False
            with anyio.CancelScope(shield=True):
                await self._shelf.save(entry)

    async def _first_start(self, entry: Entry) -> Session:
        try:
            return await self.manager().acquire(entry.tenant, entry.name)
        except LoadFailedError as error:
            if error.exception_type not in ("ModuleNotFoundError", "ImportError", "FileNotFoundError", ""):
                raise
            notes, ask = entry.record.notes, self._environments.hint_for_module
            hint = await module_hint(error.message, notes, entry.code, ask)
            if hint is None:
                raise
            raise LoadFailedError(
                error.message,
                hint,
                exception_type=error.exception_type,
                traceback=error.traceback,
            ) from error

    async def restore(self, entry: Entry) -> None:
        """Look into an entry that was read from disk: without a sandbox, and without failing."""
        record = entry.record
        if record.state == "building":
            record.state = "failed"
            record.failure = Failure(
                code="interrupted",
                message="the host stopped while this extension was being added",
                hint=f"ringfence extension reload {entry.name}",
            )
            await self._shelf.save(entry)
        if record.environment_key is not None:
            entry.site = await anyio.to_thread.run_sync(self._environments.site, record.environment_key)
        if record.state != "ready":
            return
        stored = _description_key(entry)
        try:
            digest = (await self._shelf.read_policy(entry)).digest()
            image_id = (await self._environments.image()).id
            entry.stale = (digest, image_id) != (record.policy_digest, record.image_id)
        except RingfenceError as error:
            # Said again, with its hint, by whoever starts the sandbox; until then the last descriptions hold.
            logger.warning("extension %s of tenant %s: %s", entry.name, entry.tenant, error)
        loaded = await anyio.to_thread.run_sync(read_descriptions, entry.directory, stored)
        if loaded is None:
            # The host stopped on the way to newer ones: what was known before is better than nothing.
            loaded, entry.stale = await anyio.to_thread.run_sync(last_descriptions, entry.directory), True
        entry.take(loaded)

    async def renew_environment(self, entry: Entry) -> None:
        """Build the environment again when the image is another one than it was built on, or when it is gone.

        Raises: EnvironmentFailedError, StartError, PolicyError.
        """
        image = await self._environments.image()
        record = entry.record
        present = record.environment_key is None or entry.site is not None or record.environment_empty
        if record.image_id == image.id and present:
            return
        async with self._shelf.lock(entry.tenant, entry.name):
            policy = await self._shelf.read_policy(entry)

            def log(line: str) -> None:
                logger.info("extension %s: %s", entry.name, line)

            before = record.environment_key
            await self._choose_environment(entry, policy, log)
            await anyio.to_thread.run_sync(write_lock, entry.directory, record.content_hash, entry.lock)
            await self._shelf.save(entry)
            await self.drop_environment(before)

    async def _choose_environment(self, entry: Entry, policy: EffectivePolicy, progress: Progress) -> None:
        kept = await anyio.to_thread.run_sync(read_lock, entry.directory, entry.record.content_hash)
        async with self._choice():
            built = await self._environments.ensure(
                entry.tenant,
                entry.code,
                policy,
                progress,
                extension=entry.name,
                kept=kept,
                upgrade=entry.upgrade,
            )
            _use(entry, built)

    @asynccontextmanager
    async def _choice(self) -> AsyncIterator[None]:
        """None is deleted while somebody chooses one: whoever chooses last deletes what nobody took."""
        self._choosing += 1
        try:
            yield
        finally:
            self._choosing -= 1
        await self._drop_unused()

    async def group_site(
        self, tenant: TenantId, group: str, members: Sequence[Entry], progress: Progress
    ) -> Path | None:
        """The one environment of a sandbox group, built when its members are others than last time.

        Raises: GroupConflictError, EnvironmentFailedError, StartError, PolicyError.
        """
        if all(entry.record.environment_key == members[0].record.environment_key for entry in members):
            return members[0].site  # the usual case: nobody needs more than the image, or all need the same
        made_of = tuple(
            (str(entry.name), entry.record.content_hash, entry.record.image_id) for entry in members
        )
        async with self._group_locks.setdefault((tenant, group), anyio.Lock()):
            known = self._shelf.group_environments.get((tenant, group))
            if known is None or known.made_of != made_of:
                policy = await self._shelf.read_policy(members[0])
                code = {entry.name: entry.code for entry in members}
                async with self._choice():
                    built = await self._environments.ensure_group(
                        tenant, group, code, policy, progress, where=self._shelf.policy_file
                    )
                    if known is not None and known.key is not None and known.key != built.key:
                        self._outdated.add(known.key)
                    known = GroupEnvironment(made_of, built.key, built.site)
                    self._shelf.group_environments[tenant, group] = known
            return known.site

    def forget_group(self, entry: Entry) -> None:
        """A member is gone: what its group had together goes with the next environment that is dropped."""
        known = self._shelf.group_environments.pop((entry.tenant, entry.group or ""), None)
        if known is not None and known.key is not None:
            self._outdated.add(known.key)

    async def update(self, entry: Entry) -> None:
        """Read the nodes of a stale extension anew, in a sandbox of today's image and policy.

        Raises: PolicyError, EnvironmentFailedError, SandboxError, NoNodesError.
        """
        digest = (await self._shelf.read_policy(entry)).digest()
        loaded = (await self._first_start(entry)).loaded
        if entry.stale and self._shelf.entries.get((entry.tenant, entry.name)) is entry:
            entry.record.policy_digest = digest
            await self.accept(entry, loaded)
            await self._shelf.save(entry)

    async def is_current(self, entry: Entry) -> bool:
        """Whether asking the extension's worker again would bring what is known, as far as can be seen from here."""
        described = entry.described
        if described is None:
            return False
        try:
            policy = await self._shelf.read_policy(entry)
        except RingfenceError:
            return False
        return described.was_of(self._rest(entry), policy.digest()) and await anyio.to_thread.run_sync(
            described.seen.still_holds
        )

    async def _look(self, entry: Entry) -> Described | None:
        """What a description that is asked for now depends on; None when that cannot be known."""
        rest = self._rest(entry)
        if rest is None:
            return None
        policy = await self._shelf.read_policy(entry)
        roots = roots_of(policy, self._shelf.tenant_directory(entry.tenant), entry.name)
        seen = await anyio.to_thread.run_sync(look, roots)
        return None if seen is None else Described(rest, policy.digest(), seen, time.monotonic())

    def _rest(self, entry: Entry) -> Rest:
        if entry.core:
            return ()  # what core nodes list is in files alone
        views = self._views(entry)
        rest = tuple((view.id, view.at_rest) for view in views if view.at_rest is not None)
        return rest if len(rest) == len(views) else None

    async def describe(self, entry: Entry, class_types: Sequence[str] | None) -> None:
        """Ask the extension's worker for its nodes anew; on failure the last descriptions stay."""
        try:
            depends = await self._look(entry) if class_types is None else None
            session = await self.manager().acquire(entry.tenant, entry.name)
            nodes = await session.describe(class_types)
        except RingfenceError as error:
            logger.warning("extension %s could not be described anew: %s", entry.name, error)
            return
        if self._shelf.entries.get((entry.tenant, entry.name)) is entry:
            known = {node.class_type: node for node in nodes if node.class_type in entry.nodes}
            if any(entry.nodes[name] != node for name, node in known.items()):
                entry.nodes = {**entry.nodes, **known}
                self._shelf.changed(entry.tenant)
            if class_types is None:
                entry.described = depends

    async def drop_environment(self, key: str | None) -> None:
        """Delete an environment unless some extension still uses it, and what groups had before."""
        self._unused |= {*self._outdated, *([key] if key is not None else [])}
        self._outdated.clear()
        await self._drop_unused()

    async def _drop_unused(self) -> None:
        while self._unused and not self._choosing:
            old = self._unused.pop()
            if not self._shelf.uses_environment(old):
                # Nobody chooses, so nobody keeps it from being deleted now; who chooses it from here on waits for that.
                await self._environments.discard(old)

    async def accept(self, entry: Entry, loaded: LoadedExtension) -> None:
        """Take over what its worker said of it, and remember it. Raises: NoNodesError."""
        serves = loaded.web_directory or loaded.routes or loaded.prompt_handlers
        if not loaded.nodes and not (serves and not loaded.skipped):
            why = "; ".join(f"{name}: {error}" for name, error in sorted(loaded.skipped.items())[:5])
            raise NoNodesError(
                f"extension '{entry.name}' loaded but offers no node" + (f" ({why})" if why else ""),
                hint="a pack sets NODE_CLASS_MAPPINGS or comfy_entrypoint in its __init__.py",
            )
        record = entry.record
        record.api, record.nodes = loaded.api, len(loaded.nodes)
        skipped = (f"node '{name}' was left out: {error}" for name, error in sorted(loaded.skipped.items()))
        record.load_notes = (*loaded.notes, *skipped)[:50]
        entry.take(loaded)
        entry.stale = False
        await anyio.to_thread.run_sync(write_descriptions, entry.directory, _description_key(entry), loaded)
        self._shelf.changed(entry.tenant)

    async def stored(self, entry: Entry) -> LoadedExtension | None:
        """What its worker said of it when it was described last, as kept on disk."""
        return await anyio.to_thread.run_sync(read_descriptions, entry.directory, _description_key(entry))

    async def store_again(self, entry: Entry, loaded: LoadedExtension | None) -> None:
        """Keep that instead of what was said of a version that did not take its place."""
        if loaded is not None:
            await anyio.to_thread.run_sync(
                write_descriptions, entry.directory, _description_key(entry), loaded
            )

    # -- sandboxes ---------------------------------------------------------------------------------------------

    def manager(self) -> Sandboxes:
        """Who starts sandboxes. Raises: StartError before one is attached and after it is gone."""
        if self.sandboxes is None:
            raise StartError("no sandbox manager is attached", "the host is starting or shutting down")
        return self.sandboxes

    def live(self, entry: Entry) -> tuple[SandboxId, ...]:
        """The sandboxes that hold the extension now."""
        return () if self.sandboxes is None else self.sandboxes.holding(entry.tenant, entry.name)

    def _views(self, entry: Entry) -> list[SandboxView]:
        if self.sandboxes is None:
            return []
        return [view for view in self.sandboxes.list(entry.tenant) if entry.name in view.extensions]

    async def stop(self, entry: Entry, sandboxes: Sequence[SandboxId], what: str) -> None:
        """End sandboxes of an extension; ``what`` happened to it, which other members of its group are told."""
        for sandbox in sandboxes:
            await self.manager().stop(entry.tenant, sandbox, f"extension '{entry.name}' {what}")

    def sandbox_state(self, entry: Entry) -> SandboxState:
        """Whether a sandbox of the extension runs."""
        if self.sandboxes is not None and self.sandboxes.quarantined_for(entry.tenant, entry.name) > 0:
            return "quarantined"
        return "warm" if self.live(entry) else "cold"


def _description_key(entry: Entry) -> str:
    record = entry.record
    return description_key(
        record.content_hash, record.environment_key, record.image_id or "", record.policy_digest or ""
    )


def _use(entry: Entry, built: BuiltEnvironment) -> None:
    record = entry.record
    record.environment_key, record.image_id = built.key, built.image
    record.environment_empty = built.site is None
    record.lock_digest = built.lock.digest if built.lock is not None else None
    entry.lock, entry.upgrade = built.lock, False
    record.asks, record.notes = built.asks, built.notes
    entry.site = built.site


def failure_of(error: BaseException) -> Failure:
    """What to remember of whatever stopped an extension from coming up."""
    if isinstance(error, RingfenceError):
        return Failure(code=error.code, message=error.message, hint=error.hint)
    if isinstance(error, Exception):
        logger.error("an extension failed in a way that has no name", exc_info=error)
        name = type(error).__name__
        return Failure(code="internal", message=f"{name} in the host", hint="see the host's log")
    return Failure(code="interrupted", message="it was interrupted", hint="ringfence extension reload")

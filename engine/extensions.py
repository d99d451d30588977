"""The extensions of every tenant: add, reload, remove, and which node types they offer.

An extension is copied and pinned (``extension_intake``), its policy adopted, its environment built and its sandbox
started once to read its nodes (``extension_loader``); what is known lies on the shelf and on disk
(``extension_shelf``, ``extension_records``), so that a restart needs no sandbox. The registry also tells the engine
what nodes there are (``NodeTypes``); the sandbox room asks ``to_run`` for them.
"""

from __future__ import annotations

import builtins
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
import anyio.to_thread

from engine.core_nodes import CoreNodes
from engine.extension_asks import Consent
from engine.extension_errors import (
    ExtensionExistsError,
    ExtensionProtectedError,
    PolicyReservedError,
    SourceRefusedError,
    UpdateFailedError,
)
from engine.extension_files import SourceLimits
from engine.extension_git import GitLimits, GitSource, parse_source
from engine.extension_intake import Taken, original_source, take_source
from engine.extension_loader import Loader
from engine.extension_ports import EnvironmentKeeper, Progress, Sandboxes
from engine.extension_records import ExtensionInfo, Origin, PackFiles, Record
from engine.extension_replacement import Replacement
from engine.extension_shelf import Entry, Shelf
from engine.extension_sites import Sites
from engine.extension_supply import Supply
from engine.extension_updates import Updates
from engine.extension_versions import Versions, drop_all_but
from engine.extensions_to_run import ExtensionsToRun
from engine.registry import NodeType
from policies import (
    CORE_EXTENSION,
    ExtensionName,
    PolicyStore,
    RingfenceError,
    TenantId,
    parse_extension_name,
    suggest_extension_name,
)
from sandbox import AdvisoryDatabase, Places, remove_tree

__all__ = [
    "ExtensionInfo",
    "ExtensionRegistry",
    "GitSource",
    "Origin",
    "PackFiles",
    "Sandboxes",
    "parse_source",
]

logger = logging.getLogger(__name__)


def _silent(_line: str) -> None:
    """Progress that nobody reads."""


class ExtensionRegistry:
    """Enter with ``async with``, then ``attach`` the sandbox manager. Safe to use from many tasks."""

    def __init__(
        self,
        *,
        places: Places,
        core: Path,
        policies: PolicyStore,
        environments: EnvironmentKeeper,
        limits: SourceLimits | None = None,
        git_limits: GitLimits | None = None,
        on_removed: Callable[[TenantId, ExtensionName], Awaitable[None]] | None = None,
        advisories: AdvisoryDatabase | None = None,
    ) -> None:
        self._on_removed = on_removed
        self._policies = policies
        self._environments = environments
        self._limits = limits or SourceLimits()
        self._git_limits = git_limits or GitLimits()
        self._shelf = Shelf(places, core, policies)
        self._loader = Loader(self._shelf, environments)
        self._core = CoreNodes(self._shelf, self._loader, environments)
        self._versions = Versions(self._shelf, policies)
        self._updates = Updates(self._loader)
        self.supply = Supply(self._shelf, environments, advisories)
        self.sites = Sites(self._shelf)
        self.to_run = ExtensionsToRun(self._shelf, self._loader)
        self._replacement = Replacement(self._shelf, self._loader, self._versions, self.to_run)

    async def __aenter__(self) -> Self:
        for entry in await self._shelf.open():
            await self._loader.restore(entry)
        await self._updates.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loader.sandboxes = None
        await self._updates.__aexit__(kind, value, trace)

    def attach(self, sandboxes: Sandboxes) -> None:
        """Say who starts sandboxes; until then extensions can only be listed."""
        self._loader.sandboxes = sandboxes

    # -- what operators do -------------------------------------------------------------------------------------

    async def add(
        self,
        tenant: TenantId,
        source: Path | GitSource,
        *,
        name: str | None = None,
        policy_file: Path | None = None,
        by_operator: bool = True,
        pin: str | None = None,
        progress: Progress = _silent,
    ) -> ExtensionInfo:
        """Take over a pack and make its nodes available; ``pin`` is the content hash that it has to have.

        A policy file grants by name, so only the operator adds a pack whose name has one.

        Raises:
            ExtensionError: the name is taken, protected or has somebody else's policy, or the source is refused;
                nothing was added.
            NameInvalidError, PolicyError: the name or the policy file is wrong; nothing was added.
            EnvironmentFailedError, SandboxError, NoNodesError: it stays listed as failed, with this error.
        """
        if not isinstance(source, GitSource):
            source = await anyio.to_thread.run_sync(source.absolute)
        given = source.name.removesuffix(".py")
        chosen = parse_extension_name(name) if name is not None else suggest_extension_name(given)
        _refuse_core(chosen, "added")
        if policy_file is not None:
            await anyio.to_thread.run_sync(self._policies.check, policy_file, tenant)
        async with self._shelf.lock(tenant, chosen):
            old = self._shelf.entries.get((tenant, chosen))
            if old is not None and old.record.state != "failed":
                raise ExtensionExistsError(
                    f"extension '{chosen}' was added already",
                    hint="choose another name with --name, or: ringfence extension reload | remove",
                )
            if not by_operator:
                await self._refuse_anothers_policy(old, tenant, chosen)
            directory = self._shelf.directory(tenant, chosen)
            taken = await self._take(source, directory, progress, pin)
            adopted = policy_file is not None or (old is not None and old.record.policy_adopted)
            if policy_file is not None:
                await anyio.to_thread.run_sync(self._policies.adopt, chosen, policy_file, tenant)
                progress(f"policy adopted as {chosen}.yaml")
            record = self._new_record(tenant, chosen, taken, adopted=adopted)
            record.operator_added = by_operator or (old is not None and old.record.operator_added)
            entry = Entry(tenant, record, directory, directory / taken.content_hash)
            self._shelf.entries[tenant, chosen] = entry
            await anyio.to_thread.run_sync(drop_all_but, directory, taken.content_hash)
            await self._loader.bring_up(entry, progress)
            return self._info(entry)

    async def reload(
        self,
        tenant: TenantId,
        name: ExtensionName,
        progress: Progress = _silent,
        *,
        by_operator: bool = True,
        pin: str | None = None,
        upgrade: bool = False,
        consent: Consent | None = None,
    ) -> ExtensionInfo:
        """Read the original again, build what changed, and replace the sandbox.

        Its packages stay as they are locked, unless ``upgrade`` says to resolve them anew. ``pin`` as in ``add``.
        A reload that fails leaves the version that was ready as it is, and its ``error`` says what failed.
        What the new version asks for beyond the old one is said; with ``consent`` (an update) it has to be agreed to:
        what its files say before anything of it is built or run, what it registers before it replaces the old one.

        Raises: as ``add``, ExtensionUnknownError, UpdateAsksMoreError.
        """
        if name == CORE_EXTENSION:
            await self._core.reload(tenant)
            return self._info(self._shelf.entry(tenant, name))
        async with self._shelf.lock(tenant, name):
            old = self._shelf.entry(tenant, name)
            if not by_operator:
                await self._refuse_anothers_policy(old, tenant, name)
            source = await anyio.to_thread.run_sync(original_source, old.record.origin)
            if source is None:
                if pin is not None and pin != old.record.content_hash:
                    raise SourceRefusedError(
                        f"the original is gone, and the stored copy is sha256:{old.record.content_hash}",
                        hint=f"the pin says sha256:{pin}: give the source again",
                    )
                progress(f"{old.record.origin.location} is gone: loading the stored copy again")
                taken = Taken(old.record.origin, old.record.content_hash, 0, 0)
            else:
                taken = await self._take(source, old.directory, progress, pin)
                await self._versions.tell_changes(old, taken, progress)
            entry = await self._replacement.replace(old, taken, progress, upgrade=upgrade, consent=consent)
            return self._info(entry)

    async def remove(self, tenant: TenantId, name: ExtensionName) -> None:
        """End the extension's sandboxes; delete its files, its environment and the policy that came with it.

        Raises: ExtensionUnknownError, ExtensionProtectedError.
        """
        _refuse_core(name, "removed")
        async with self._shelf.lock(tenant, name):
            entry = self._shelf.entry(tenant, name)
            await self._loader.stop(entry, self._loader.live(entry), "was removed")
            del self._shelf.entries[tenant, name]
            self._loader.forget_group(entry)
            self._shelf.changed(tenant)
            await anyio.to_thread.run_sync(remove_tree, entry.directory)
            # A stranger's pack that gets this name later must not inherit what was granted to this one.
            if entry.record.policy_adopted:
                await anyio.to_thread.run_sync(self._policies.remove, name, tenant)
            if self._on_removed is not None:
                await self._on_removed(tenant, name)
            await self._loader.drop_environment(entry.record.environment_key)

    async def list(self, tenant: TenantId) -> builtins.list[ExtensionInfo]:
        """All extensions of the tenant, ``core`` first, then in the order of adding."""
        return [self._info(entry) for entry in self._shelf.of(tenant)]

    async def get(self, tenant: TenantId, name: ExtensionName) -> ExtensionInfo:
        """One extension. Raises: ExtensionUnknownError."""
        if name == CORE_EXTENSION:
            return self._info(self._shelf.of(tenant)[0])
        return self._info(self._shelf.entry(tenant, name))

    # -- what the engine asks (engine.registry.NodeTypes) ------------------------------------------------------

    async def node_types(self, tenant: TenantId) -> Mapping[str, NodeType]:
        """Everything the tenant's extensions offer, as last described; starts ``core`` once if need be."""
        if not self._core.is_settled(tenant):
            await self._core.ensure(tenant)
        return self._shelf.catalog(tenant).types

    async def extension_of(self, tenant: TenantId, class_type: str) -> ExtensionName | None:
        """Who provides a class."""
        node = (await self.node_types(tenant)).get(class_type)
        return None if node is None else node.extension

    async def refresh(self, tenant: TenantId, class_types: Collection[str] | None) -> Mapping[str, NodeType]:
        """Ask the workers for the declarations anew (lists of files are live) and return all node types.

        Named classes are asked for even when their sandbox has to be started. With None only ``core`` and the
        extensions whose sandbox runs are asked, so that reading the catalogue does not start every sandbox there is;
        it has them as they were known when they are slow to answer or outdated (see ``extension_updates``), and when
        nothing happened that their answer could depend on (see ``described``).
        """
        types = await self.node_types(tenant)
        named: dict[ExtensionName, set[str]] = {}
        for class_type in class_types or ():
            if class_type in types:
                named.setdefault(types[class_type].extension, set()).add(class_type)
        ready = [entry for entry in self._shelf.of(tenant) if entry.record.state == "ready"]
        if class_types is None:
            for entry in ready:
                if entry.stale:
                    self._updates.start(entry)
            live = [entry for entry in ready if entry.core or self._loader.live(entry)]
            await self._updates.describe([entry for entry in live if not entry.stale])
            return self._shelf.catalog(tenant).types
        async with anyio.create_task_group() as tasks:
            for entry in ready:
                if entry.name in named:
                    tasks.start_soon(self._describe_named, entry, sorted(named[entry.name]))
        return self._shelf.catalog(tenant).types

    async def _describe_named(self, entry: Entry, class_types: Sequence[str]) -> None:
        try:
            if entry.stale:
                await self._updates.need(entry)
        except UpdateFailedError:
            return  # logged; the last descriptions stay
        await self._loader.describe(entry, class_types)

    def is_current(self, tenant: TenantId, class_types: Collection[str]) -> bool:
        """Whether ``make_current`` has nothing to wait for."""
        if not self._core.is_settled(tenant):
            return False
        types, entries = self._shelf.catalog(tenant).types, self._shelf.entries
        for class_type in class_types:
            known = types.get(class_type)
            entry = entries.get((tenant, known.extension)) if known is not None else None
            if entry is not None and entry.stale:
                return False
        return True

    async def make_current(self, tenant: TenantId, class_types: Collection[str]) -> None:
        """Wait until the extensions of these classes are up to date with the image and their policies.

        Raises: UpdateFailedError.
        """
        types = await self.node_types(tenant)
        names = {types[class_type].extension for class_type in class_types if class_type in types}
        for entry in self._shelf.of(tenant):
            if entry.name in names and entry.stale:
                await self._updates.need(entry)

    # -- what the API asks for the web page ----------------------------------------------------------------------

    async def pack_files(self, tenant: TenantId) -> builtins.list[PackFiles]:
        """Where the tenant's ready packs lie and what of them may be shown, in the order of adding."""
        found = []
        for entry in self._shelf.of(tenant):
            if entry.core or entry.record.state != "ready":
                continue
            try:
                policy = await self._shelf.read_policy(entry)
            except RingfenceError:
                continue  # said by whoever starts that extension
            given = Path(entry.record.origin.location.rstrip("/")).name.removesuffix(".git")
            found.append(PackFiles(entry.name, entry.code, given, entry.web_directory, policy.web_files))
        return found

    # -- small things ------------------------------------------------------------------------------------------

    async def _take(
        self, source: Path | GitSource, directory: Path, progress: Progress, pin: str | None
    ) -> Taken:
        return await take_source(
            source, directory, progress, limits=self._limits, git_limits=self._git_limits, pin=pin
        )

    def _new_record(self, tenant: TenantId, name: ExtensionName, taken: Taken, *, adopted: bool) -> Record:
        now = time.time_ns() // 1_000_000
        return Record(
            name=name,
            sequence=self._shelf.next_sequence(tenant),
            origin=taken.origin,
            state="building",
            content_hash=taken.content_hash,
            added_ms=now,
            updated_ms=now,
            policy_adopted=adopted,
        )

    async def _refuse_anothers_policy(self, old: Entry | None, tenant: TenantId, name: ExtensionName) -> None:
        if old is not None and (old.record.policy_adopted or old.record.operator_added):
            return
        if name in await anyio.to_thread.run_sync(self._policies.extensions, tenant):
            raise PolicyReservedError(
                f"the policy file {name}.yaml is there, and it was not made for this extension",
                hint="ask the operator to add the extension for this tenant, or choose another name with --name",
            )

    def _info(self, entry: Entry) -> ExtensionInfo:
        record = entry.record
        lost = self._shelf.catalog(entry.tenant).notes(entry.name)
        return ExtensionInfo(
            name=entry.name,
            tenant=entry.tenant,
            state=record.state,
            sandbox=self._loader.sandbox_state(entry),
            api=record.api,
            node_count=record.nodes,
            content_hash=record.content_hash,
            environment_key=record.environment_key,
            lock_digest=record.lock_digest,
            policy_digest=record.policy_digest,
            source=record.origin,
            error=record.failure,
            asks=record.asks,
            notes=(*record.notes, *record.load_notes, *lost, *self.sites.notes(entry)),
            core=entry.core,
            added_ms=record.added_ms,
            updated_ms=record.updated_ms,
            outdated=self._updates.note(entry),
        )


def _refuse_core(name: ExtensionName, what: str) -> None:
    if name.lower() == CORE_EXTENSION:
        raise ExtensionProtectedError(
            f"extension '{CORE_EXTENSION}' is built in and cannot be {what}",
            hint="choose another name with --name",
        )

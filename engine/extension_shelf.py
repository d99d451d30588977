"""The extensions of all tenants as the host holds them: in memory, on disk, and as one catalogue per tenant.

Reads and writes records; starts nothing and builds nothing (``extension_loader`` does).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.to_thread

from engine.described import Described
from engine.extension_catalog import Catalog, Offer, make_catalog
from engine.extension_errors import ExtensionUnknownError
from engine.extension_files import hash_tree
from engine.extension_records import Origin, Record, read_record, write_record
from engine.registry import private_areas
from engine.route_paths import RoutePath, read_routes
from policies import (
    CORE_EXTENSION,
    EffectivePolicy,
    ExtensionName,
    NameInvalidError,
    PolicyStore,
    TenantId,
    parse_extension_name,
    parse_tenant_id,
    safe_text,
)
from sandbox import KeptLock, Places
from sandbox.calls import LoadedExtension, NodeDescription, NodeReplacement


@dataclass(slots=True)
class Entry:
    """One extension of one tenant in memory."""

    tenant: TenantId
    record: Record
    directory: Path
    """Holds its record, its descriptions and its copies."""
    code: Path
    """The copy that sandboxes mount."""
    nodes: dict[str, NodeDescription] = field(default_factory=dict)
    site: Path | None = None
    """Its environment's site-packages."""
    group: str | None = None
    """Its sandbox group, as its policy said last."""
    private_areas: frozenset[str] = frozenset()
    """Of output and temp: those of which its sandbox sees its own folder only, as its policy said last."""
    web_directory: str | None = None
    """Of the pack's browser files, relative to ``code``; said by its worker, so it is looked at before it is used."""
    routes: tuple[RoutePath, ...] = ()
    """HTTP routes that can be reached at ComfyUI's path."""
    route_count: int = 0
    """All HTTP routes."""
    route_names: frozenset[str] = frozenset()
    """Each as ``GET /path``."""
    prompt_handlers: int = 0
    may_serve: bool = False
    """Whether its policy allowed routes and prompt handlers when it was read last."""
    loading: bool = False
    stale: bool = False
    """The descriptions at hand are of another policy, image or content."""
    node_replacements: tuple[NodeReplacement, ...] = ()
    """Old classes that it names successors for."""
    lock: KeptLock | None = None
    """Of the environment that was built last; written down once it is known to be good."""
    upgrade: bool = False
    """Its packages are to be resolved anew."""
    described: Described | None = None
    """When its worker was asked last for all nodes, and what the answer depended on."""

    def take(self, loaded: LoadedExtension | None) -> None:
        """Hold what its worker said of it; None: nothing is known."""
        self.nodes = {} if loaded is None else {node.class_type: node for node in loaded.nodes}
        self.web_directory = None if loaded is None else loaded.web_directory
        self.routes = () if loaded is None else read_routes(loaded.routes)
        self.route_count = 0 if loaded is None else len(loaded.routes)
        self.route_names = frozenset(
            f"{safe_text(method, 16)} {safe_text(path, 200)}"
            for method, path in (loaded.routes if loaded else ())
        )
        self.prompt_handlers = 0 if loaded is None else loaded.prompt_handlers
        self.node_replacements = () if loaded is None else loaded.node_replacements

    @property
    def name(self) -> ExtensionName:
        """The extension's name."""
        return ExtensionName(self.record.name)

    @property
    def core(self) -> bool:
        """True for the built-in nodes."""
        return self.record.origin.kind == "built-in"


@dataclass(frozen=True, slots=True)
class GroupEnvironment:
    """The environment that the members of a sandbox group have together."""

    made_of: tuple[tuple[str | None, ...], ...]
    """Name, content and image of each member it was made for."""
    key: str | None
    site: Path | None


class Shelf:
    """Every extension that the host knows."""

    def __init__(self, places: Places, core_code: Path, policies: PolicyStore) -> None:
        self._places = places
        self._policies = policies
        self._catalogs: dict[TenantId, Catalog] = {}
        self._locks: dict[tuple[TenantId, ExtensionName], anyio.Lock] = {}
        self.core_code = core_code
        self.core_hash = ""
        self.entries: dict[tuple[TenantId, ExtensionName], Entry] = {}
        self.group_environments: dict[tuple[TenantId, str], GroupEnvironment] = {}

    async def open(self) -> list[Entry]:
        """Read what is on disk; the entries are on the shelf but not yet looked into."""
        self.core_hash = await anyio.to_thread.run_sync(hash_tree, self.core_code)
        for tenant, name, record in await anyio.to_thread.run_sync(lambda: list(self._stored())):
            directory = self.directory(tenant, name)
            self.entries[tenant, name] = Entry(tenant, record, directory, directory / record.content_hash)
        return list(self.entries.values())

    def of(self, tenant: TenantId) -> list[Entry]:
        """The tenant's extensions, ``core`` first, then in the order of adding."""
        entries = [entry for key, entry in self.entries.items() if key[0] == tenant and not entry.core]
        core = self.entries.get((tenant, CORE_EXTENSION)) or self.core_entry(tenant)
        return [core, *sorted(entries, key=lambda entry: entry.record.sequence)]

    def next_sequence(self, tenant: TenantId) -> int:
        """The place of an extension that is added now."""
        return max(entry.record.sequence for entry in self.of(tenant)) + 1

    def uses_environment(self, key: str) -> bool:
        """True when some extension or sandbox group of some tenant needs that environment."""
        keys = {entry.record.environment_key for entry in self.entries.values()}
        return key in keys or any(group.key == key for group in self.group_environments.values())

    def core_entry(self, tenant: TenantId) -> Entry:
        """A fresh entry for the built-in nodes, not yet on the shelf."""
        record = Record(
            name=CORE_EXTENSION,
            sequence=0,
            origin=Origin(kind="built-in", location=str(self.core_code)),
            state="ready",
            content_hash=self.core_hash,
            added_ms=0,
            updated_ms=0,
        )
        return Entry(tenant, record, self.directory(tenant, CORE_EXTENSION), self.core_code)

    def entry(self, tenant: TenantId, name: ExtensionName) -> Entry:
        """Raises: ExtensionUnknownError."""
        entry = self.entries.get((tenant, name))
        if entry is None:
            raise ExtensionUnknownError(f"there is no extension '{name}'", hint="ringfence extension list")
        return entry

    def catalog(self, tenant: TenantId) -> Catalog:
        """Who offers which node class to the tenant, as last described."""
        catalog = self._catalogs.get(tenant)
        if catalog is None:
            catalog = self._catalogs[tenant] = make_catalog(
                Offer(
                    entry.name,
                    entry.nodes,
                    entry.record.sequence,
                    entry.core,
                    entry.group,
                    entry.private_areas,
                    entry.record.version,
                    entry.node_replacements,
                )
                for key, entry in self.entries.items()
                if key[0] == tenant and entry.nodes
            )
        return catalog

    def changed(self, tenant: TenantId) -> None:
        """Forget the tenant's catalogue: an entry's nodes, group or presence changed."""
        self._catalogs.pop(tenant, None)

    def policy_file(self, extension: ExtensionName, tenant: TenantId) -> str:
        """The file that says what the extension may use, or would; for errors."""
        return self._policies.place_to_write(extension, tenant)

    async def read_policy(self, entry: Entry) -> EffectivePolicy:
        """The extension's policy as it is now. Raises: PolicyError."""
        policy = await anyio.to_thread.run_sync(self._policies.effective, entry.name, entry.tenant)
        entry.may_serve = policy.routes
        seen = (policy.group, private_areas(policy))
        if (entry.group, entry.private_areas) != seen:
            entry.group, entry.private_areas = seen
            self.changed(entry.tenant)
        return policy

    async def save(self, entry: Entry) -> None:
        """Write the entry's record."""
        entry.record.updated_ms = time.time_ns() // 1_000_000
        self.changed(entry.tenant)
        await anyio.to_thread.run_sync(write_record, entry.directory, entry.record)

    def lock(self, tenant: TenantId, name: ExtensionName) -> anyio.Lock:
        """Held by whoever changes the extension."""
        return self._locks.setdefault((tenant, name), anyio.Lock())

    def tenant_directory(self, tenant: TenantId) -> Path:
        """The tenant's own tree."""
        return self._places.tenant(tenant)

    def directory(self, tenant: TenantId, name: ExtensionName) -> Path:
        """Where the extension's files lie."""
        return self._places.tenant(tenant) / "extensions" / name

    def _stored(self) -> Iterator[tuple[TenantId, ExtensionName, Record]]:
        for directory in sorted((self._places.data / "tenants").glob("*/extensions/*")):
            try:
                tenant = parse_tenant_id(directory.parent.parent.name)
                name = parse_extension_name(directory.name)
            except NameInvalidError:
                continue
            record = read_record(directory)
            if record is not None and record.name == name and name != CORE_EXTENSION:
                yield tenant, name, record

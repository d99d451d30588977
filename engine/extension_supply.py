"""What an extension is made of, for people who have to answer for it: verify, bill of materials, known vulnerabilities.

Reads what lies on the disk; starts no sandbox and reaches no network.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import anyio
import anyio.to_thread

from engine.extension_pins import check_content
from engine.extension_ports import EnvironmentKeeper
from engine.extension_shelf import Entry, Shelf
from policies import CORE_EXTENSION, ExtensionName, RingfenceError, TenantId, safe_text
from sandbox import AdvisoryDatabase, DatabaseFacts, Finding, Inventory, Subject, make_bill

_INVENTORIES_KEPT: Final = 256


@dataclass(frozen=True, slots=True)
class Verified:
    """Whether what lies on the disk is what was pinned and built."""

    name: ExtensionName
    content_hash: str
    environment_key: str | None
    lock_digest: str | None
    problems: tuple[str, ...]
    """Empty when all is as it was."""


@dataclass(frozen=True, slots=True)
class Audit:
    """What is known of the packages that an extension can import."""

    name: ExtensionName
    packages: int
    findings: tuple[Finding, ...]
    database: DatabaseFacts


class Supply:
    """Answers for the extensions on the shelf."""

    def __init__(
        self, shelf: Shelf, environments: EnvironmentKeeper, advisories: AdvisoryDatabase | None
    ) -> None:
        self._shelf = shelf
        self._environments = environments
        self._advisories = advisories or AdvisoryDatabase(None)
        self._inventories: dict[tuple[str | None, str], Inventory] = {}

    async def verify(self, tenant: TenantId, name: ExtensionName) -> Verified:
        """Read the pinned copy and the environment in full. Raises: ExtensionUnknownError."""
        entry = self._entry(tenant, name)
        record, problems = entry.record, []
        try:
            await anyio.to_thread.run_sync(check_content, name, entry.code, record.content_hash)
        except RingfenceError as error:
            problems.append(error.message)
        except OSError as error:
            problems.append(f"its copy cannot be read: {safe_text(error.strerror or '', 100)}")
        if record.environment_key is not None:
            try:
                await self._environments.verify(record.environment_key)
            except RingfenceError as error:
                problems.append(error.message)
        return Verified(
            name, record.content_hash, record.environment_key, record.lock_digest, tuple(problems)
        )

    async def bill_of_materials(self, tenant: TenantId, name: ExtensionName) -> str:
        """CycloneDX as JSON. Raises: ExtensionUnknownError, StartError when there is no image."""
        entry = self._entry(tenant, name)
        record = entry.record
        inventory = await self._inventory(record.environment_key)
        subject = Subject(
            name=name,
            content_hash=record.content_hash,
            kind=record.origin.kind,
            location=record.origin.location,
            commit=record.origin.commit,
            lock_digest=record.lock_digest,
        )
        return await anyio.to_thread.run_sync(make_bill, subject, inventory)

    async def audit(self, tenant: TenantId, name: ExtensionName) -> Audit:
        """Look its packages up in the operator's database.

        Raises: ExtensionUnknownError, AdvisoryDatabaseError when there is no database, StartError.
        """
        entry = self._entry(tenant, name)
        facts = await anyio.to_thread.run_sync(self._advisories.facts)
        inventory = await self._inventory(entry.record.environment_key)
        findings = await anyio.to_thread.run_sync(self._advisories.findings, inventory.packages)
        return Audit(name, len(inventory.packages), findings, facts)

    async def counts(self, tenant: TenantId) -> Mapping[ExtensionName, Mapping[str, int]]:
        """For each extension with known vulnerabilities how many of which level; empty without a database.

        What the image brings is everybody's and counts for ``core`` only.
        """
        if not self._advisories.is_set:
            return {}
        found: dict[ExtensionName, Mapping[str, int]] = {}
        for entry in self._shelf.of(tenant):
            try:
                audit = await self.audit(tenant, entry.name)
            except RingfenceError:
                return found  # said by 'extension audit' and by the doctor
            own = [each for each in audit.findings if entry.core or each.comes_from == "environment"]
            if own:
                found[entry.name] = Counter(finding.level for finding in own)
        return found

    async def _inventory(self, key: str | None) -> Inventory:
        """Environments and images do not change under their names, so each is read once."""
        image = await self._environments.image()
        known = self._inventories.get((key, image.id))
        if known is None:
            known = await self._environments.inventory(key)
            while len(self._inventories) >= _INVENTORIES_KEPT:
                del self._inventories[next(iter(self._inventories))]
            self._inventories[key, image.id] = known
        return known

    def _entry(self, tenant: TenantId, name: ExtensionName) -> Entry:
        if name == CORE_EXTENSION:
            return self._shelf.of(tenant)[0]
        return self._shelf.entry(tenant, name)

"""The extension ``core``, which every tenant has: loaded when first asked for, without a record on disk."""

from __future__ import annotations

import logging
import time
from typing import Final

import anyio
import anyio.to_thread

from engine.extension_loader import Loader, failure_of
from engine.extension_ports import EnvironmentKeeper
from engine.extension_shelf import Shelf
from policies import CORE_EXTENSION, RingfenceError, TenantId
from sandbox import remove_tree

logger = logging.getLogger(__name__)

_RETRY_S: Final = 10.0


class CoreNodes:
    """Of every tenant. Descriptions hold the names of the tenant's own files, so each tenant has its own."""

    def __init__(self, shelf: Shelf, loader: Loader, environments: EnvironmentKeeper) -> None:
        self._shelf = shelf
        self._loader = loader
        self._environments = environments
        self._failed_at: dict[TenantId, float] = {}

    async def ensure(self, tenant: TenantId) -> None:
        """Load the core nodes for a tenant unless they are there (or failed a moment ago); never raises for them."""
        if self.is_settled(tenant):
            return
        async with self._shelf.lock(tenant, CORE_EXTENSION):
            if not self.is_settled(tenant):
                await self._load(tenant)

    async def reload(self, tenant: TenantId) -> None:
        """Start the core nodes anew; a failure is on the entry."""
        async with self._shelf.lock(tenant, CORE_EXTENSION):
            entry = self._shelf.core_entry(tenant)
            await self._loader.stop(entry, self._loader.live(entry), "is loaded anew")
            await anyio.to_thread.run_sync(remove_tree, entry.directory)
            await self._load(tenant)

    def is_settled(self, tenant: TenantId) -> bool:
        """Whether they are there, or failed so lately that nobody should wait for them again."""
        known = self._shelf.entries.get((tenant, CORE_EXTENSION))
        if known is None:
            return False
        failed_at = self._failed_at.get(tenant)
        return bool(known.nodes) or (failed_at is not None and time.monotonic() < failed_at + _RETRY_S)

    async def _load(self, tenant: TenantId) -> None:
        entry = self._shelf.core_entry(tenant)
        self._shelf.entries[tenant, CORE_EXTENSION] = entry
        try:
            entry.record.policy_digest = (await self._shelf.read_policy(entry)).digest()
            entry.record.image_id = (await self._environments.image()).id
            loaded = await self._loader.stored(entry)
            if loaded is None:
                loaded = (await self._loader.manager().acquire(tenant, CORE_EXTENSION)).loaded
            await self._loader.accept(entry, loaded)
            self._failed_at.pop(tenant, None)
        except RingfenceError as error:
            # A catalogue without core nodes is of little use, but a broken engine must not take the API down.
            logger.warning("the core nodes could not be loaded for tenant %s: %s", tenant, error)
            entry.record.state, entry.record.failure = "failed", failure_of(error)
            self._failed_at[tenant] = time.monotonic()

"""What tenants keep between their prompts: results, and node objects in workers; and how they let go of them.

A prompt finds what the one before left (``cache.py``, ``instances.py``); here is when workers are told of what is over.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import anyio

from engine.cache import CacheMode, Result, ResultCache
from engine.instances import Instances
from engine.node_calls import Workbench
from engine.storage import QueuedPrompt
from policies import RingfenceError, SandboxId, TenantId

CLEANUP_S: Final = 10.0
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Kept:
    """One tenant's."""

    cache: ResultCache
    instances: Instances = field(default_factory=Instances)


class Belongings:
    """Every tenant's."""

    def __init__(self, bench: Workbench, mode: CacheMode, cache_bytes: int) -> None:
        self._bench = bench
        self._mode = mode
        self._cache_bytes = cache_bytes
        self._tenants: dict[TenantId, Kept] = {}

    def of(self, tenant: TenantId) -> Kept:
        """A tenant's; nothing yet, where it has run no prompt."""
        known = self._tenants.get(tenant)
        if known is None:
            cache = ResultCache(self._mode, self._cache_bytes, self._is_usable)
            known = self._tenants[tenant] = Kept(cache)
        return known

    def clear(self) -> None:
        """No tenant's results are kept any more."""
        for tenant in self._tenants.values():
            tenant.cache.clear()

    async def free(self, tenant: TenantId, *, results: bool) -> None:
        """Drop the tenant's node objects in workers and, when asked, its cached results and the memory they were in."""
        known = self._tenants.get(tenant)
        if known is not None:
            if results:
                known.cache.clear()
            for session in known.instances.take_all():
                await _quietly(session.drop_instances, ())
            for session, handles in self._bench.ledger.take_dead_handles():
                await _quietly(session.release_handles, handles)
        if results:  # last: what the cache let go of is what waits to be filled again
            await self._bench.store.give_back(tenant)

    def give_way(self, tenant: TenantId, sandbox: SandboxId | None, nbytes: int) -> None:
        """Memory is short: let the tenant's cache give back ``nbytes``. What running prompts hold stays.

        Where one sandbox's own cap is in the way the whole cache goes, since it does not know who made what.
        """
        known = self._tenants.get(tenant)
        if known is not None and sandbox is None:
            known.cache.shrink(nbytes)
        elif known is not None:
            known.cache.clear()

    async def drop_stale(self, kept: Kept, running: Iterable[QueuedPrompt]) -> None:
        """A prompt begins: forget the node objects that none of the tenant's ``running`` prompts names."""
        if self._mode.kind == "none":
            return  # each prompt drops its own
        roots = {(node_id, entry["class_type"]) for row in running for node_id, entry in row.prompt.items()}
        for session, instances in kept.instances.take_stale(roots):
            await _quietly(session.drop_instances, instances)

    async def clean_up(self, prompt_id: str, kept: Kept) -> None:
        """Tell workers what they need no longer hold; shielded, where there is something to tell."""
        dead = self._bench.ledger.take_dead_handles()
        owned = kept.instances.take_owned(prompt_id) if self._mode.kind == "none" else []
        if not dead and not owned:
            return
        with anyio.move_on_after(CLEANUP_S, shield=True):
            for session, handles in dead:
                await _quietly(session.release_handles, handles)
            for session, instances in owned:
                await _quietly(session.drop_instances, instances)

    def _is_usable(self, result: Result) -> bool:
        return all(map(self._bench.sessions.is_alive, result.sandboxes)) and all(
            self._bench.ledger.is_intact(value) for slot in result.slots for value in slot
        )


async def _quietly(call: Callable[[Any], Any], argument: Any) -> None:
    """Tell a worker to let go of something; one that is gone has done so."""
    try:
        await call(argument)
    except RingfenceError as error:
        _log.debug("a worker could not be told to let go: %s", error)

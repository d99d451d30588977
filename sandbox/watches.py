"""Who is watched, and how a watched sandbox comes and goes; what a watch sees is ``watching.py``'s."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import anyio
import anyio.lowlevel

from policies import ExtensionName, TenantId
from sandbox.errors import WatchedError
from sandbox.planning import Planner
from sandbox.spares import Owner
from sandbox.tenancy import Tenancy
from sandbox.watching import Watch

_GONE_S: Final = 60.0


class Watches:
    """One watch for each extension (or group) of a tenant, at most.

    ``serving``: the sandboxes of one that take new calls; ``make_way``: end such a sandbox, for a reason, once its
    calls are done.
    """

    def __init__(
        self,
        planner: Planner,
        serving: Callable[[Owner], Sequence[Tenancy]],
        make_way: Callable[[Tenancy, str], None],
    ) -> None:
        self._planner = planner
        self._serving = serving
        self._make_way = make_way
        self._watches: dict[Owner, Watch] = {}

    def __len__(self) -> int:
        return len(self._watches)

    def of(self, owner: Owner) -> Watch | None:
        """The watch over what starts for this one."""
        return self._watches.get(owner)

    @asynccontextmanager
    async def watch(self, tenant: TenantId, extension: ExtensionName) -> AsyncIterator[Watch]:
        """As ``SandboxManager.watch``."""
        plan = await self._planner.plan(tenant, extension)
        owner = plan.key.whose
        if owner in self._watches:
            raise WatchedError(
                f"extension '{extension}' is being watched already", "wait until that has ended"
            )
        watch = self._watches[owner] = Watch(tenant, [files.name for files in plan.files])
        try:
            for tenancy in self._serving(owner):
                self._make_way(tenancy, "a watched one takes its place")
            await anyio.lowlevel.checkpoint()
            yield watch
        finally:
            del self._watches[owner]
            watched = self._serving(owner)
            for tenancy in watched:
                self._make_way(tenancy, "the watch over it has ended")
            # Longer only while somebody else's call runs in it.
            with anyio.move_on_after(_GONE_S, shield=True):
                for tenancy in watched:
                    await tenancy.sandbox.gone()

"""The sandboxes as operators see them: what state each is in, what it uses, what was printed in it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from policies import ExtensionName, SandboxId, TenantId
from sandbox.launcher.verbs import Launcher, Usage
from sandbox.lifecycle import Sandbox
from sandbox.logbook import Logbook, LogLine
from sandbox.tenancy import Tenancy

_LOGS_KEPT: Final = 64


class SandboxState(StrEnum):
    """Where a sandbox is in its life."""

    SPARE = "spare"
    STARTING = "starting"
    WARM = "warm"
    BUSY = "busy"
    ENDING = "ending"


@dataclass(frozen=True, slots=True)
class SandboxInfo:
    """One sandbox as operators see it."""

    id: SandboxId
    tenant: TenantId
    extensions: tuple[ExtensionName, ...]
    state: SandboxState
    started: datetime
    policy_digest: str
    container: str | None
    memory_used: int | None
    """As of the last ``refresh``; None when it cannot be read."""
    memory_limit: int
    pids_used: int | None
    pids_limit: int
    group: str | None = None
    """The sandbox group whose members the extensions are."""
    at_rest: int | None = None
    """How much its packs have done so far: the same number again, and nothing was. None: they do something now."""


class Overview:
    """Of ``everyone`` that lives, and of the logs of the last ones that ended."""

    def __init__(self, everyone: Mapping[SandboxId, Tenancy], launcher: Launcher) -> None:
        self._everyone = everyone
        self._launcher = launcher
        self._usage: dict[SandboxId, Usage] = {}
        self._old_logs: OrderedDict[SandboxId, tuple[TenantId, Logbook]] = OrderedDict()

    def list(self, tenant: TenantId | None) -> list[SandboxInfo]:
        """The sandboxes of a tenant, or all, oldest first."""
        return [self._info(each) for each in self._everyone.values() if tenant in (None, each.sandbox.tenant)]

    async def refresh(self) -> None:
        """Read what each sandbox uses now, for the next ``list``."""
        for sandbox in list(self._everyone):
            self._usage[sandbox] = await self._launcher.stats(sandbox)

    def logs(self, tenant: TenantId, sandbox: SandboxId, limit: int) -> Sequence[LogLine]:
        """What was printed in a sandbox of the tenant's; empty when it has none of that id."""
        tenancy = self._everyone.get(sandbox)
        if tenancy is not None and tenancy.sandbox.tenant == tenant:
            return tenancy.sandbox.logbook.lines(limit)
        owner, logbook = self._old_logs.get(sandbox, (None, None))
        return logbook.lines(limit) if logbook is not None and owner == tenant else []

    def ended(self, sandbox: Sandbox) -> None:
        """Keep what was printed in it."""
        self._usage.pop(sandbox.id, None)
        self._old_logs[sandbox.id] = (sandbox.tenant, sandbox.logbook)
        if len(self._old_logs) > _LOGS_KEPT:
            self._old_logs.popitem(last=False)

    def _info(self, tenancy: Tenancy) -> SandboxInfo:
        sandbox = tenancy.sandbox
        used = self._usage.get(sandbox.id, Usage())
        return SandboxInfo(
            id=sandbox.id,
            tenant=sandbox.tenant,
            extensions=sandbox.request.names,
            group=sandbox.request.group,
            state=state_of(sandbox),
            started=sandbox.started_at,
            policy_digest=tenancy.key.policy_digest,
            container=sandbox.launched.container if sandbox.launched else None,
            memory_used=used.memory,
            memory_limit=sandbox.policy.memory,
            pids_used=used.pids,
            pids_limit=sandbox.policy.pids,
            at_rest=sandbox.at_rest,
        )


def state_of(sandbox: Sandbox) -> SandboxState:
    """Where it is in its life."""
    if sandbox.is_ending:
        return SandboxState.ENDING
    if sandbox.is_spare:
        return SandboxState.SPARE
    if sandbox.is_starting:
        return SandboxState.STARTING
    return SandboxState.BUSY if sandbox.in_use else SandboxState.WARM

"""What a call for a tenant's extension needs: which policy, which files, and the key of the sandboxes that are right.

A sandbox serves one tenant, extension (or sandbox group), policy digest, content and environment; with any of them
changed the key is another, and so is the sandbox.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import Final

import anyio.to_thread

from policies import EffectivePolicy, ExtensionName, PolicyStore, SandboxGroup, TenantId
from sandbox.extension_source import ExtensionFiles, ExtensionSource
from sandbox.launcher.failure import whose
from sandbox.spares import Owner

POLICY_FRESH_S: Final = 1.0
"""How old a reading of the policy files may be; an edit holds from the next start after that."""
_MOST_PLANS: Final = 1_024
"""Plans that are remembered; whoever was removed has none for long."""


@dataclass(frozen=True, slots=True)
class Key:
    """What a sandbox was started for."""

    tenant: TenantId
    unit: str
    """``extension:<name>`` or ``group:<name>``."""
    policy_digest: str
    content: str

    @property
    def whose(self) -> Owner:
        """A tenant and its extension or group, whatever their content and policy."""
        return (self.tenant, self.unit)

    @property
    def owner(self) -> str:
        """Who is held back when it keeps dying: another content or policy is another matter."""
        return "/".join((self.tenant, self.unit, self.policy_digest, self.content))


@dataclass(frozen=True, slots=True)
class Plan:
    """What a sandbox would be started with now."""

    key: Key
    policy: EffectivePolicy
    files: tuple[ExtensionFiles, ...]

    @property
    def who(self) -> str:
        """Whose sandbox it would be, in an error's words."""
        return whose([item.name for item in self.files], self.policy.group)


class Planner:
    """Reads policies and files; remembers a policy for a moment, because a prompt asks for it node by node."""

    def __init__(self, policies: PolicyStore, extensions: ExtensionSource) -> None:
        self._policies = policies
        self._extensions = extensions
        self._read: dict[tuple[TenantId, ExtensionName], tuple[float, EffectivePolicy]] = {}
        self._plans: dict[tuple[TenantId, ExtensionName], Plan] = {}

    async def plan(self, tenant: TenantId, extension: ExtensionName) -> Plan:
        """As of now.

        Raises:
            PolicyError: its policy on disk is wrong.
            StartError: its files are not ready to run.
        """
        policy = await self._policy(tenant, extension)
        if policy.group:
            files = await self._extensions.group_files(tenant, policy.group, extension)
        else:
            files = (await self._extensions.files(tenant, extension),)
        known = self._plans.get((tenant, extension))
        if known is not None and known.policy is policy and known.files == files:
            return known
        content = hashlib.sha256()
        for item in files:
            content.update(f"{item.name}\0{item.content_hash}\0{item.environment}\0".encode())
        key = Key(tenant, _unit(extension, policy.group), policy.digest(), content.hexdigest())
        if len(self._plans) >= _MOST_PLANS:
            self._plans.clear()
        plan = self._plans[tenant, extension] = Plan(key, policy, files)
        return plan

    def last_unit(self, tenant: TenantId, extension: ExtensionName) -> str:
        """Whose sandbox it was when it was last asked for: its own, or its group's."""
        known = self._read.get((tenant, extension))
        return _unit(extension, known[1].group if known else None)

    async def _policy(self, tenant: TenantId, extension: ExtensionName) -> EffectivePolicy:
        known = self._read.get((tenant, extension))
        if known is not None and time.monotonic() - known[0] < POLICY_FRESH_S:
            return known[1]
        policy = await anyio.to_thread.run_sync(self._policies.effective, extension, tenant)
        if policy.group:  # members that differ are an error of the files: say it before anything is started
            group = SandboxGroup(policy.group)
            policy = await anyio.to_thread.run_sync(self._policies.effective_group, group, tenant)
        self._read[tenant, extension] = (time.monotonic(), policy)
        return policy


def _unit(extension: ExtensionName, group: str | None) -> str:
    return f"group:{group}" if group else f"extension:{extension}"

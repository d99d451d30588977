"""What a request of the host may name: the launcher's answer to a host that somebody else has taken over.

The host says which tenant, which extensions and which policy it means. Here it is checked that those belong together
and lie where this instance keeps them; what they may then do follows from the policies on disk alone (``docker.py``
reads them again and compares the digest), and that no path is a link is seen to in ``mounts.py``, as late as can be.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from policies import (
    CORE_EXTENSION,
    EffectivePolicy,
    ExtensionName,
    PolicyStore,
    Quotas,
    SandboxGroup,
    SandboxId,
    TenantId,
    safe_text,
)
from sandbox.errors import StartError
from sandbox.extension_source import ExtensionFiles
from sandbox.figures import human_bytes
from sandbox.launcher import channel
from sandbox.launcher.build_verb import SITE
from sandbox.launcher.verbs import SandboxRequest
from sandbox.places import Places

_KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}\Z")


@dataclass(frozen=True, slots=True)
class Part:
    """What one sandbox takes of what its tenant may have."""

    tenant: TenantId
    memory: int


@dataclass(frozen=True, slots=True)
class Admission:
    """A request that may be served if its tenant has room for it."""

    request: SandboxRequest
    part: Part
    quotas: Quotas

    def check_room(self, others: Collection[Part]) -> None:
        """``others``: the parts of all sandboxes that live or are being started, of every tenant.

        Raises:
            StartError: with this one its tenant would have more than the quotas on disk say.
        """
        quotas, tenant = self.quotas, self.part.tenant
        own = [part.memory for part in others if part.tenant == tenant]
        advice = "stop one, or raise the quota in default.yaml; try again if it just changed"
        if quotas.sandboxes is not None and len(own) >= quotas.sandboxes:
            raise StartError(
                f"tenant '{tenant}' has {len(own)} sandboxes, as many as its quota 'sandboxes' allows "
                f"({quotas.source('sandboxes')})",
                advice,
            )
        if quotas.memory is not None and sum(own) + self.part.memory > quotas.memory:
            raise StartError(
                f"the sandboxes of tenant '{tenant}' have {human_bytes(sum(own))} and this one wants "
                f"{human_bytes(self.part.memory)}; its quota 'memory' is {human_bytes(quotas.memory)} "
                f"({quotas.source('memory')})",
                advice,
            )


@dataclass(frozen=True, slots=True)
class Gate:
    """Checks requests against one instance's places and policies. Blocking: it reads files."""

    places: Places
    policies: PolicyStore
    trusted_sources: tuple[Path, ...] = ()
    """Directories of the built-in nodes."""
    build_network: str = ""
    """Of builds; for who asks."""

    def sandbox(self, asked: channel.Ensure) -> SandboxRequest:
        """The request that ``asked`` stands for.

        Raises:
            StartError: it names something that is not this tenant's, or extensions that do not share a sandbox.
            PolicyError: a policy on disk is wrong.
        """
        tenant = TenantId(asked.tenant)
        names = [ExtensionName(code.name) for code in asked.extensions]
        self._check_company(names, asked.group)
        files = tuple(self._files(tenant, code) for code in asked.extensions)
        return SandboxRequest(SandboxId(asked.sandbox), tenant, files, asked.policy_digest, asked.group)

    def admission(self, asked: channel.Ensure) -> Admission:
        """The same, with what it would take of what its tenant may have.

        Raises: as ``sandbox``.
        """
        request = self.sandbox(asked)
        if asked.group is None:
            policy = self.policies.effective(request.names[0], request.tenant)
        else:
            policy = self.policies.effective_group(SandboxGroup(asked.group), request.tenant)
        return Admission(request, Part(request.tenant, policy.memory), self.policies.quotas(request.tenant))

    def build_policy(self, asked: channel.Build) -> EffectivePolicy:
        """The policy under which ``asked`` is built.

        Raises:
            StartError: the build wants what that policy does not allow, or names no extension.
            PolicyError: a policy on disk is wrong.
        """
        tenant = TenantId(asked.tenant)
        if asked.group is not None:
            policy = self.policies.effective_group(SandboxGroup(asked.group), tenant)
        elif asked.extension is not None:
            policy = self.policies.effective(ExtensionName(asked.extension), tenant)
        else:
            raise StartError("a build names neither an extension nor a sandbox group")
        # Build tools are for builds from source.
        from_source = asked.source_builds or asked.step == "tools"
        for key, wanted, allowed in (
            ("network", asked.network, policy.build.network),
            ("source_builds", from_source, policy.build.source_builds),
        ):
            if wanted and not allowed:
                raise StartError(
                    f"a build asks for build.{key}, which the policy of {_whose(asked)} does not allow "
                    f"({policy.source(f'build.{key}')})",
                    f"write 'build: {{{key}: true}}' in its policy if it should, or try again if it just changed",
                )
        return policy

    def _check_company(self, names: list[ExtensionName], group: str | None) -> None:
        if len(set(names)) != len(names):
            raise StartError(f"an extension is named twice: {', '.join(names)}")
        if group is None:
            if len(names) > 1:
                raise StartError(
                    f"the extensions {', '.join(names)} share no sandbox",
                    "write 'group: NAME' in the policy of each",
                )
            return
        members = self.policies.members(SandboxGroup(group))
        for name in names:
            if name not in members:
                raise StartError(
                    f"extension '{name}' is no member of the sandbox group '{group}' by its policy",
                    f"write 'group: {group}' in it, or try again if it just changed",
                )

    def _files(self, tenant: TenantId, code: channel.Code) -> ExtensionFiles:
        source, name = Path(code.source), ExtensionName(code.name)
        is_core = name == CORE_EXTENSION
        own = self.places.tenant(tenant) / "extensions" / name
        # By component, as written: that no component is a link is checked when it is mounted.
        allowed = source in self.trusted_sources if is_core else _is_child(source, own)
        if not allowed:
            raise StartError(
                f"the code of extension '{name}' does not lie where that of tenant '{tenant}' lies",
                f"add it with 'ringfence extension add' (asked for: {safe_text(str(source), 300)})",
            )
        environment = None if code.environment is None else Path(code.environment)
        if environment is not None and not (
            environment.name == SITE
            and environment.parent.parent == self.places.environments
            and _KEY.match(environment.parent.name)
        ):
            raise StartError(f"no environment lies at {safe_text(str(environment), 300)}")
        return ExtensionFiles(name, source, environment, content_hash="", core=is_core)


def _is_child(path: Path, directory: Path) -> bool:
    return path.parent == directory and path.name not in ("", ".", "..")


def _whose(asked: channel.Build) -> str:
    return f"sandbox group '{asked.group}'" if asked.group else f"extension '{asked.extension}'"

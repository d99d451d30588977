"""The questions about policies: what holds, for whom, and whether a file would do. The files are `files.py`.

Files are looked at on every question, parsed and merged only when they changed, so an edit holds from the next sandbox
start on, in the launcher as in the host, without a signal. Nothing in a pack's own directory is ever read:
a pack's suggestion becomes a policy only when the operator adopts it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from policies.difference import compare
from policies.errors import PolicyError, place
from policies.files import SHIPPED, PolicyFiles
from policies.load import Loaded, load_defaults, load_policy, read_file
from policies.merge import merge
from policies.model import DefaultsFile, EffectivePolicy, PartialPolicy
from policies.names import (
    LOCAL_TENANT,
    ExtensionName,
    SandboxGroup,
    TenantId,
    parse_extension_name,
    parse_tenant_id,
)
from policies.path_entries import HostPath
from policies.quotas import QUOTA_KEYS, PartialQuotas, Quotas, merged_quotas
from policies.schema import defaults_schema, policy_schema

_KEPT: Final = 4096
"""Merged policies that are kept."""


@dataclass(frozen=True, slots=True)
class _Merged:
    own: Loaded[PartialPolicy] | None
    defaults: Loaded[DefaultsFile]
    policy: EffectivePolicy


class PolicyStore:
    """Reads, checks and keeps policies; cheap to make, safe to share between threads."""

    def __init__(
        self, directory: Path, *, adopted: Path | None = None, protected: Sequence[Path] = ()
    ) -> None:
        """`adopted`: where `adopt` writes, if not into `directory`, whose files then win over the adopted ones."""
        self._files = PolicyFiles(directory, adopted)
        self.directory = self._files.directory
        self._protected = (self.directory, self._files.adopted, *protected)
        self._known: dict[tuple[ExtensionName | None, TenantId], _Merged] = {}
        """Under None that of all extensions that have no file of their own."""

    def fingerprint(self) -> str:
        """A digest of every policy file as it lies on the disk: who has the same one goes by the same files."""
        return self._files.fingerprint()

    def effective(self, extension: ExtensionName, tenant: TenantId = LOCAL_TENANT) -> EffectivePolicy:
        """What `extension` may use for `tenant`, from the files as they are now.

        Raises: PolicyError and its kinds when a file on disk is wrong (nothing is started on a guess).
        """
        tenant = parse_tenant_id(tenant)
        extension = parse_extension_name(extension)
        own, defaults = self._files.extension(extension, tenant), self._defaults()
        whose = extension if own is not None else None, tenant
        known = self._known.get(whose)
        # The very objects that it was made of: a file that changed is another one.
        if known is not None and known.own is own and known.defaults is defaults:
            return known.policy
        policy = self._merged(own, defaults, tenant)
        if not any(isinstance(entry, HostPath) for entry in policy.paths):  # those are looked at each time
            if len(self._known) >= _KEPT:
                self._known.clear()
            self._known[whose] = _Merged(own, defaults, policy)
        return policy

    def effective_group(self, group: SandboxGroup, tenant: TenantId = LOCAL_TENANT) -> EffectivePolicy:
        """The one policy of a sandbox group: all members' policies must be equal.

        Raises: PolicyError naming the member and the key that differ, or that the group is empty.
        """
        members = self.members(group, tenant)
        if not members:
            raise PolicyError(
                f"no policy names the sandbox group '{group}'",
                hint=f"write 'group: {group}' in the members' files",
            )
        first, *rest = ((name, self.effective(name, tenant)) for name in members)
        for name, policy in rest:
            if policy.digest() != first[1].digest():
                raise _group_difference(group, first, (name, policy))
        return first[1]

    def members(self, group: SandboxGroup, tenant: TenantId = LOCAL_TENANT) -> tuple[ExtensionName, ...]:
        """The extensions of `tenant` whose files name `group`, by name."""
        tenant = parse_tenant_id(tenant)
        loaded = ((name, self._files.extension(name, tenant)) for name in self.extensions(tenant))
        return tuple(name for name, policy in loaded if policy and policy.value.group == group)

    def extensions(self, tenant: TenantId = LOCAL_TENANT) -> tuple[ExtensionName, ...]:
        """The extensions of `tenant` that have a file of their own (or a shipped one), by name."""
        return self._files.extensions(parse_tenant_id(tenant))

    def tenants(self) -> tuple[TenantId, ...]:
        """The tenants that have policies of their own or a section in `default.yaml`."""
        return self._files.tenants()

    def quotas(self, tenant: TenantId) -> Quotas:
        """What `tenant` may use in all, from the file as it is now.

        Raises: PolicyError and its kinds when `default.yaml` is wrong.
        """
        defaults = self._defaults()
        own = (defaults.value.tenants or {}).get(tenant)
        layers: list[tuple[PartialQuotas | None, dict[str, str]]] = []
        for partial, path in (
            (defaults.value.quotas, ("quotas",)),
            (own.quotas if own else None, ("tenants", tenant, "quotas")),
        ):
            lines = {
                key: place(defaults.file, defaults.tree.position((*path, key))[0])
                for key in QUOTA_KEYS
                if partial is not None and getattr(partial, key) is not None
            }
            layers.append((partial, lines))
        return merged_quotas(layers)

    def place_to_write(self, extension: ExtensionName, tenant: TenantId = LOCAL_TENANT) -> str:
        """Which of the operator's files says what this extension may use, or is to be made for that; for errors."""
        return self._files.place_to_write(parse_extension_name(extension), parse_tenant_id(tenant))

    def check(self, file: Path, tenant: TenantId = LOCAL_TENANT) -> EffectivePolicy:
        """The effective policy that `file` would give here; a file named default.yaml is checked as such.

        Raises: PolicyError and its kinds, or FileNotFoundError.
        """
        raw, _ = read_file(file, str(file))
        if file.name != "default.yaml":
            return self._merged(load_policy(raw, str(file)), self._defaults(), tenant)
        defaults = load_defaults(raw, str(file))
        for name in defaults.value.tenants or ():
            self._merged(None, defaults, parse_tenant_id(name))
        return self._merged(None, defaults, tenant)

    def check_text(self, text: str, name: str, tenant: TenantId = LOCAL_TENANT) -> EffectivePolicy:
        """As ``check``, of an extension's policy that is in no file; errors call it ``name``.

        Raises: PolicyError and its kinds.
        """
        return self._merged(load_policy(text.encode(), name), self._defaults(), tenant)

    def adopt(self, extension: ExtensionName, file: Path, tenant: TenantId = LOCAL_TENANT) -> EffectivePolicy:
        """Make `file` the policy of the tenant's `extension`, if it is a valid one, and say what holds from now on.

        What was checked is what is written: the file is read once. It holds from the next sandbox start on.

        Raises: PolicyError and its kinds, or FileNotFoundError; the old policy then stays.
        """
        tenant = parse_tenant_id(tenant)
        target = self._files.target(parse_extension_name(extension), tenant)
        raw, _ = read_file(file, str(file))
        loaded = load_policy(raw, str(file))
        effective = self._merged(loaded, self._defaults(), tenant)
        self._check_not_overruled(extension, tenant, loaded.value)
        _write(target, raw)
        return effective

    def remove(self, extension: ExtensionName, tenant: TenantId = LOCAL_TENANT) -> bool:
        """Drop the policy of the tenant's extension; the defaults hold again. False if there was none."""
        try:
            self._files.target(parse_extension_name(extension), parse_tenant_id(tenant)).unlink()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    @staticmethod
    def schema() -> dict[str, dict[str, Any]]:
        """JSON Schemas for editors: `extension` for `<extension>.yaml`, `default` for `default.yaml`."""
        return {"extension": policy_schema(), "default": defaults_schema()}

    @staticmethod
    def shipped_defaults() -> DefaultsFile:
        """The `default.yaml` that comes with Ringfence."""
        return load_defaults(read_file(SHIPPED / "default.yaml", "default.yaml")[0], "default.yaml").value

    def _check_not_overruled(self, extension: ExtensionName, tenant: TenantId, wanted: PartialPolicy) -> None:
        if self._files.adopted == self.directory:
            return
        own = self._files.operators(extension, tenant)
        if own is not None and own.value != wanted:
            raise PolicyError(
                f"the operator's own file says what '{extension}' may use",
                hint="change that file, or remove it first",
                file=own.file,
            )

    def _merged(
        self, extension: Loaded[PartialPolicy] | None, defaults: Loaded[DefaultsFile], tenant: TenantId
    ) -> EffectivePolicy:
        return merge(extension, defaults, parse_tenant_id(tenant), protected=self._protected)

    def _defaults(self) -> Loaded[DefaultsFile]:
        return self._files.defaults()


def _write(target: Path, raw: bytes) -> None:
    """Replace `target` as a whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".adopt-", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(raw)
            os.fchmod(stream.fileno(), 0o644)  # the launcher may run as another user
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _group_difference(
    group: SandboxGroup,
    first: tuple[ExtensionName, EffectivePolicy],
    other: tuple[ExtensionName, EffectivePolicy],
) -> PolicyError:
    change = compare(first[1], other[1])[0]
    ours, theirs = first[1].source(change.key), other[1].source(change.key)
    culprit = theirs if theirs.layer == "extension" or ours.layer != "extension" else ours
    # What variables hold (keys, licences) is nobody's business who reads an error.
    shown = [str(ours), str(theirs)]
    if not change.key.startswith("environment."):
        shown = [f"{change.before or 'nothing'} ({ours})", f"{change.after or 'nothing'} ({theirs})"]
    return PolicyError(
        f"extensions '{first[0]}' and '{other[0]}' share the sandbox group '{group}' but differ in '{change.key}': "
        f"{', '.join(shown)}",
        hint="give all members the same policy, or another group",
        file=culprit.file,
        line=culprit.line,
    )

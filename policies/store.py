"""The policy files of one directory: `default.yaml`, `<extension>.yaml`, nothing else.

Files are looked at on every question and parsed only when they changed, so an edit holds from the next sandbox
start on, in the launcher as in the host, without a signal. Nothing in a pack's own directory is ever read:
a pack's suggestion becomes a policy only when the operator adopts it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from policies.errors import NameInvalidError, PolicyError, place
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
from policies.quotas import QUOTA_KEYS, PartialQuotas, Quotas, merged_quotas
from policies.schema import defaults_schema, policy_schema

SHIPPED = Path(__file__).parent
"""Where `default.yaml` and `core.yaml` come from when the operator's directory does not have its own."""

_SHIPPED_FILES = ("default.yaml", "core.yaml")

LoadedT = TypeVar("LoadedT", bound=Loaded[Any])
_Stamp = tuple[int, ...]


class PolicyStore:
    """Reads, checks and keeps policies; cheap to make, safe to share between threads."""

    def __init__(self, directory: Path, *, protected: Sequence[Path] = ()) -> None:
        self.directory = directory.absolute()
        self._protected = (self.directory, *protected)
        self._cache: dict[Path, tuple[_Stamp, Loaded[Any]]] = {}

    def effective(self, extension: ExtensionName, tenant: TenantId = LOCAL_TENANT) -> EffectivePolicy:
        """What `extension` may use for `tenant`, from the files as they are now.

        Raises: PolicyError and its kinds when a file on disk is wrong (nothing is started on a guess).
        """
        return self._merged(self._extension_file(parse_extension_name(extension)), self._defaults(), tenant)

    def effective_group(self, group: SandboxGroup, tenant: TenantId = LOCAL_TENANT) -> EffectivePolicy:
        """The one policy of a sandbox group: all members' policies must be equal.

        Raises: PolicyError naming the member and the key that differ, or that the group is empty.
        """
        members = self.members(group)
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

    def members(self, group: SandboxGroup) -> tuple[ExtensionName, ...]:
        """The extensions whose files name `group`, by name."""
        loaded = ((name, self._extension_file(name)) for name in self.extensions())
        return tuple(name for name, policy in loaded if policy and policy.value.group == group)

    def extensions(self) -> tuple[ExtensionName, ...]:
        """The extensions that have a file of their own (or a shipped one), by name."""
        stems = {file.stem for file in self.directory.glob("*.yaml")} | {"core"}
        names = []
        for stem in sorted(stems - {"default"}):
            try:
                names.append(parse_extension_name(stem))
            except NameInvalidError:
                continue  # an editor's or a packager's file; no extension can have that name
        return tuple(names)

    def tenants(self) -> tuple[TenantId, ...]:
        """The tenants that `default.yaml` names."""
        return tuple(parse_tenant_id(name) for name in self._defaults().value.tenants or ())

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

    def adopt(self, extension: ExtensionName, file: Path) -> EffectivePolicy:
        """Make `file` the policy of `extension`, if it is a valid one, and say what holds from now on.

        What was checked is what is written: the file is read once. It holds from the next sandbox start on.

        Raises: PolicyError and its kinds, or FileNotFoundError; the old policy then stays.
        """
        target = self._path(parse_extension_name(extension))
        raw, _ = read_file(file, str(file))
        effective = self._merged(load_policy(raw, str(file)), self._defaults(), LOCAL_TENANT)
        self.directory.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".adopt-", dir=self.directory)
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
        return effective

    def remove(self, extension: ExtensionName) -> bool:
        """Drop the extension's own policy; the defaults hold again. False if there was none."""
        try:
            self._path(parse_extension_name(extension)).unlink()
        except FileNotFoundError:
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

    def _path(self, extension: ExtensionName) -> Path:
        return self.directory / f"{extension}.yaml"

    def _merged(
        self, extension: Loaded[PartialPolicy] | None, defaults: Loaded[DefaultsFile], tenant: TenantId
    ) -> EffectivePolicy:
        return merge(extension, defaults, parse_tenant_id(tenant), protected=self._protected)

    def _defaults(self) -> Loaded[DefaultsFile]:
        own = self._cached(self.directory / "default.yaml", load_defaults)
        found = own or self._cached(SHIPPED / "default.yaml", load_defaults)
        return found or load_defaults(b"", "default.yaml")

    def _extension_file(self, extension: ExtensionName) -> Loaded[PartialPolicy] | None:
        own = self._cached(self._path(extension), load_policy)
        if own is None and f"{extension}.yaml" in _SHIPPED_FILES:
            return self._cached(SHIPPED / f"{extension}.yaml", load_policy)
        return own

    def _cached(self, path: Path, load: Callable[[bytes, str], LoadedT]) -> LoadedT | None:
        # The directory's own name, not its place: this text reaches tenants, who need not learn host paths.
        own = path.parent == self.directory
        shown = f"{path.parent.name}/{path.name}" if own else f"shipped {path.name}"
        try:
            status = path.stat()
            known = self._cache.get(path)
            if known and known[0] == _stamp(status):
                return known[1]  # type: ignore[return-value]  # what `load` made for this path before
            raw, status = read_file(path, shown)
        except FileNotFoundError:
            return None
        loaded = load(raw, shown)
        self._cache[path] = (_stamp(status), loaded)
        return loaded


def _stamp(status: os.stat_result) -> _Stamp:
    # ctime too: mtime can be set back by whoever copies files with their times.
    return (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_dev)


def _group_difference(
    group: SandboxGroup,
    first: tuple[ExtensionName, EffectivePolicy],
    other: tuple[ExtensionName, EffectivePolicy],
) -> PolicyError:
    ours, theirs = first[1].model_dump(), other[1].model_dump()
    key = next(name for name in ours if ours[name] != theirs[name])
    source = next(
        (place for name, place in other[1].sources.items() if name.partition(".")[0] == key and place.file),
        first[1].source(key),
    )
    return PolicyError(
        f"extensions '{first[0]}' and '{other[0]}' share the sandbox group '{group}' but differ in '{key}'",
        hint="give all members the same policy, or another group",
        file=source.file,
        line=source.line,
    )

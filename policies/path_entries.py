"""Entries of `paths`: a directory of the tenant, or a place of the machine. Whether it may be used is `merge.py`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Tag, model_validator

from policies.errors import FieldError
from policies.fields import AbsolutePath, MountPoint, TenantArea
from policies.strict import Strict, listed

Access = Literal["ro", "rw"]
Scope = Literal["extension", "tenant"]


class TenantPath(Strict):
    """A directory of the tenant whose prompt runs."""

    tenant: TenantArea
    """Which one: input, output, temp, models or user, or a folder in it such as `user/notes`."""
    access: Access = "ro"
    """`ro` to read, `rw` to read and write."""
    scope: Scope = "extension"
    """`extension`: only the extension's own folder in it; `tenant`: all of it. input and models are always whole."""

    @model_validator(mode="before")
    @classmethod
    def _scope_of_shared_areas(cls, data: Any) -> Any:
        # What users bring in belongs to no extension, so "its own folder of input" would be an empty one.
        if isinstance(data, dict) and str(data.get("tenant", "")).split("/")[0] in ("input", "models"):
            if data.get("scope", "tenant") != "tenant":
                area = str(data["tenant"]).split("/")[0]
                raise FieldError(f"{area} has no folder per extension", "remove 'scope'")
            return {**data, "scope": "tenant"}
        return data

    @model_validator(mode="after")
    def _models_are_read_only(self) -> TenantPath:
        # Weights are code to many packs (pickle) and serve every extension: one writer would own them all.
        if self.area == "models" and self.access == "rw":
            raise FieldError("models cannot be writable", "write 'access: ro'; a pack gets a throwaway copy")
        return self

    @property
    def area(self) -> str:
        """The first component: input, output, temp, models or user."""
        return self.tenant.split("/")[0]

    @property
    def folder(self) -> str:
        """What follows the area, without a leading slash; empty for the whole area."""
        return self.tenant.partition("/")[2]


class HostPath(Strict):
    """A directory or file of the machine, below one of the operator's `path_roots`."""

    host: AbsolutePath
    """Where it is on the machine; in an effective policy with all links resolved."""
    mount: MountPoint
    """Where the extension finds it, below /mnt, /data, /srv or /app/models."""
    access: Access = "ro"
    """`ro` to read, `rw` to read and write."""


def _kind_of_path(value: Any) -> str | None:
    if isinstance(value, TenantPath) or (isinstance(value, dict) and "tenant" in value):
        return "tenant-path"
    if isinstance(value, HostPath) or (isinstance(value, dict) and ("host" in value or "mount" in value)):
        return "host-path"
    return None


PathEntry = Annotated[
    Annotated[TenantPath, Tag("tenant-path")] | Annotated[HostPath, Tag("host-path")],
    Discriminator(_kind_of_path),
]


def _distinct(entries: tuple[TenantPath | HostPath, ...]) -> tuple[TenantPath | HostPath, ...]:
    seen: set[str] = set()
    for entry in entries:
        name = entry.tenant if isinstance(entry, TenantPath) else entry.mount
        if name in seen:
            raise FieldError(f"'{name}' is named twice", "keep one of the two")
        seen.add(name)
    if len(entries) > 64:
        raise FieldError(f"{len(entries)} paths are too many", "write at most 64")
    return entries


Paths = Annotated[tuple[PathEntry, ...], BeforeValidator(listed), AfterValidator(_distinct)]

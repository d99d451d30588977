"""One layer of a policy as values with their places, by dotted key; and values as a file would write them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from policies import yaml_tree
from policies.egress import Network, Secret
from policies.load import Loaded
from policies.model import Layer, Source
from policies.path_entries import HostPath, TenantPath
from policies.units import format_bytes, format_cpus, format_duration

_SIZES = {
    "memory", "tmp", "scratch", "shared_memory", "disk",
    "limits.output_bytes", "limits.log_bytes", "limits.message_bytes",
}  # fmt: skip
TIMES = {"timeouts.import", "timeouts.call", "timeouts.idle", "timeouts.grace", "build.timeout"}
_SECTIONS = {"timeouts", "limits", "build", "environment"}


@dataclass(frozen=True, slots=True)
class Value:
    """One value of a layer, and where somebody wrote it."""

    value: Any
    source: Source
    column: int = 0
    loaded: Loaded[Any] | None = None
    path: yaml_tree.Path = ()

    def place(self, *inner: str | int) -> dict[str, Any]:
        """File, line and column of the value, or of what is at `inner` in it, as keywords of a `PolicyError`."""
        line, column = self.source.line, self.column
        if self.loaded and inner:
            line, column = self.loaded.tree.position((*self.path, *inner))
        return {"file": self.source.file, "line": line, "column": column}


def written(value: Any, key: str) -> str:
    """A value of an effective policy as a file would write it."""
    if key in _SIZES:
        return format_bytes(value)
    if key in TIMES:
        return format_duration(value)
    if key == "cpus":
        return format_cpus(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Network):
        return "{allow: " + written(value.allow, key) + "}" if value else "none"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {item}" for name, item in value.items()) + "}"
    if value == ("any",):
        return "any"
    if key == "network" and not value:
        return "none"
    if isinstance(value, tuple):
        return "[" + ", ".join(_written_entry(item) for item in value) + "]"
    return str(value)


def flatten(model: BaseModel | None, prefix: yaml_tree.Path = ()) -> Iterator[tuple[yaml_tree.Path, Any]]:
    """Every value that is written in a partial model, with its path in words of the file."""
    if model is None:
        return
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        path = (*prefix, field.alias or name)
        if value is None:
            continue
        if name in _SECTIONS and isinstance(value, dict):
            yield from (((*path, key), item) for key, item in value.items())
        elif name in _SECTIONS and isinstance(value, BaseModel):
            yield from flatten(value, path)
        else:
            yield path, value


def layer(
    model: BaseModel | None, name: Layer, loaded: Loaded[Any] | None, prefix: yaml_tree.Path
) -> Iterator[tuple[str, Value]]:
    for path, value in flatten(model):
        key = ".".join(str(part) for part in path)
        where = (*prefix, *path)
        if loaded is None:
            yield key, Value(value, Source(name))
            continue
        line, column = loaded.tree.position(where)
        yield key, Value(value, Source(name, loaded.file, line), column, loaded, where)


def _written_entry(item: Any) -> str:
    if isinstance(item, TenantPath):
        scope = "" if item.area in ("input", "models") else f", scope: {item.scope}"
        return f"{{tenant: {item.tenant}, access: {item.access}{scope}}}"
    if isinstance(item, HostPath):
        return f"{{host: {item.host}, mount: {item.mount}, access: {item.access}}}"
    if isinstance(item, Secret):
        return f"{{name: {item.name}, host: {item.host}, header: {item.header}, format: '{item.format}'}}"
    return str(item)

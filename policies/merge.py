"""Layers to one effective policy: built-in < `defaults` of default.yaml < the extension's file, under ceilings.

Maps (`timeouts`, `limits`, `build`, `environment`) merge key by key; lists (`paths`, `gpus`) replace the list of
the layer below as a whole, so that what an extension sees stands in one place.

Ceilings: what somebody wrote over a ceiling is refused, naming both lines. What nobody wrote for this extension
is lowered instead: an operator who lowers a ceiling must not have to touch every file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from policies import yaml_tree
from policies.builtin import BUILT_IN
from policies.errors import CeilingError, PathEscapeError, PolicyError
from policies.fields import VARIABLES_LIMIT
from policies.load import Loaded
from policies.model import DefaultsFile, EffectivePolicy, HostPath, Layer, PartialPolicy, Source, TenantPath
from policies.names import TenantId
from policies.paths import is_inside, resolve_in_roots
from policies.units import format_bytes, format_cpus, format_duration

_SIZES = {
    "memory", "tmp", "scratch", "shared_memory", "disk",
    "limits.output_bytes", "limits.log_bytes", "limits.message_bytes",
}  # fmt: skip
_TIMES = {"timeouts.import", "timeouts.call", "timeouts.idle", "timeouts.grace", "build.timeout"}
_LISTS = {"gpus", "paths"}
_SECTIONS = {"timeouts", "limits", "build", "environment"}

# The sentry's own threads count against the cap: with 20 gVisor does not start at all.
_GVISOR_PIDS = 64


@dataclass(frozen=True, slots=True)
class _Value:
    value: Any
    source: Source
    column: int = 0
    loaded: Loaded[Any] | None = None
    path: yaml_tree.Path = ()


def merge(
    extension: Loaded[PartialPolicy] | None,
    defaults: Loaded[DefaultsFile] | None,
    tenant: TenantId,
    *,
    protected: Sequence[Path] = (),
) -> EffectivePolicy:
    """The effective policy of an extension (None: it has no file) for `tenant`.

    `protected` are directories that no host path may touch, whatever the operator's roots say.

    Raises: CeilingError, PathEscapeError, or another PolicyError with file and line.
    """
    values: dict[str, _Value] = dict(_layer(BUILT_IN.defaults, "built-in", None, ()))
    if defaults:
        values.update(_layer(defaults.value.defaults, "defaults", defaults, ("defaults",)))
    if extension:
        values.update(_layer(extension.value, "extension", extension, ()))
    for key, cap in _ceilings(defaults, ()).items():
        values[key] = _under(key, values[key], cap, lowered=("built-in",))
    for key, cap in _ceilings(defaults, ("tenants", tenant)).items():
        values[key] = _under(key, values[key], cap, lowered=("built-in", "defaults", "ceiling"))
    _check_gvisor(values)
    _check_variables(values)
    paths = values["paths"]
    values["paths"] = replace(paths, value=tuple(_checked_paths(paths, defaults, protected)))
    return _assembled(values)


def written(value: Any, key: str) -> str:
    """A value of an effective policy as a file would write it."""
    if key in _SIZES:
        return format_bytes(value)
    if key in _TIMES:
        return format_duration(value)
    if key == "cpus":
        return format_cpus(value)
    if isinstance(value, bool):
        return "true" if value else "false"
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
        elif name in _SECTIONS:
            yield from flatten(value, path)
        else:
            yield path, value


def _layer(
    model: BaseModel | None, layer: Layer, loaded: Loaded[Any] | None, prefix: yaml_tree.Path
) -> Iterator[tuple[str, _Value]]:
    for path, value in flatten(model):
        key = ".".join(str(part) for part in path)
        where = (*prefix, *path)
        if loaded is None:
            yield key, _Value(value, Source(layer))
            continue
        line, column = loaded.tree.position(where)
        yield key, _Value(value, Source(layer, loaded.file, line), column, loaded, where)


def _ceilings(defaults: Loaded[DefaultsFile] | None, section: tuple[str, ...]) -> dict[str, _Value]:
    """The ceilings of `section` of default.yaml; () is the general one, below which lie the built-in ones."""
    caps: dict[str, _Value] = {}
    if not section:
        caps.update(_layer(BUILT_IN.ceilings, "built-in", None, ()))
    if defaults:
        model = defaults.value.ceilings
        if section:
            ours = (defaults.value.tenants or {}).get(section[-1])
            model = ours.ceilings if ours else None
        caps.update(_layer(model, "ceiling", defaults, (*section, "ceilings")))
    return caps


def _under(key: str, value: _Value, cap: _Value, *, lowered: tuple[Layer, ...]) -> _Value:
    size = len(value.value) if key == "gpus" else value.value
    if size <= cap.value:
        return value
    if value.source.layer in lowered and key != "gpus":  # which GPUs to drop is not ours to choose
        return _Value(cap.value, Source("ceiling", cap.source.file, cap.source.line))
    most = str(cap.value) if key == "gpus" else written(cap.value, key)
    shown = f"{size} GPUs" if key == "gpus" else written(value.value, key)
    raise CeilingError(
        f"{key} {shown} is over the ceiling of {most} ({cap.source})",
        hint=f"write at most {most}, or raise 'ceilings.{key}' in default.yaml if you are the operator",
        file=value.source.file,
        line=value.source.line,
        column=value.column,
    )


def _check_gvisor(values: dict[str, _Value]) -> None:
    pids, isolation = values["pids"], values["isolation"]
    if isolation.value == "gvisor" and pids.value < _GVISOR_PIDS:
        culprit = pids if pids.source.file else isolation
        raise PolicyError(
            f"pids {pids.value} is too few for isolation gvisor, whose own threads count",
            hint=f"write at least {_GVISOR_PIDS}, better 256",
            file=culprit.source.file,
            line=culprit.source.line,
            column=culprit.column,
        )


def _check_variables(values: dict[str, _Value]) -> None:
    # Each file is bounded by itself; together they must be as well.
    variables = [item for key, item in values.items() if key.startswith("environment.")]
    if len(variables) > VARIABLES_LIMIT:
        last = variables[-1].source
        raise PolicyError(
            f"{len(variables)} environment variables are too many",
            hint=f"name at most {VARIABLES_LIMIT} in all files together",
            file=last.file,
            line=last.line,
        )


def _checked_paths(
    paths: _Value, defaults: Loaded[DefaultsFile] | None, protected: Sequence[Path]
) -> Iterator[TenantPath | HostPath]:
    roots = [Path(root) for root in (defaults.value.path_roots or ())] if defaults else []
    for index, entry in enumerate(paths.value):
        if not isinstance(entry, HostPath):
            yield entry
            continue
        where: dict[str, Any] = {"file": paths.source.file, "line": paths.source.line, "column": paths.column}
        if paths.loaded:
            position = paths.loaded.tree.position((*paths.path, index, "host"))
            where["line"], where["column"] = position
        try:
            target = resolve_in_roots(entry.host, roots)
        except PathEscapeError as error:
            raise PathEscapeError(f"paths[{index}]: {error.message}", hint=error.hint, **where) from None
        _check_protected(target, protected, index, where)
        yield entry.model_copy(update={"host": str(target)})


def _check_protected(target: Path, protected: Iterable[Path], index: int, where: dict[str, Any]) -> None:
    # Both directions: mounting the parent of the policies hands them over just as well.
    for kept in (path.resolve() for path in protected):
        if is_inside(target, kept) or is_inside(kept, target):
            raise PathEscapeError(
                f"paths[{index}]: '{target}' overlaps Ringfence's own directory '{kept}'",
                hint="name a directory apart from it",
                **where,
            )


def _assembled(values: dict[str, _Value]) -> EffectivePolicy:
    data: dict[str, Any] = {"environment": {}}
    for key, item in values.items():
        section, _, name = key.partition(".")
        if not name:
            data[section] = item.value
            continue
        field = f"{name}_s" if key in _TIMES else name
        data.setdefault(section, {})[field] = item.value
    sources = {key: item.source for key, item in values.items()}
    # Validated once more, which proves that no key was forgotten.
    return EffectivePolicy.model_validate({**data, "sources": sources})


def _written_entry(item: Any) -> str:
    if isinstance(item, TenantPath):
        scope = "" if item.area in ("input", "models") else f", scope: {item.scope}"
        return f"{{tenant: {item.tenant}, access: {item.access}{scope}}}"
    if isinstance(item, HostPath):
        return f"{{host: {item.host}, mount: {item.mount}, access: {item.access}}}"
    return str(item)

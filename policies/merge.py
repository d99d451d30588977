"""Layers to one effective policy: built-in < `defaults` of default.yaml < the extension's file, under ceilings.

Maps (`timeouts`, `limits`, `build`, `environment`) merge key by key; lists (`paths`, `gpus`) replace the list of
the layer below as a whole, so that what an extension sees stands in one place.

Ceilings: what somebody wrote over a ceiling is refused, naming both lines. What nobody wrote for this extension
is lowered instead: an operator who lowers a ceiling must not have to touch every file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from policies.builtin import BUILT_IN
from policies.ceilings import under
from policies.errors import PathEscapeError, PolicyError
from policies.fields import VARIABLES_LIMIT
from policies.layers import TIMES, Value, layer
from policies.load import Loaded
from policies.model import DefaultsFile, EffectivePolicy, PartialPolicy
from policies.names import TenantId
from policies.path_entries import HostPath, TenantPath
from policies.paths import is_inside, resolve_in_roots

# The sentry's own threads count against the cap: with 20 gVisor does not start at all.
_GVISOR_PIDS = 64


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
    values: dict[str, Value] = dict(layer(BUILT_IN.defaults, "built-in", None, ()))
    if defaults:
        values.update(layer(defaults.value.defaults, "defaults", defaults, ("defaults",)))
    if extension:
        values.update(layer(extension.value, "extension", extension, ()))
    for cap in _ceilings(defaults, ()).items():
        under(values, *cap, lowered=("built-in",))
    for cap in _ceilings(defaults, ("tenants", tenant)).items():
        under(values, *cap, lowered=("built-in", "defaults", "ceiling"))
    _check_gvisor(values)
    _check_variables(values)
    _check_secrets(values)
    paths = values["paths"]
    values["paths"] = replace(paths, value=tuple(_checked_paths(paths, defaults, tenant, protected)))
    return _assembled(values)


def _ceilings(defaults: Loaded[DefaultsFile] | None, section: tuple[str, ...]) -> dict[str, Value]:
    """The ceilings of `section` of default.yaml; () is the general one, below which lie the built-in ones."""
    caps: dict[str, Value] = {}
    if not section:
        caps.update(layer(BUILT_IN.ceilings, "built-in", None, ()))
    if defaults:
        model = defaults.value.ceilings
        if section:
            ours = (defaults.value.tenants or {}).get(section[-1])
            model = ours.ceilings if ours else None
        caps.update(layer(model, "ceiling", defaults, (*section, "ceilings")))
    return caps


def _check_gvisor(values: dict[str, Value]) -> None:
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


def _check_variables(values: dict[str, Value]) -> None:
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


def _check_secrets(values: dict[str, Value]) -> None:
    secrets, network = values["secrets"], values["network"].value
    for index, secret in enumerate(secrets.value):
        where = secrets.place(index)
        if f"environment.{secret.name}" in values:
            raise PolicyError(
                f"secrets[{index}]: {secret.name} is a variable in 'environment' as well",
                hint="remove it there: the variable holds the secret's placeholder",
                **where,
            )
        if not any(
            allowed.allows(secret.destination.host, secret.destination.port)
            for allowed in network.destinations
        ):
            raise PolicyError(
                f"secrets[{index}]: {secret.host} is not in 'network' ({values['network'].source})",
                hint=f"add '{secret.host}' to 'network.allow', or remove the secret",
                **where,
            )


def _checked_paths(
    paths: Value, defaults: Loaded[DefaultsFile] | None, tenant: TenantId, protected: Sequence[Path]
) -> Iterator[TenantPath | HostPath]:
    roots = [Path(root) for root in (defaults.value.path_roots or ())] if defaults else []
    section = (defaults.value.tenants or {}).get(tenant) if defaults else None
    narrower = section.path_roots if section else None
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
            if narrower is not None:  # a tenant's roots take away and never add
                target = resolve_in_roots(entry.host, map(Path, narrower))
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


def _assembled(values: dict[str, Value]) -> EffectivePolicy:
    data: dict[str, Any] = {"environment": {}}
    for key, item in values.items():
        section, _, name = key.partition(".")
        if not name:
            data[section] = item.value
            continue
        field = f"{name}_s" if key in TIMES else name
        data.setdefault(section, {})[field] = item.value
    sources = {key: item.source for key, item in values.items()}
    # Validated once more, which proves that no key was forgotten.
    return EffectivePolicy.model_validate({**data, "sources": sources})

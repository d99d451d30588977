"""An effective policy as rows for a screen: key, value as a file would write it, where it comes from."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel

from policies.layers import written
from policies.model import EffectivePolicy, Source


@dataclass(frozen=True, slots=True)
class Row:
    """One line of `ringfence policy show`."""

    key: str
    """Dotted, as in a file: `memory`, `timeouts.import`, `environment.OMP_NUM_THREADS`, `paths[0]`."""
    value: str
    source: Source


def explain(effective: EffectivePolicy) -> list[Row]:
    """Every value of `effective` in the order of the reference; list entries have a row each."""
    rows: list[Row] = []
    for name in EffectivePolicy.model_fields:
        value = getattr(effective, name)
        if name == "sources" or value is None:
            continue
        if name == "network":
            rows.append(Row(name, written(value, name), effective.source(name)))
        elif isinstance(value, BaseModel):
            for field in type(value).model_fields:
                key = f"{name}.{field.removesuffix('_s')}"
                rows.append(Row(key, written(getattr(value, field), key), effective.source(key)))
        elif name == "environment":
            rows += [
                Row(f"{name}.{key}", text, effective.source(f"{name}.{key}")) for key, text in value.items()
            ]
        elif name in ("paths", "secrets") and value:
            source = effective.source(name)
            rows += [
                Row(f"{name}[{i}]", written((entry,), name)[1:-1], source) for i, entry in enumerate(value)
            ]
        else:
            rows.append(Row(name, written(value, name), effective.source(name)))
    return rows

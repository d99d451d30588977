"""What one policy asks for beyond another: for whoever has to say yes to a new one.

Pure: two effective policies in, changes out. "More" means that something becomes possible that was not, or a wall
becomes weaker; what gets less, or is merely other, is listed and not marked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from policies.ceilings import WALLS
from policies.egress import Secret
from policies.layers import written
from policies.model import EffectivePolicy, Source
from policies.network import uncovered
from policies.path_entries import HostPath, TenantPath


@dataclass(frozen=True, slots=True)
class Change:
    """One value that differs; a list has a change for each entry."""

    key: str
    """Dotted, as in a file: `memory`, `timeouts.call`, `network`, `environment.HF_HOME`, `paths`."""
    before: str
    """As a file would write it; empty for what was not there."""
    after: str
    is_more: bool
    """The new policy asks for more here."""
    source: Source
    """Where the new value (or the lack of the old one) stands."""

    def __str__(self) -> str:
        if not self.before:
            return f"{self.key}: {self.after} (new)"
        if not self.after:
            return f"{self.key}: {self.before} (gone)"
        return f"{self.key}: {self.before} -> {self.after}"


def compare(old: EffectivePolicy, new: EffectivePolicy) -> tuple[Change, ...]:
    """Everything in which `new` differs from `old`, in the order of the reference."""
    return tuple(_changes(old, new))


def asks_more(old: EffectivePolicy, new: EffectivePolicy) -> tuple[Change, ...]:
    """What `new` may do and `old` may not; empty when saying yes to `new` gives nothing away."""
    return tuple(change for change in _changes(old, new) if change.is_more)


def _changes(old: EffectivePolicy, new: EffectivePolicy) -> Iterator[Change]:
    for name in EffectivePolicy.model_fields:
        before, after = getattr(old, name), getattr(new, name)
        if name == "sources" or before == after:
            continue
        if name in ("network", "secrets", "paths", "gpus"):
            yield from _entries(name, old, new)
        elif name == "environment":
            yield from _variables(old, new)
        elif isinstance(before, BaseModel):
            for field in type(before).model_fields:
                key = f"{name}.{field.removesuffix('_s')}"
                yield from _value(key, getattr(before, field), getattr(after, field), new)
        else:
            yield from _value(name, before, after, new)


def _value(key: str, before: Any, after: Any, new: EffectivePolicy) -> Iterator[Change]:
    if before == after:
        return
    old_text, new_text = ("" if value is None else written(value, key) for value in (before, after))
    yield Change(key, old_text, new_text, _is_more(key, before, after), new.source(key))


def _is_more(key: str, before: Any, after: Any) -> bool:
    if key == "isolation":
        return WALLS.index(after) < WALLS.index(before)
    if key == "group":  # a sandbox shared with others, or with other others
        return after is not None
    if key == "transport":
        return False
    return bool(after > before)


def _variables(old: EffectivePolicy, new: EffectivePolicy) -> Iterator[Change]:
    for name in sorted({*old.environment, *new.environment}):
        before, after = old.environment.get(name, ""), new.environment.get(name, "")
        if name not in new.environment or before != after or name not in old.environment:
            key = f"environment.{name}"
            yield Change(key, before, after, name in new.environment, new.source(key))


def _entries(name: str, old: EffectivePolicy, new: EffectivePolicy) -> Iterator[Change]:
    before, after = _listed(name, old), _listed(name, new)
    source = new.source(name)
    for identity, entry in after.items():
        known = before.get(identity)
        if known != entry:
            old_text = "" if known is None else _text(known)
            yield Change(name, old_text, _text(entry), _entry_is_more(name, known, entry, old), source)
    for identity, entry in before.items():
        if identity not in after:
            yield Change(name, _text(entry), "", False, source)


def _listed(name: str, policy: EffectivePolicy) -> dict[str, Any]:
    """The entries of a list, by what makes them the same entry."""
    if name == "network":
        return {text: text for text in policy.network.allow}
    if name == "secrets":
        return {secret.name: secret for secret in policy.secrets}
    if name == "gpus":
        return {gpu: gpu for gpu in policy.gpus}
    return {path.tenant if isinstance(path, TenantPath) else path.mount: path for path in policy.paths}


def _text(entry: TenantPath | HostPath | Secret | str) -> str:
    return written((entry,), "")[1:-1]


def _entry_is_more(name: str, known: Any, entry: Any, old: EffectivePolicy) -> bool:
    if name == "network":
        return bool(uncovered((entry,), old.network.allow))
    if isinstance(entry, TenantPath) and isinstance(known, TenantPath):
        return _opens(entry, known) or (entry.scope == "tenant" and known.scope != "tenant")
    if isinstance(entry, HostPath) and isinstance(known, HostPath):
        return _opens(entry, known) or entry.host != known.host
    return True  # new; a secret that goes elsewhere than it did counts as new


def _opens(entry: TenantPath | HostPath, known: TenantPath | HostPath) -> bool:
    return entry.access == "rw" and known.access == "ro"

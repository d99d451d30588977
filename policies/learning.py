"""From what a run was seen to do to the smallest policy that it needed.

Pure. Two things hold, whatever a pack does or says while it is watched:

- A line of the policy never allows more than the policy of today does. What a pack ran into is listed as a *wish*,
  which is a comment until somebody removes the mark.
- What is only claimed takes away and never adds: it lowers a limit, or keeps what was granted already.

Each figure gets headroom and is rounded up, and its line says what was seen.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from policies.layers import written
from policies.learned_paths import learned_paths
from policies.learned_text import Basis, Item, Line, counted, once, seconds, size
from policies.model import EffectivePolicy
from policies.observed import Observed

_MIB: Final = 1024 * 1024
_VARIABLE: Final = re.compile(r"[A-Z][A-Z0-9_]{0,63}\Z")  # it becomes a key, which nothing quotes
_WISHES: Final = 20
"""Of one kind; more are counted."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """How a limit follows from a figure."""

    key: str
    factor: float
    least: int
    """Below it something unrelated fails, or the next run does by chance."""
    step: int
    basis: Basis
    seen: Callable[[Observed], float]
    saying: Callable[[Observed], str]
    extra: int = 0
    """On top, whatever the figure."""


_RULES: Final[tuple[_Rule, ...]] = (
    _Rule(
        "memory", 1.25, 64 * _MIB, 32 * _MIB, Basis.MEASURED,
        lambda seen: seen.memory,
        lambda seen: f"{size(seen.memory)} needed at most (with file cache {size(seen.memory_peak)})",
    ),
    _Rule(
        "pids", 1.25, 16, 4, Basis.MEASURED,
        lambda seen: seen.pids,
        lambda seen: f"{seen.pids} at once" + (", looked at ten times a second" if seen.pids_sampled else ""),
    ),
    _Rule(
        "tmp", 1.5, _MIB, _MIB, Basis.CLAIMED,
        lambda seen: seen.claims.tmp, lambda seen: f"{size(seen.claims.tmp)} in /tmp",
    ),
    _Rule(
        "scratch", 1.5, 4 * _MIB, 4 * _MIB, Basis.CLAIMED,
        lambda seen: seen.claims.scratch,
        lambda seen: f"{size(seen.claims.scratch)} in the throwaway tree, the copy of the pack included",
        16 * _MIB,  # the worker copies the pack only where that leaves room (runtime/throwaway.py)
    ),
    _Rule(
        "nofile", 2, 64, 32, Basis.CLAIMED,
        lambda seen: seen.claims.nofile, lambda seen: f"{counted(seen.claims.nofile, 'file')} open in the worker",
    ),
    _Rule(
        "shared_memory", 1.25, _MIB, _MIB, Basis.MEASURED,
        lambda seen: seen.shared_memory, lambda seen: f"{size(seen.shared_memory)} of live outputs",
    ),
    _Rule(
        "disk", 1.5, _MIB, _MIB, Basis.MEASURED,
        lambda seen: seen.disk, lambda seen: f"{size(seen.disk)} added in one call",
    ),
    _Rule(
        "disk_files", 2, 16, 4, Basis.MEASURED,
        lambda seen: seen.disk_files, lambda seen: f"{counted(seen.disk_files, 'file')} added in one call",
    ),
    _Rule(
        "timeouts.import", 4, 30, 10, Basis.MEASURED,
        lambda seen: seen.import_s, lambda seen: f"{seconds(seen.import_s)}",
    ),
    _Rule(
        "timeouts.call", 4, 30, 10, Basis.MEASURED,
        lambda seen: seen.call_s, lambda seen: f"{seconds(seen.call_s)}, {seen.slowest or 'no call'}",
    ),
    _Rule(
        "limits.output_bytes", 1.5, _MIB, _MIB, Basis.MEASURED,
        lambda seen: seen.output_bytes, lambda seen: f"{size(seen.output_bytes)} of one call",
    ),
    _Rule(
        "limits.outputs", 2, 16, 8, Basis.MEASURED,
        lambda seen: seen.outputs, lambda seen: f"{counted(seen.outputs, 'value')} of one call",
    ),
    _Rule(
        "limits.log_rate", 2, 20, 10, Basis.MEASURED,
        lambda seen: seen.log_rate, lambda seen: f"{counted(seen.log_rate, 'line')} in a second",
    ),
    _Rule(
        "limits.log_bytes", 2, 65_536, 65_536, Basis.MEASURED,
        lambda seen: seen.log_bytes, lambda seen: f"{size(seen.log_bytes)} in all",
    ),
    _Rule(
        "limits.expansion_nodes", 2, 1, 1, Basis.MEASURED,
        lambda seen: seen.expansion_nodes, lambda seen: f"{counted(seen.expansion_nodes, 'node')} of one call",
    ),
    _Rule(
        "limits.expansion_depth", 2, 1, 1, Basis.MEASURED,
        lambda seen: seen.expansion_depth, lambda seen: f"{seen.expansion_depth} inside each other",
    ),
    _Rule(
        "limits.message_bytes", 2, 65_536, 65_536, Basis.MEASURED,
        lambda seen: seen.message_bytes, lambda seen: f"{size(seen.message_bytes)}, the longest",
    ),
)  # fmt: skip


@dataclass(slots=True)
class Learned:
    """A policy that was learned: lines that hold, and wishes that do not."""

    lines: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What could not be seen, or should be known."""


def learn(seen: Observed, now: EffectivePolicy) -> Learned:
    """The smallest policy that the run needed, never more than ``now``."""
    learned = Learned()
    lines = learned.lines
    for rule in _RULES:
        lines.append(_limit(rule, seen, now))
        if rule.key in seen.met:
            lines.append(_raise(rule.key, seen.met[rule.key], now))
        if rule.key == "memory":
            lines.append(_cpus(seen, now))
    if seen.failed_import:
        lines += _grants_as_now(now)
        lines += (line for line in (*_network(seen, now), *_switches(seen, now)) if line.is_wish)
    else:
        lines += (*_network(seen, now), *_switches(seen, now))
    lines += learned_paths(seen, now, _WISHES)
    lines += _variables(seen)
    lines += _kept(now, {line.key for line in lines if not line.is_wish})
    learned.notes += _notes(seen, now)
    return learned


def _limit(rule: _Rule, seen: Observed, now: EffectivePolicy) -> Line:
    figure, most = rule.seen(seen), _value(now, rule.key)
    least = 64 if rule.key == "pids" and now.isolation == "gvisor" else rule.least
    if rule.key in seen.met:
        return _as_now(rule.key, now, f"met the limit: {seen.met[rule.key]}", Basis.MEASURED)
    if seen.failed_import:
        return _as_now(rule.key, now, "kept as it was: its import failed")
    if rule.basis is Basis.CLAIMED and not seen.claims.has_spoken:
        return _as_now(rule.key, now, "not observed: the sandbox said nothing of it")
    if not figure and rule.key in ("memory", "pids"):
        return _as_now(rule.key, now, "not observed: the counters of the kernel cannot be read here")
    wanted = max(least, math.ceil((figure * rule.factor + rule.extra) / rule.step) * rule.step)
    value = min(wanted, most)
    if value < wanted:
        how = "no room above it under today's limit"
    elif value == least:
        how = "the least that is suggested"
    elif rule.extra:
        how = f"times {rule.factor:g} and {size(rule.extra)}, rounded up"
    else:
        how = f"times {rule.factor:g}, rounded up"
    return Line(rule.key, (Item(written(value, rule.key), f"{rule.saying(seen)}; {how}", rule.basis),))


def _raise(key: str, text: str, now: EffectivePolicy) -> Line:
    """A limit that was met: how much more is needed nobody knows yet."""
    value = _value(now, key) * 2
    said = f"{text}: needs more than now, how much is not known; learn again with it"
    return Line(key, (Item(written(value, key), said, Basis.MEASURED),), is_wish=True)


def _cpus(seen: Observed, now: EffectivePolicy) -> Line:
    if seen.failed_import:
        return _as_now("cpus", now, "kept as it was: its import failed")
    if not seen.cpus:
        return _as_now("cpus", now, "not observed: the counters of the kernel cannot be read here")
    value = min(now.cpus, max(0.25, math.ceil(seen.cpus * 4) / 4))
    said = f"{seen.cpus:.2f} CPU seconds in a second at most; less makes it slower, not fail"
    return Line("cpus", (Item(written(value, "cpus"), said, Basis.MEASURED),))


def _network(seen: Observed, now: EffectivePolicy) -> Iterator[Line]:
    allowed = now.network.destinations
    used = {
        target: reached
        for target, reached in sorted(seen.reached.items())
        if any(_allows(entry, target) for entry in allowed)
    }
    wishes = [
        Item(_quoted(target), f"asked for {once(count)} and refused by the proxy", Basis.MEASURED, True)
        for target, count in seen.refused.most_common(_WISHES)
        if target not in used
    ]
    measured = {*used, *seen.refused}
    wishes += [
        Item(_quoted(target), f"asked for {once(count)}; the walls let nothing out", Basis.CLAIMED, True)
        for target, count in seen.claims.hosts.most_common(_WISHES)
        if target not in measured
    ]
    if used:
        items = tuple(
            Item(
                _quoted(target),
                f"{counted(reached.count, 'connection')}, {size(reached.up)} up, {size(reached.down)} down",
                Basis.MEASURED,
            )
            for target, reached in used.items()
        )
        yield Line("network", (*items, *wishes), within="allow")
    else:
        said = "nothing was reached" if now.network else "there is none today"
        yield Line("network", (Item("none", said, Basis.MEASURED),))
        if wishes:
            yield Line("network", tuple(wishes), within="allow", is_wish=True)
    if now.secrets:
        filled = {name for reached in used.values() for name in reached.secrets}
        kept = [secret for secret in now.secrets if secret.name in filled and secret.host in used]
        gone = sorted(secret.name for secret in now.secrets if secret not in kept)
        secrets = tuple(
            Item(_mapping(secret.model_dump()), "filled in by the proxy", Basis.MEASURED) for secret in kept
        )
        if secrets:
            yield Line("secrets", secrets)
        else:
            yield Line("secrets", (Item("[]", f"not used: {', '.join(gone)}", Basis.MEASURED),))


def _grants_as_now(now: EffectivePolicy) -> Iterator[Line]:
    said = "kept as it was: its import failed"
    if now.network:
        items = tuple(Item(_quoted(target), said, Basis.KEPT) for target in now.network.allow)
        yield Line("network", items, within="allow")
    if now.secrets:
        secrets = (_mapping(secret.model_dump()) for secret in now.secrets)
        yield Line("secrets", tuple(Item(text, said, Basis.KEPT) for text in secrets))
    for key in ("routes", "web_files"):
        yield _as_now(key, now, said)


def _allows(entry: Any, target: str) -> bool:
    host, _, port = target.rpartition(":")
    return port.isdecimal() and bool(entry.allows(host.removeprefix("[").removesuffix("]"), int(port)))


def _switches(seen: Observed, now: EffectivePolicy) -> Iterator[Line]:
    claims = seen.claims
    routes = f"{counted(len(claims.routes), 'route')}, {counted(claims.prompt_handlers, 'prompt handler')}"
    asked = f"asked for {once(seen.route_calls)}" if seen.route_calls else "none was asked for"
    has_use = {"routes": claims.registers, "web_files": claims.web_directory is not None}
    said = {
        "routes": f"it registered {routes}; {asked}" if claims.registers else "it registered none",
        "web_files": f"its web directory is {claims.web_directory!r}"
        if claims.web_directory
        else "it has none",
    }
    for key, wanted in has_use.items():
        granted = bool(getattr(now, key))
        yield Line(key, (Item(written(granted and wanted, key), said[key], Basis.CLAIMED),))
        if wanted and not granted:
            yield Line(key, (Item("true", said[key], Basis.CLAIMED),), is_wish=True)


def _variables(seen: Observed) -> Iterator[Line]:
    items = tuple(
        Item(f'{name}: ""', _looked_for(name, count), Basis.CLAIMED)
        for name, count in seen.claims.variables.most_common(_WISHES)
        if _VARIABLE.match(name)
    )
    if items:
        yield Line("environment", items, is_wish=True)


def _looked_for(name: str, count: int) -> str:
    said = f"its code looked for it {once(count)}, and it is not set"
    is_secret = any(word in name for word in ("KEY", "TOKEN", "SECRET", "PASSWORD"))
    return f"{said}; a secret belongs into 'secrets', never here" if is_secret else said


def _kept(now: EffectivePolicy, written_keys: set[str]) -> Iterator[Line]:
    """What the extension's own file says and a run cannot tell: a file that replaces it must not lose it."""
    if now.environment and any(key.startswith("environment.") for key in _own(now)):
        items = tuple(
            Item(f"{name}: {_quoted(text)}", "kept as it was", Basis.KEPT)
            for name, text in now.environment.items()
            if f"environment.{name}" in _own(now)
        )
        yield Line("environment", items)
    for key in _own(now):
        top = key.partition(".")[0]
        if key in written_keys or top in ("environment", "paths", "network", "secrets"):
            continue
        yield _as_now(key, now, "kept as it was: a run does not tell")


def _own(now: EffectivePolicy) -> Mapping[str, None]:
    """The keys that the extension's own file writes."""
    return {key: None for key, source in now.sources.items() if source.layer == "extension"}


def _notes(seen: Observed, now: EffectivePolicy) -> Iterator[str]:
    if seen.failed_import:
        yield f"its import failed, so nothing is taken away: {seen.failed_import}"
    elif not seen.calls:
        yield "no node ran: only its import was seen. Give prompts (--prompt FILE) or --nodes"
    for text, count in seen.crossings.most_common(_WISHES):
        yield f"a sandbox group is needed ({once(count)}): {text}"
    for text, count in seen.claims.walls.most_common(_WISHES):
        yield f"its own error sounds like a wall ({once(count)}): {text}"
    if not seen.claims.has_spoken:
        yield "the sandbox said nothing of itself: paths that are not written to may be needed all the same"
    if seen.claims.left_out:
        yield f"{seen.claims.left_out} more claims were left out"
    if now.group:
        yield f"it shares its sandbox with the group '{now.group}': all figures are of all its members"
    if seen.calls:
        yield "all figures are of this run: larger inputs need more than smaller ones"
    yield "system calls that the seccomp profile refuses are not seen: the kernel answers EPERM and tells nobody"
    yield "files that native code or a child process opens are not seen, unless it writes"


def _value(policy: EffectivePolicy, key: str) -> Any:
    section, _, name = key.partition(".")
    if not name:
        return getattr(policy, section)
    values = getattr(policy, section)
    return getattr(values, f"{name}_s", None) if hasattr(values, f"{name}_s") else getattr(values, name)


def _as_now(key: str, now: EffectivePolicy, said: str, basis: Basis = Basis.KEPT) -> Line:
    return Line(key, (Item(written(_value(now, key), key), said, basis),))


def _quoted(text: str) -> str:
    # JSON strings are YAML; ASCII, so that nothing in one is a line break to anybody.
    return json.dumps(text)


def _mapping(values: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{name}: {_quoted(str(value))}" for name, value in values.items()) + "}"

"""What is over a ceiling: refused where somebody wrote it for this extension, lowered where nobody did.

Each kind of key has its own "at most": sizes, times and counts by number, switches by "may it be on", `isolation` by
how strong a wall it is, `network`, `secrets` and variables by what a list has in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from policies.egress import Network
from policies.errors import CeilingError
from policies.fields import allows_variable
from policies.layers import Value, written
from policies.model import Layer, Source
from policies.network import uncovered

WALLS = ("runc", "gvisor")
"""Kinds of isolation, the weakest first."""


def under(values: dict[str, Value], key: str, cap: Value, *, lowered: Sequence[Layer]) -> None:
    """Hold `values[key]` to `cap`: as it is, lowered if its layer is one of `lowered`, or refused.

    Raises: CeilingError, which names both lines and what the operator would write.
    """
    if key == "environment":
        _variables(values, cap)
        return
    value = values[key]
    best, too_much = _capped(key, value.value, cap.value)
    if not too_much:
        return
    # Which GPUs to drop is not ours to choose, and a secret that is silently missing is a riddle at run time.
    if value.source.layer in lowered and key not in ("gpus", "secrets"):
        values[key] = Value(best, Source("ceiling", cap.source.file, cap.source.line))
        return
    raise _over(key, value, cap, too_much)


def _capped(key: str, value: Any, cap: Any) -> tuple[Any, Any]:
    """What is left of `value` under `cap`, and what is too much (falsy when nothing is)."""
    if key == "gpus":
        return value, len(value) > cap
    if key == "isolation":
        return cap, WALLS.index(value) < WALLS.index(cap)
    if key == "network":
        too_much = uncovered(value.allow, cap)
        return Network(allow=tuple(text for text in value.allow if text not in too_much)), too_much
    if key == "secrets":
        return value, tuple(secret for secret in value if cap.get(secret.name) != secret.host)
    return cap, value > cap


def _over(key: str, value: Value, cap: Value, too_much: Any) -> CeilingError:
    where = value.place()
    if key == "isolation":
        message = f"isolation {value.value} is weaker than the {cap.value} that is demanded ({cap.source})"
        return CeilingError(message, hint=f"write 'isolation: {cap.value}', or remove the line", **where)
    if key == "network":
        where = value.place("allow", value.value.allow.index(too_much[0]))
        message = f"network {too_much[0]} is not in the ceiling, {_listed(cap)}"
        lines = ", ".join(f'"{text}"' for text in too_much)
        return CeilingError(message, hint=_raise_it(key, f"[{lines}]", cap), **where)
    if key == "secrets":
        secret = too_much[0]
        where = value.place(value.value.index(secret))
        allowed = cap.value.get(secret.name)
        most = f"is for {allowed} only" if allowed else "is not in the ceiling"
        message = f"secret {secret.name} for {secret.host} {most} ({cap.source})"
        return CeilingError(message, hint=_raise_it(key, f'{{{secret.name}: "{secret.host}"}}', cap), **where)
    most = str(cap.value) if key == "gpus" else written(cap.value, key)
    shown = f"{len(value.value)} GPUs" if key == "gpus" else written(value.value, key)
    return CeilingError(
        f"{key} {shown} is over the ceiling of {most} ({cap.source})",
        hint=f"write at most {most}, or raise 'ceilings.{key}' in default.yaml if you are the operator",
        **where,
    )


def _variables(values: dict[str, Value], cap: Value) -> None:
    for key, value in values.items():
        section, _, name = key.partition(".")
        if section == "environment" and name and not allows_variable(cap.value, name):
            raise CeilingError(
                f"variable {name} is not in the ceiling, {_listed(cap)}",
                hint=f"remove it, or as the operator add {name} to 'ceilings.environment' in default.yaml",
                **value.place(),
            )


def _listed(cap: Value) -> str:
    what = written(cap.value, "network") if cap.value else "none"
    return f"{what if len(what) < 200 else f'{len(cap.value)} entries'} ({cap.source})"


def _raise_it(key: str, what: str, cap: Value) -> str:
    if cap.value:
        return f"the operator may add {what[1:-1]} to 'ceilings.{key}' ({cap.source})"
    return f"the operator may allow it in default.yaml: 'ceilings: {{{key}: {what}}}'"

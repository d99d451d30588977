"""What was denied, by which line of the policy, and which line would allow it; for a record's fields of these names."""

from __future__ import annotations

import re
from typing import Final, TypedDict

from policies import EffectivePolicy, ExtensionName, PolicyError, RingfenceError

_LINE: Final = re.compile(r"\(([^()\n]{1,300}\.yaml:[0-9]{1,7}|built in)\)")
_MORE: Final = "<more than now>"


class Denial(TypedDict, total=False):
    """Both empty where no policy had a say."""

    denied_by: str
    would_allow: str


def denial(error: RingfenceError) -> Denial:
    """Of an error of ours, which names the line of the policy in brackets where one decided."""
    if isinstance(error, PolicyError):
        where = f"{error.file}:{error.line}" if error.line else error.file
        return Denial(denied_by=where, would_allow=error.hint)
    found = _LINE.search(error.message) or _LINE.search(error.hint)
    return Denial(denied_by=found[1], would_allow=error.hint) if found else Denial()


def limit_key(limit: str, message: str) -> str | None:
    """The key of the policy behind the end of a sandbox; None where no limit of the policy ended it."""
    key = {"memory": "memory", "pids": "pids", "disk": "disk"}.get(limit)
    if key == "disk" and "disk_files cap" in message:
        key = "disk_files"
    if limit == "time":
        timeouts = (f"timeouts.{each}" for each in ("import", "call", "grace"))
        key = next((each for each in timeouts if each in message), None)
    return key


def at_limit(
    limit: str, message: str, policy: EffectivePolicy, extensions: tuple[ExtensionName, ...]
) -> Denial:
    """Of a sandbox that met a limit of its policy."""
    return _of(policy, extensions, limit_key(limit, message), _MORE)


def at_wall(
    hint: str, message: str, policy: EffectivePolicy, extensions: tuple[ExtensionName, ...]
) -> Denial:
    """Of an error that a pack raised itself; ``hint`` is what named the wall (``launcher/failure.py``)."""
    if "network" in hint:
        return _of(policy, extensions, "network", '{allow: ["HOST:443"]}')
    if "paths of its policy" in hint:
        path = next((part for part in re.split("['\"]", message) if part.startswith("/")), "/PATH")
        return _of(policy, extensions, "paths", f"[{{host: {path}, mount: /mnt/NAME, access: ro}}]")
    if "memory cap" in hint:
        return _of(policy, extensions, "memory", _MORE)
    if "pids cap" in hint:
        return _of(policy, extensions, "pids", _MORE)
    return Denial()


def _of(
    policy: EffectivePolicy, extensions: tuple[ExtensionName, ...], key: str | None, value: str
) -> Denial:
    if key is None or not extensions:
        return Denial()
    top, _, below = key.partition(".")
    line = f"{top}: {{{below}: {value}}}" if below else f"{top}: {value}"
    return Denial(denied_by=str(policy.source(key)), would_allow=f"in {extensions[0]}.yaml: {line}")

"""Locks: which files of the package index an extension runs with, remembered for as long as it needs what it needs.

A plan (``environment_plan``) is what is wished for; a lock is one answer to it, each version with the hashes of its
files. The answer is kept with the extension and given again whenever its environment is built anew, so that what the
index publishes later changes nothing until somebody asks for it. An environment is named by its lock: whoever has the
same lock on the same image has the same environment, and nobody can put other files under that name.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import replace

from pydantic import BaseModel, ConfigDict, Field

from policies import TenantId
from sandbox.environment_errors import PackageChangedError
from sandbox.environment_plan import FORMAT, Plan
from sandbox.launcher.build_verb import NodeImage
from sandbox.manifests import Declared
from sandbox.resolver_answers import Lock

_HASH = re.compile(r"--hash=(sha256:[0-9a-f]{64})(?=\s|$)")
_MISMATCH = re.compile(r"Hash mismatch for [`']?([A-Za-z0-9][A-Za-z0-9._-]*(?:==[A-Za-z0-9.!+_-]+)?)")
_ONE_HASH = re.compile(r"\bsha256:[0-9a-f]{64}\b")
_SHOWN = 4


class KeptLock(BaseModel):
    """The answer that an extension keeps, and what it is the answer to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    plan: str = Field(pattern=r"^[0-9a-f]{64}$")
    text: str = Field(max_length=4 * 1024 * 1024)
    """Each package with its version and hashes, without what the image has."""
    without: tuple[str, ...] = Field(default=(), max_length=64)
    """Packages that could not be had when it was made: one that appears later is not slipped in."""
    bare: bool = False
    """Made without what was only implied."""
    tools: str | None = Field(default=None, max_length=1024 * 1024)
    """What packages that are built from source install in order to be built, in the same form; None when nothing is
    built from source, or the lock is older than this."""

    @property
    def digest(self) -> str:
        """Names the lock."""
        return lock_digest(self.text + (f"\n# build tools\n{self.tools}" if self.tools else ""))


def lock_digest(text: str) -> str:
    """The hash of a lock."""
    return hashlib.sha256(text.encode()).hexdigest()


def environment_key(image: NodeImage, lock: Lock, tenant: TenantId | None, tools: str | None = None) -> str:
    """Names an environment by what it is made of: the image's interpreter and packages, and the locked files.

    Wheels are only unpacked, so an environment of wheels serves every tenant. Building from source runs the packages'
    code: one tenant's builds must not reach another, so then the tenant is part of the name.
    """
    parts = {
        "format": FORMAT,
        "interpreter": f"cpython-{image.python}",
        "platform": f"linux-{image.machine}",
        "image": dict(sorted(image.packages.items())),
        "lock": lock.text,
        "source_builds": tenant,
        **({} if tools is None else {"tools": tools}),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def locked_hashes(text: str) -> Mapping[str, tuple[str, ...]]:
    """Package name, as the lock has it, to the hashes of the files that it allows."""
    found: dict[str, tuple[str, ...]] = {}
    for line in text.replace("\\\n", " ").splitlines():
        name, pinned, _ = line.partition("==")
        if pinned:
            found[name.strip().partition("[")[0]] = tuple(_HASH.findall(line))
    return found


def changed_package(lines: tuple[str, ...]) -> tuple[str, tuple[str, ...], tuple[str, ...]] | None:
    """What an installer said of a file whose hash is not the locked one: package, locked hashes, hashes found."""
    for number, line in enumerate(lines):
        match = _MISMATCH.search(line)
        if match is None:
            continue
        sides: dict[str, list[str]] = {"expected": [], "computed": []}
        side = "expected"
        for rest in lines[number + 1 :]:
            word = rest.strip().rstrip(":").lower()
            side = word if word in sides else side
            sides[side] += _ONE_HASH.findall(rest)
        return match[1], tuple(sides["expected"][:_SHOWN]), tuple(sides["computed"][:_SHOWN])
    return None


def as_before(declared: Declared, kept: KeptLock) -> Declared:
    """What the pack declares, with the same left out as when its lock was made."""
    notes = (*declared.notes, not_to_be_had(frozenset(kept.without))) if kept.without else declared.notes
    return replace(declared, notes=notes, implied=() if kept.bare else declared.implied)


def not_to_be_had(names: frozenset[str]) -> str:
    """What is said of packages that could not be had."""
    return (
        f"left out: {', '.join(sorted(names))} (not in the package index, or without a ready-made "
        "wheel for this Python); an import of it fails. If the pack needs it: 'build: {source_builds: true}' in its "
        "policy builds it from source, where the index has that; else the pack has to ask for another version"
    )


def preferences(plan: Plan, image: NodeImage, kept: KeptLock | None) -> tuple[str, ...]:
    """The versions that a resolver keeps to where it can: the image's, and those that the extension had."""
    if kept is None:
        return plan.preferences
    mine = (pin for pin in pinned(kept.text) if pin.partition("==")[0] not in image.packages)
    return (*plan.preferences, *mine)


def pinned(text: str) -> tuple[str, ...]:
    """Each ``name==version`` of a lock."""
    had = (line.split()[0] for line in text.splitlines() if line.strip() and not line[0].isspace())
    return tuple(pin for pin in had if "==" in pin)


def refuse_changed(before: Mapping[str, tuple[str, ...]], old: str, new: str) -> None:
    """Raises: PackageChangedError when a version that was locked has none of its files any more."""
    after = locked_hashes(new)
    pins = {line.split()[0] for line in old.splitlines() if "==" in line}
    for line in new.splitlines():
        pin = line.split()[0] if "==" in line else ""
        name = pin.partition("==")[0]
        if pin in pins and before.get(name) and not set(before[name]) & set(after.get(name, ())):
            raise PackageChangedError(pin, before[name][:4], after.get(name, ())[:4])

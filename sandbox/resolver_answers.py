"""What a resolver says: a list of pinned packages, of which an environment takes those that the image has not, or what
cannot be had. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from sandbox.environment_errors import BuildFailedError
from sandbox.image_fit import VARIANTS_WITH, fits_the_torch_there_is, is_torch_family, name_of
from sandbox.launcher.build_verb import NodeImage


@dataclass(frozen=True, slots=True)
class Lock:
    """A resolved set, without what the image has already."""

    text: str
    packages: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def prune_lock(text: str, image: NodeImage, *, keep_torch: bool) -> Lock:
    """Drop from a resolver's output what the image has at the same version, and torch's kin.

    Raises: BuildFailedError when the output is not a list of pinned, hashed packages.
    """
    kept: list[str] = []
    packages: dict[str, str] = {}
    notes: list[str] = []
    for block in _blocks(text):
        name, version = _pin(block)
        if _same_version(image.packages.get(name), version):
            continue
        if is_torch_family(name) and not keep_torch and not fits_the_torch_there_is(name, version, image):
            where = VARIANTS_WITH.get(name)
            notes.append(
                f"{name} is wanted by another package and left out: image variant '{image.variant}' does not have it"
                + (f", {where} has" if where else "")
            )
            continue
        if "--hash=" not in block:
            raise BuildFailedError(f"the resolver gave no hash for {name} {version}")
        packages[name] = version
        kept.append(block)
    return Lock("".join(kept), packages, tuple(notes))


_UNOBTAINABLE = (
    re.compile(r"[Ww]heels are required for `([A-Za-z0-9._-]+)` because building from source is disabled"),
    re.compile(r"[Bb]ecause ([A-Za-z0-9._-]+) was not found in the package registry"),
    re.compile(
        r"[Bb]ecause (?:only |all versions of )?([A-Za-z0-9._-]+?)(?:[=<>!~]=?\S+)? ha(?:s|ve) no (?:usable )?wheels"
    ),
)


def unobtainable(text: str) -> frozenset[str]:
    """Packages of which a resolver says that there is none to be had: not in the index, or no wheel for this Python."""
    return frozenset(canonicalize_name(match[1]) for words in _UNOBTAINABLE for match in words.finditer(text))


def _blocks(text: str) -> Iterable[str]:
    """Each requirement of a lock with the hash lines that follow it."""
    block: list[str] = []
    for line in text.splitlines(keepends=True):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if not line[0].isspace() and block:
            yield "".join(block)
            block = []
        block.append(line)
    if block:
        yield "".join(block)


_PINNED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[^\s;\\]+")


def _pin(block: str) -> tuple[str, str]:
    match = _PINNED.match(block)
    try:
        if match is None:
            raise InvalidRequirement(block[:80])
        requirement = Requirement(match[0])
    except InvalidRequirement as error:
        raise BuildFailedError(f"the resolver gave an entry that is not a pinned package: {error}") from None
    return name_of(requirement), match[0].partition("==")[2]


def _same_version(ours: str | None, theirs: str) -> bool:
    if ours is None:
        return False
    try:
        return Version(ours) == Version(theirs)
    except InvalidVersion:
        return ours == theirs

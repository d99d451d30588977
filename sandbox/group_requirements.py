"""One environment for the members of a sandbox group: their requirements added up, and where two contradict each other.

Members share one Python process, so there is one version of every package for all of them. Pure: no network, no
resolution; what only a resolver can see (a dependency of a dependency) fails later, and is told with the same names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations, islice

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from policies import ExtensionName
from sandbox.environment_errors import BuildFailedError, GroupConflictError
from sandbox.manifests import Declared
from sandbox.requirement_lines import Wanted

_MAX_SHOWN = 8
_MAX_PAIRS = 500  # of two members; for what is beyond, and for longer wishes, there is the resolver
_MAX_SPECIFIERS = 50


def group_title(group: str, members: Mapping[ExtensionName, object]) -> str:
    """``sandbox group 'studio' (extensions 'a', 'b')``."""
    return f"sandbox group '{group}' (extensions {', '.join(repr(str(name)) for name in members)})"


def merge_declared(
    group: str, members: Mapping[ExtensionName, Declared], files: Mapping[ExtensionName, str]
) -> Declared:
    """What the members need together; each place names its member. May take seconds: not for the event loop.

    ``files`` says in which file each member's policy is written.

    Raises: GroupConflictError naming both members and both requirements when no version can suit two of them.
    """
    named = {name: _placed(name, declared) for name, declared in members.items()}
    for (one, first), (two, second) in combinations(named.items(), 2):
        pairs = _pairs((*first.wanted, *first.constraints), (*second.wanted, *second.constraints))
        for ours, theirs in islice(pairs, _MAX_PAIRS):
            if not _can_agree(ours.requirement.specifier & theirs.requirement.specifier):
                raise GroupConflictError(
                    f"{group_title(group, members)} cannot have one environment: extension '{one}' wants "
                    f"'{ours.requirement}' ({_file(ours)}) and extension '{two}' wants '{theirs.requirement}' "
                    f"({_file(theirs)})",
                    hint=_hint(group, files[two]),
                )
    every = named.values()
    return Declared(
        tuple(item for declared in every for item in declared.wanted),
        tuple(item for declared in every for item in declared.constraints),
        tuple(ask for declared in every for ask in declared.asks),
        tuple(note for declared in every for note in declared.notes),
        tuple(item for declared in every for item in declared.implied),
    )


def told_of_group(
    error: BuildFailedError,
    group: str,
    members: Mapping[ExtensionName, Declared],
    files: Mapping[ExtensionName, str],
) -> GroupConflictError:
    """A resolver's failure with what each member wants of the packages that it speaks of."""
    text = " ".join((error.message, *error.lines))
    wants = [
        f"'{name}' wants '{item.requirement}'"
        for name, declared in members.items()
        for item in declared.wanted
        if canonicalize_name(item.requirement.name) in text or item.requirement.name in text
    ]
    shown = f" ({'; '.join(wants[:_MAX_SHOWN])})" if wants else ""
    return GroupConflictError(
        f"{group_title(group, members)} cannot have one environment{shown}: {error.message}",
        hint=_hint(group, files[list(members)[-1]]),
    )


def _hint(group: str, file: str) -> str:
    return (
        f"loosen one of the requirements, or take one of them out of the group (remove 'group: {group}' from "
        f"{file}): then each has an environment of its own, and they cannot share live objects"
    )


def _placed(name: ExtensionName, declared: Declared) -> Declared:
    return Declared(
        tuple(Wanted(item.requirement, f"{name}: {item.place}") for item in declared.wanted),
        tuple(Wanted(item.requirement, f"{name}: {item.place}") for item in declared.constraints),
        declared.asks,
        tuple(f"{name}: {note}" for note in declared.notes),
        tuple(Wanted(item.requirement, f"{name}: {item.place}") for item in declared.implied),
    )


def _file(item: Wanted) -> str:
    return item.place.partition(": ")[2]


def _pairs(first: tuple[Wanted, ...], second: tuple[Wanted, ...]) -> Iterator[tuple[Wanted, Wanted]]:
    by_name: dict[str, list[Wanted]] = {}
    for item in second:
        by_name.setdefault(canonicalize_name(item.requirement.name), []).append(item)
    for item in first:
        for other in by_name.get(canonicalize_name(item.requirement.name), ()):
            if item.requirement.marker == other.requirement.marker:  # else they may never hold together
                yield item, other


def _can_agree(both: SpecifierSet) -> bool:
    """Whether some version could satisfy the set: tried with the versions it names and their neighbours."""
    return not 0 < len(both) <= _MAX_SPECIFIERS or any(
        both.contains(candidate, prereleases=True) for candidate in _candidates(both)
    )


def _candidates(specifiers: SpecifierSet) -> Iterator[Version]:
    yield Version("0")
    for specifier in specifiers:
        try:
            version = Version(specifier.version.removesuffix(".*"))
        except InvalidVersion:
            continue
        yield version
        release = version.release
        yield Version(".".join(map(str, (*release, 0, 0, 1))))  # just above
        yield Version(".".join(map(str, (*release[:-1], release[-1] + 1))))
        for place in range(len(release)):  # just below, at every level
            if release[place]:
                below = (*release[:place], release[place] - 1, 99_999)
                yield Version(f"{version.epoch}!{'.'.join(map(str, below))}")

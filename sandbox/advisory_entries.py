"""One entry of a database in OSV's format: of which packages of PyPI it speaks, which versions, and how bad it is.

Whoever wrote it is not trusted: counts and lengths are bounded, and what is not as it should be refuses the entry.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from packaging.utils import canonicalize_name, canonicalize_version
from packaging.version import InvalidVersion, Version

from policies import safe_text
from sandbox.cvss import base_score, level_of

_MAX_AFFECTED: Final = 200
_MAX_EVENTS: Final = 2_000
_MAX_VERSIONS: Final = 10_000
_MAX_ALIASES: Final = 50
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{1,63}\Z")
_WORDS: Final = {
    "CRITICAL": "critical",
    "HIGH": "high",
    "MODERATE": "medium",
    "MEDIUM": "medium",
    "LOW": "low",
}
LEVELS: Final = ("critical", "high", "medium", "low", "none", "unknown")


@dataclass(frozen=True, slots=True)
class Range:
    """From ``introduced`` until before ``fixed``, or up to and with ``last``."""

    introduced: Version | None
    """None: from the first version on."""
    fixed: Version | None = None
    last: Version | None = None

    def has(self, version: Version) -> bool:
        """Whether it is one of them."""
        if self.introduced is not None and version < self.introduced:
            return False
        if self.fixed is not None and version >= self.fixed:
            return False
        return self.last is None or version <= self.last


@dataclass(frozen=True, slots=True)
class Affected:
    """Which versions of a package an entry is about."""

    package: str
    versions: frozenset[str]
    ranges: tuple[Range, ...]

    def has(self, text: str, version: Version | None) -> bool:
        """Whether a version is named, or within a range; ``version`` is ``text`` understood."""
        if canonicalize_version(text) in self.versions:
            return True
        return version is not None and any(each.has(version) for each in self.ranges)

    def fixed_in(self, version: Version | None) -> str:
        """The first version without it, where that is known."""
        fixes = [each.fixed for each in self.ranges if each.fixed and version and each.has(version)]
        return str(min(fixes)) if fixes else ""


@dataclass(frozen=True, slots=True)
class Advisory:
    """One entry of the database, as far as it concerns packages of PyPI."""

    id: str
    aliases: tuple[str, ...]
    summary: str
    level: str
    score: float | None
    affected: tuple[Affected, ...]


def parse_advisory(data: Any) -> Advisory | None:
    """One entry; None when it was withdrawn or concerns nothing of PyPI. Raises: ValueError when it is malformed."""
    if not isinstance(data, dict) or not isinstance(data.get("id"), str) or not _ID.match(data["id"]):
        raise ValueError("no id")
    if data.get("withdrawn"):
        return None
    affected = [each for each in _list(data, "affected", _MAX_AFFECTED) if _of_pypi(each)]
    if not affected:
        return None
    score, level = _severity(data, affected)
    if data["id"].startswith("MAL-"):
        level = "critical"  # the package itself is the attack
    return Advisory(
        id=data["id"],
        aliases=tuple(
            each for each in _list(data, "aliases", _MAX_ALIASES) if isinstance(each, str) and _ID.match(each)
        ),
        summary=safe_text(_text(data, "summary") or _text(data, "details").partition("\n")[0], 200),
        level=level,
        score=score,
        affected=tuple(_affected(each) for each in affected),
    )


def _of_pypi(affected: Any) -> bool:
    package = affected.get("package") if isinstance(affected, dict) else None
    if not isinstance(package, dict) or not isinstance(package.get("name"), str):
        return False
    return package.get("ecosystem") == "PyPI" and len(package["name"]) <= 200


def _affected(data: Mapping[str, Any]) -> Affected:
    ranges: list[Range] = []
    for each in _list(data, "ranges", _MAX_AFFECTED):
        if isinstance(each, dict) and each.get("type") == "ECOSYSTEM":
            ranges += _ranges(_list(each, "events", _MAX_EVENTS))
    versions = (each for each in _list(data, "versions", _MAX_VERSIONS) if isinstance(each, str))
    return Affected(
        canonicalize_name(data["package"]["name"]),
        frozenset(canonicalize_version(each) for each in versions if len(each) <= 100),
        tuple(ranges),
    )


def _ranges(events: Iterable[Any]) -> list[Range]:
    """Events in the order of their versions, each introduction with the end that follows it."""
    dated: list[tuple[Version | None, str]] = []
    for event in events:
        if not isinstance(event, dict) or len(event) != 1:
            continue
        ((kind, text),) = event.items()
        if kind not in ("introduced", "fixed", "last_affected") or not isinstance(text, str):
            continue
        version = None if kind == "introduced" and text == "0" else parse_version(text)
        if version is None and not (kind == "introduced" and text == "0"):
            raise ValueError(f"no version: {text[:40]!r}")
        dated.append((version, kind))
    floor = Version("0.dev0")
    dated.sort(key=lambda each: (each[0] or floor, each[1] == "introduced"))
    found: list[Range] = []
    is_open = False
    for version, kind in dated:
        if kind == "introduced":
            if not is_open:
                found.append(Range(version))
                is_open = True
        elif is_open:
            last = found.pop()
            found.append(replace(last, fixed=version) if kind == "fixed" else replace(last, last=version))
            is_open = False
    return found


def _severity(data: Mapping[str, Any], affected: Iterable[Mapping[str, Any]]) -> tuple[float | None, str]:
    stated = [*_list(data, "severity", 20)]
    for each in affected:
        stated += _list(each, "severity", 20)
    scores = [
        score
        for each in stated
        if isinstance(each, dict) and isinstance(each.get("score"), str)
        if (score := base_score(each["score"])) is not None
    ]
    if scores:
        return max(scores), level_of(max(scores))
    specific = data.get("database_specific")
    word = specific.get("severity") if isinstance(specific, dict) else None
    return None, _WORDS.get(word.upper(), "unknown") if isinstance(word, str) else "unknown"


def parse_version(text: str) -> Version | None:
    """A version as PyPI's entries count it; None when it is none."""
    try:
        # Without what stands behind a "+": it says how a version was built, and 2.0+cpu has the holes of 2.0.
        return Version(Version(text).public) if len(text) <= 100 else None
    except InvalidVersion:
        return None


def _list(data: Mapping[str, Any], key: str, most: int) -> list[Any]:
    value = data.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > most:
        raise ValueError(f"'{key}' is no list, or has more than {most} entries")
    return value


def _text(data: Mapping[str, Any], key: str) -> str:
    value = data.get(key)
    return value if isinstance(value, str) else ""

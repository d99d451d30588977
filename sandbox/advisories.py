"""Known vulnerabilities, from a database in OSV's format that the operator has on this machine. No network.

The database is a directory with ``all.zip`` of OSV's PyPI export (at its top or in ``PyPI/``), or with its entries as
single JSON files, or the zip itself. Whoever wrote the entries is not trusted: sizes, counts and depth are bounded, an
entry that is not as it should be is counted and left out, and nothing in it becomes a path, a pattern or code.
"""

from __future__ import annotations

import logging
import re
import threading
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from packaging.version import Version

from policies import RingfenceError, safe_text
from sandbox.advisory_entries import LEVELS, Advisory, parse_advisory, parse_version
from sandbox.errors import ProtocolViolationError
from sandbox.hostile_json import parse
from sandbox.inventory import Package

log = logging.getLogger(__name__)

MAX_ENTRY: Final = 1024 * 1024
MAX_ENTRIES: Final = 300_000
MAX_TOTAL: Final = 1024**3
_MODIFIED: Final = re.compile(r"\d{4}-\d\d-\d\dT[0-9:.]{5,20}Z\Z")


class AdvisoryDatabaseError(RingfenceError):
    """There is no database of known vulnerabilities, or it cannot be read."""

    code = "advisories"


@dataclass(frozen=True, slots=True)
class Finding:
    """A known vulnerability of a package that an extension can import."""

    package: str
    version: str
    comes_from: str
    id: str
    aliases: tuple[str, ...]
    level: str
    """One of ``LEVELS``."""
    score: float | None
    """CVSS 3 base score, where the entry has a vector."""
    summary: str
    fixed_in: str
    """The first version without it, where the entry says so."""


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """What a database is."""

    path: Path
    entries: int
    refused: int
    """Entries that were not as they should be."""
    newest: str
    """When the newest entry was changed."""


class AdvisoryDatabase:
    """Reads the database when it is asked and whenever its file changed. Blocks on the disk; safe to share."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._read: tuple[object, Mapping[str, tuple[Advisory, ...]], DatabaseFacts] | None = None

    @property
    def is_set(self) -> bool:
        """Whether the operator named one."""
        return self._path is not None

    def facts(self) -> DatabaseFacts:
        """Raises: AdvisoryDatabaseError."""
        return self._current()[1]

    def findings(self, packages: Iterable[Package]) -> tuple[Finding, ...]:
        """What is known of these packages, worst first; entries that are aliases of each other count once.

        Raises: AdvisoryDatabaseError.
        """
        known, _ = self._current()
        found: list[Finding] = []
        for package in packages:
            version = parse_version(package.version)
            mine = [_finding(package, version, each) for each in known.get(package.name, ())]
            found += _merged([each for each in mine if each is not None])
        return tuple(sorted(found, key=lambda each: (LEVELS.index(each.level), each.package, each.id)))

    def _current(self) -> tuple[Mapping[str, tuple[Advisory, ...]], DatabaseFacts]:
        if self._path is None:
            raise AdvisoryDatabaseError(
                "no database of known vulnerabilities is set, so nothing was looked up",
                hint="set RINGFENCE_OSV_DIR to a directory with OSV's PyPI export (docs/operating.md)",
            )
        with self._lock:
            try:
                stamp = _stamp(self._path)
                if self._read is None or self._read[0] != stamp:
                    self._read = (stamp, *_load(self._path))
            except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
                raise AdvisoryDatabaseError(
                    f"the database of known vulnerabilities cannot be read: {_reason(error)}",
                    hint="RINGFENCE_OSV_DIR is a directory with all.zip of OSV's PyPI export, or with its JSON files",
                ) from error
            return self._read[1], self._read[2]


def _reason(error: Exception) -> str:
    # Tenants ask, too, and where it lies is the operator's own business.
    return (isinstance(error, OSError) and error.strerror) or safe_text(str(error), 200)


def _archive(path: Path) -> Path | None:
    if path.is_file():
        return path
    return next((each for each in (path / "all.zip", path / "PyPI" / "all.zip") if each.is_file()), None)


def _stamp(path: Path) -> object:
    archive = _archive(path)
    if archive is not None:
        status = archive.stat()
        return (str(archive), status.st_mtime_ns, status.st_size, status.st_ino)
    # Files may change one by one; their directory's time says when one came or went.
    return sorted((each.name, each.stat().st_mtime_ns) for each in path.glob("*.json"))


def _load(path: Path) -> tuple[Mapping[str, tuple[Advisory, ...]], DatabaseFacts]:
    archive = _archive(path)
    texts = _from_zip(archive) if archive is not None else _from_files(path)
    known: dict[str, list[Advisory]] = {}
    entries = refused = 0
    newest = ""
    for text in texts:
        entries += 1
        try:
            if text is None:
                raise ValueError("too large")
            data = parse(text)
            advisory = parse_advisory(data)
        except (ValueError, ProtocolViolationError):
            refused += 1
            continue
        modified = data.get("modified")
        if isinstance(modified, str) and _MODIFIED.match(modified):
            newest = max(newest, modified)
        if advisory is not None:
            for name in {each.package for each in advisory.affected}:
                known.setdefault(name, []).append(advisory)
    if not entries:
        raise FileNotFoundError("there is no all.zip and no entry (*.json) in it")
    if refused:
        log.warning(
            "%d of %d entries of %s are not as they should be and are left out", refused, entries, path
        )
    return (
        {name: tuple(each) for name, each in known.items()},
        DatabaseFacts(path, entries, refused, newest),
    )


def _from_zip(archive: Path) -> Iterator[bytes | None]:
    total = 0
    with zipfile.ZipFile(archive) as opened:
        for number, info in enumerate(opened.infolist()):
            if number >= MAX_ENTRIES or total > MAX_TOTAL:
                raise zipfile.BadZipFile(f"more than {MAX_ENTRIES} entries or {MAX_TOTAL // 1024**2} MiB")
            if info.is_dir() or not info.filename.endswith(".json"):
                continue
            try:
                with opened.open(info) as stream:
                    text = stream.read(MAX_ENTRY + 1)  # what the entry says of its size is not believed
            except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, NotImplementedError, ValueError):
                yield None
                continue
            total += len(text)
            yield text if len(text) <= MAX_ENTRY else None


def _from_files(directory: Path) -> Iterator[bytes | None]:
    for number, file in enumerate(sorted(directory.glob("*.json"))):
        if number >= MAX_ENTRIES:
            raise OSError(f"more than {MAX_ENTRIES} entries")
        with file.open("rb") as stream:
            text = stream.read(MAX_ENTRY + 1)
        yield text if len(text) <= MAX_ENTRY else None


def _finding(package: Package, version: Version | None, advisory: Advisory) -> Finding | None:
    for affected in advisory.affected:
        if affected.package == package.name and affected.has(package.version.partition("+")[0], version):
            return Finding(
                package=package.name,
                version=package.version,
                comes_from=package.comes_from,
                id=advisory.id,
                aliases=advisory.aliases,
                level=advisory.level,
                score=advisory.score,
                summary=advisory.summary,
                fixed_in=affected.fixed_in(version),
            )
    return None


def _merged(findings: list[Finding]) -> list[Finding]:
    """One finding for all entries that name each other: the worst of them, with what the others know."""
    kept: list[Finding] = []
    for each in sorted(findings, key=lambda item: (LEVELS.index(item.level), item.id)):
        names = {each.id, *each.aliases}
        same = next((other for other in kept if names & {other.id, *other.aliases}), None)
        if same is None:
            kept.append(each)
            continue
        joined = replace(
            same,
            aliases=tuple(sorted({*same.aliases, *names} - {same.id})),
            summary=same.summary or each.summary,
            fixed_in=same.fixed_in or each.fixed_in,
        )
        kept[kept.index(same)] = joined
    return kept

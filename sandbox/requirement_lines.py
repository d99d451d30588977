"""The lines of a ``requirements.txt``, read strictly: what a pack may ask of the package index, and nothing more.

A pack's file is hostile input that would steer an installer. Allowed: names with extras, versions and environment
markers, comments, ``-r`` and ``-c`` of files inside the pack. Refused, by line: options that move the installer to
another index, paths, editable requirements. Left out, with a note: what is fetched from a URL or a repository. Here is
no network and no resolution.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from packaging.requirements import InvalidRequirement, Requirement

from policies import safe_text
from sandbox.environment_errors import DependencyRefusedError, DirectReferenceError

MAX_BYTES = 64 * 1024
MAX_LINE = 1_000
MAX_REQUIREMENTS = 500
MAX_FILES = 8

_COMMENT = re.compile(r"(?:^|\s)#.*$")
_HASH_OPTION = re.compile(r"\s--hash[=\s]\S+")
_INCLUDE = re.compile(r"(?:-r|-c|--requirement|--constraint)(?:[=\s]\s*|(?=[^-\s]))(?P<file>.+)\Z")
_PATH_OR_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|(?:git|hg|svn|bzr)\+|\.{0,2}/|~|[A-Za-z]:\\")
_REMOTE = re.compile(
    r"(?:[A-Za-z0-9._-]+(?:\[[^\]]*\])?\s*@\s*)?(?:(?:(?:git|hg|svn|bzr)\+)?(?:https?|ssh|git)://|git\+)",
    re.IGNORECASE,
)
_ARCHIVE = re.compile(r"\.(?:whl|zip|tar\.gz)\Z")


_NO_OTHER_SOURCE = (
    "remove the line; the package index is the operator's setting (UV_DEFAULT_INDEX, UV_INDEX of the host)"
)
_NO_DIRECT_REFERENCE = (
    "write the package's name and version as the index has it, or put a copy of its code into the pack"
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """One requirement and where the pack says it (``requirements.txt:3``)."""

    requirement: Requirement
    place: str


@dataclass(frozen=True, slots=True)
class RequirementFile:
    """What a requirements file says, includes followed."""

    wanted: tuple[Wanted, ...]
    constraints: tuple[Wanted, ...]
    notes: tuple[str, ...] = ()


def read_text(file: Path, shown: str) -> str:
    """The text of a small file of a pack. Raises: DependencyRefusedError when it is too large or not text."""
    with file.open("rb") as stream:
        raw = stream.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise DependencyRefusedError(
            f"the file has more than {MAX_BYTES // 1024} KiB",
            place=shown,
            hint="keep only the requirements in it",
        )
    encoding = "utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError:
        raise DependencyRefusedError(
            "this is not UTF-8 text", place=shown, hint="save the file as UTF-8"
        ) from None


def parse_requirement(text: str, place: str) -> Requirement:
    """One requirement by name. Raises: DependencyRefusedError for URLs, paths and whatever cannot be read."""
    if len(text) > MAX_LINE:
        raise DependencyRefusedError(f"the line has more than {MAX_LINE} characters", place=place)
    shown = safe_text(text, 120)
    if "${" in text:
        raise DependencyRefusedError(
            f"'{shown}' names an environment variable", place=place, hint="write the value out"
        )
    if _REMOTE.match(text):
        raise DirectReferenceError(
            f"'{shown}' is a URL or a path, not a package of the index",
            place=place,
            hint=_NO_DIRECT_REFERENCE,
        )
    if _PATH_OR_URL.match(text) or _ARCHIVE.search(text.partition(";")[0].strip()):
        raise DependencyRefusedError(
            f"'{shown}' is a URL or a path, not a package of the index",
            place=place,
            hint=_NO_DIRECT_REFERENCE,
        )
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        reason = safe_text(str(error).splitlines()[0], 200)
        raise DependencyRefusedError(
            f"'{shown}' is not a requirement: {reason}", place=place, hint="write it as 'name>=1.2,<2'"
        ) from None
    if requirement.url is not None:
        raise DependencyRefusedError(
            f"'{shown}' is fetched from a URL", place=place, hint=_NO_DIRECT_REFERENCE
        )
    return requirement


def read_requirements(pack: Path, name: str = "requirements.txt") -> RequirementFile:
    """The requirements of a pack's file and of the files it includes; empty when there is none.

    Raises: DependencyRefusedError naming the line.
    """
    reader = _Reader(pack.resolve())
    if (pack / name).is_file():
        reader.read(PurePosixPath(name), constraint=False)
    return RequirementFile(tuple(reader.wanted), tuple(reader.constraints), tuple(reader.notes))


def left_out(error: DirectReferenceError) -> str:
    """What is said of a requirement that is fetched from elsewhere: the pack goes on without it."""
    return f"{error.message}: left out, and an import of it fails; {error.hint}"


class _Reader:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.wanted: list[Wanted] = []
        self.constraints: list[Wanted] = []
        self.notes: list[str] = []
        self.seen: set[tuple[Path, bool]] = set()

    def read(self, name: PurePosixPath, *, constraint: bool) -> None:
        shown = safe_text(str(name), 120)
        file = (self.root / name).resolve()
        if (file, constraint) in self.seen:
            return
        self.seen.add((file, constraint))
        if len(self.seen) > MAX_FILES:
            raise DependencyRefusedError(f"more than {MAX_FILES} files are included", place=shown)
        for number, line in _logical_lines(read_text(file, shown)):
            self._take(line, f"{shown}:{number}", name, constraint=constraint)

    def _take(self, line: str, place: str, name: PurePosixPath, *, constraint: bool) -> None:
        if line.startswith("-"):
            included = self._included(line, place, name)
            self.read(included, constraint=constraint or line.startswith(("-c", "--constraint")))
            return
        into = self.constraints if constraint else self.wanted
        if len(into) >= MAX_REQUIREMENTS:
            raise DependencyRefusedError(f"more than {MAX_REQUIREMENTS} requirements", place=place)
        # A pack's own hashes are not needed: the environment is locked with hashes of its own.
        try:
            into.append(Wanted(parse_requirement(_HASH_OPTION.sub("", line).strip(), place), place))
        except DirectReferenceError as error:
            if len(self.notes) < MAX_FILES:
                self.notes.append(left_out(error))

    def _included(self, line: str, place: str, name: PurePosixPath) -> PurePosixPath:
        shown = safe_text(line, 120)
        match = _INCLUDE.match(line)
        if match is None:
            hint = _NO_DIRECT_REFERENCE if line.startswith(("-e", "--editable")) else _NO_OTHER_SOURCE
            raise DependencyRefusedError(f"the option '{shown}' is not allowed", place=place, hint=hint)
        target = name.parent / match["file"].strip().replace("\\", "/")
        try:
            resolved = (self.root / target).resolve()
            # Resolved, by component: `-r ../../etc/passwd` would put other people's files into an error message.
            is_ours = "://" not in line and resolved.is_relative_to(self.root) and resolved.is_file()
        except (OSError, ValueError):  # too long for a name, or not one at all
            is_ours = False
        if not is_ours:
            raise DependencyRefusedError(
                f"'{shown}' does not name a file inside the pack",
                place=place,
                hint="include only files of the pack",
            )
        return PurePosixPath(resolved.relative_to(self.root).as_posix())


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines without comments, continued lines joined, each with the number it starts at."""
    start, parts = 0, list[str]()
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw if parts and raw.lstrip().startswith("#") else _COMMENT.sub("", raw)
        start = start if parts else number
        if line.rstrip().endswith("\\"):
            parts.append(line.rstrip()[:-1])
            continue
        whole = "".join([*parts, line]).strip()
        parts = []
        if whole:
            yield start, whole
    if whole := "".join(parts).strip():
        yield start, whole

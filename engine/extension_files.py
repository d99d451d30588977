"""Taking a pack's files over: a bounded copy of regular files, and the hash that pins what was copied.

A pack's directory is hostile: links that lead elsewhere, devices, trees without end. The copy holds nothing but
directories and regular files, so that later a sandbox mounts exactly what was hashed. No file is interpreted here.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.extension_errors import SourceRefusedError
from policies import safe_text

SKIPPED_DIRECTORIES = frozenset({".git", ".hg", ".svn", "__pycache__", ".venv", "node_modules"})
_CHUNK = 1024 * 1024


@dataclass(frozen=True, slots=True)
class SourceLimits:
    """How much a pack may be."""

    files: int = 20_000
    nbytes: int = 1024**3
    depth: int = 32


@dataclass(frozen=True, slots=True)
class CopiedSource:
    """What was copied."""

    content_hash: str
    files: int
    nbytes: int


def copy_source(source: Path, target: Path, limits: SourceLimits) -> CopiedSource:
    """Copy the pack at ``source`` (a directory, or one .py file) to the new directory ``target`` and hash it.

    Raises: SourceRefusedError when it is not a pack, too large, or holds what may not be in one; ``target`` is gone.
    """
    try:
        root = source.resolve(strict=True)
    except (OSError, RuntimeError):
        raise SourceRefusedError(
            f"there is nothing at '{safe_text(str(source))}'",
            hint="give a directory, a .py file or a git URL",
        ) from None
    _check_kind(root)
    target.mkdir(parents=True)
    try:
        copy = _Copy(root, target, limits)
        if root.is_dir():
            copy.directory(root, "", 0)
        else:
            # One file is a pack too; as a folder with __init__.py every pack is loaded in one way.
            copy.file(root, "__init__.py")
        return copy.result()
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def hash_tree(root: Path) -> str:
    """The content hash of a tree that ``copy_source`` made."""
    digests = {}
    for path in sorted(root.rglob("*")):
        if path.is_file():
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            digests[path.relative_to(root).as_posix()] = digest
    return _combined(digests)


def _check_kind(root: Path) -> None:
    if root.is_file():
        if root.suffix != ".py":
            raise SourceRefusedError(
                f"'{safe_text(root.name)}' is not a Python file",
                hint="give the pack's directory or its .py file",
            )
        return
    if not (root / "__init__.py").is_file():
        single = sorted(path.name for path in root.glob("*.py"))[:5]
        hint = "give the directory that holds the pack's __init__.py"
        if single:
            hint += f", or one file: {safe_text(', '.join(single), 200)}"
        raise SourceRefusedError(
            f"'{safe_text(root.name)}' is not a node pack: it has no __init__.py", hint=hint
        )


class _Copy:
    def __init__(self, root: Path, target: Path, limits: SourceLimits) -> None:
        self.root = root
        self.target = target
        self.limits = limits
        self.digests: dict[str, str] = {}
        self.nbytes = 0
        self.entries = 0

    def directory(self, directory: Path, relative: str, depth: int) -> None:
        if depth > self.limits.depth:
            raise SourceRefusedError(
                f"'{safe_text(relative)}' is more than {self.limits.depth} directories deep"
            )
        for entry in self._entries(directory):
            name = f"{relative}{entry.name}"
            path = self._inside(entry, name)
            if path.is_dir():
                if entry.name not in SKIPPED_DIRECTORIES:
                    (self.target / name).mkdir()
                    (self.target / name).chmod(0o755)  # whatever the umask: the worker has a uid of its own
                    self.directory(path, f"{name}/", depth + 1)
            else:
                self.file(path, name)

    def _entries(self, directory: Path) -> Iterator[os.DirEntry[str]]:
        with os.scandir(directory) as entries:
            for entry in entries:
                self.entries += 1
                if self.entries > self.limits.files:
                    raise SourceRefusedError(
                        f"the pack has more than {self.limits.files} files",
                        hint="add it without its models, outputs and environments",
                    )
                yield entry

    def _inside(self, entry: os.DirEntry[str], name: str) -> Path:
        if not entry.is_symlink():
            return Path(entry.path)
        try:
            path = Path(entry.path).resolve(strict=True)
        except (OSError, RuntimeError):
            raise SourceRefusedError(
                f"'{safe_text(name)}' is a link that leads nowhere", hint="remove the link"
            ) from None
        if not path.is_relative_to(self.root):
            raise SourceRefusedError(
                f"'{safe_text(name)}' is a link out of the pack", hint="put the file itself into the pack"
            )
        return path

    def file(self, path: Path, name: str) -> None:
        # NOFOLLOW and fstat: what is opened is what was looked at, whoever swaps it meanwhile; NONBLOCK for pipes.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as source:
            status = os.fstat(source.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise SourceRefusedError(
                    f"'{safe_text(name)}' is not a regular file", hint="remove it from the pack"
                )
            target = self.target / name
            digest = hashlib.sha256()
            with target.open("xb") as copy:
                while chunk := source.read(_CHUNK):
                    self.nbytes += len(chunk)
                    if self.nbytes > self.limits.nbytes:
                        raise SourceRefusedError(
                            f"the pack has more than {self.limits.nbytes // 1024**2} MiB",
                            hint="keep models and outputs out of the pack's directory",
                        )
                    digest.update(chunk)
                    copy.write(chunk)
                # The worker runs as a uid of its own: readable by all, writable by nobody.
                os.fchmod(copy.fileno(), 0o555 if status.st_mode & 0o111 else 0o444)
            self.digests[name] = digest.hexdigest()

    def result(self) -> CopiedSource:
        return CopiedSource(_combined(self.digests), len(self.digests), self.nbytes)


def _combined(digests: dict[str, str]) -> str:
    whole = hashlib.sha256()
    for name in sorted(digests):
        whole.update(os.fsencode(name) + b"\0" + digests[name].encode() + b"\n")
    return whole.hexdigest()

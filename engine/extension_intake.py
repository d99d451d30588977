"""From "here is a pack" to a pinned copy in the tenant's directory, in one step that either happened or did not.

A copy lies at ``<extension's directory>/<content hash>`` and never changes: a new version is another directory, so a
sandbox that still runs the old one keeps what it mounted.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from engine.extension_errors import ContentChangedError, SourceRefusedError
from engine.extension_files import SourceLimits, copy_source
from engine.extension_git import GitLimits, GitSource, checked, clone
from engine.extension_pins import check_content, refuse_other
from engine.extension_records import Origin
from policies import safe_text
from sandbox import patiently, remove_tree

STAGING = ".staging-"


@dataclass(frozen=True, slots=True)
class Taken:
    """A pinned copy."""

    origin: Origin
    content_hash: str
    files: int
    nbytes: int


async def take_source(
    source: Path | GitSource,
    directory: Path,
    progress: Callable[[str], None],
    *,
    limits: SourceLimits,
    git_limits: GitLimits,
    pin: str | None = None,
) -> Taken:
    """Copy a pack to ``directory``/<content hash>; ``pin`` is the hash that it has to have.

    Raises: SourceRefusedError; ``directory`` then holds nothing new.
    """
    staging = directory / f"{STAGING}{secrets.token_hex(8)}"
    try:
        if isinstance(source, GitSource):
            commit = await clone(checked(source), staging / "clone", git_limits, progress)
            origin = Origin(kind="git", location=source.url, ref=source.ref, commit=commit)
            pack = staging / "clone"
        else:
            pack = await anyio.to_thread.run_sync(source.absolute)
            is_file = await anyio.to_thread.run_sync(pack.is_file)
            origin = Origin(kind="file" if is_file else "directory", location=str(pack))
        try:
            copied = await anyio.to_thread.run_sync(copy_source, pack, staging / "copy", limits)
        except OSError as error:
            raise SourceRefusedError(
                f"'{safe_text(str(pack))}' cannot be copied: {safe_text(str(error), 300)}",
                hint="check its permissions and the space on the data directory",
            ) from error
        if pin is not None:
            refuse_other(copied.content_hash, pin)
        target = directory / copied.content_hash
        await anyio.to_thread.run_sync(_place, staging, target, copied.content_hash)
        progress(f"copied {copied.files} files, content sha256:{copied.content_hash}")
        return Taken(origin, copied.content_hash, copied.files, copied.nbytes)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(lambda: shutil.rmtree(staging, ignore_errors=True))


def original_source(origin: Origin) -> Path | GitSource | None:
    """Where to read the extension again; None when the original is gone from this machine."""
    if origin.kind == "git":
        return GitSource(origin.location, origin.ref)
    path = Path(origin.location)
    return path if origin.kind in ("directory", "file") and path.exists() else None


def drop_copies(directory: Path, *, keep: str) -> None:
    """Delete older copies and what an interrupted intake left behind."""
    for entry in directory.iterdir():
        if entry.is_dir() and entry.name != keep:
            remove_tree(entry)


def _place(staging: Path, target: Path, content_hash: str) -> None:
    copy = staging / "copy"
    if os.path.lexists(target):
        try:
            check_content(target.parent.name, target, content_hash)
        except (ContentChangedError, OSError):
            patiently(
                lambda: target.rename(staging / "damaged")
            )  # what still runs from it keeps what it mounted
        else:
            return  # the same content is there already
    copy.chmod(0o755)
    copy.replace(target)

"""Whether an extension on disk is what was pinned: the same files with the same bytes, and nothing else beside them.

A pinned copy is made once and belongs to the host; sandboxes mount it read-only. It is read in full before a sandbox
starts from it, and again whenever the kernel says that anything in it was touched since (inode, size, change time),
so a pack that was exchanged on the disk does not run under the old one's name.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
from pathlib import Path

import anyio
import anyio.to_thread

from engine.extension_errors import ContentChangedError, SourceRefusedError
from engine.extension_files import SourceLimits, copy_source, hash_tree
from policies import safe_text
from sandbox import tree_stamp

_PIN = re.compile(r"(?:sha256:)?([0-9a-f]{64})\Z")
_SHOWN = 8


def parse_pin(text: str) -> str:
    """The hash in ``sha256:<64 hex digits>``. Raises: SourceRefusedError."""
    match = _PIN.match(text.strip().lower())
    if match is None:
        raise SourceRefusedError(
            f"'{safe_text(text, 80)}' is no content hash",
            hint="write sha256: and 64 hex digits, as 'ringfence extension add' and 'verify' print them",
        )
    return match[1]


async def check_source(source: Path, pin: str, limits: SourceLimits) -> None:
    """Refuse a pack that was not taken over yet. Raises: SourceRefusedError unless its content has that hash."""
    beside = source.parent / f".pin-{secrets.token_hex(8)}"

    def look() -> str:
        try:
            return copy_source(source, beside, limits).content_hash
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    refuse_other(await anyio.to_thread.run_sync(look), pin)


def refuse_other(content_hash: str, pin: str) -> None:
    """Raises: SourceRefusedError unless they are the same."""
    if content_hash != pin:
        raise SourceRefusedError(
            f"the pack's content is sha256:{content_hash}, and the pin says sha256:{pin}",
            hint="it is not what was pinned: look at what changed, then pin the new content or leave --pin out",
        )


def check_content(name: str, code: Path, content_hash: str) -> None:
    """Read the whole copy. Raises: ContentChangedError unless it is what was pinned."""
    hint = f"something on this machine changed it; take it from its source again: ringfence extension reload {name}"
    odd = _odd_entry(code)
    if odd is not None:
        raise ContentChangedError(f"extension '{name}' is not what was pinned: {odd}", hint=hint)
    found = hash_tree(code)
    if found != content_hash:
        raise ContentChangedError(
            f"extension '{name}' is not what was pinned: it is sha256:{found}, pinned is sha256:{content_hash}",
            hint=hint,
        )


def differences(before: Path, after: Path) -> list[str]:
    """What an update changes, file by file, for people; at most a few lines."""
    old, new = _files(before), _files(after)
    lines = [f"new: {safe_text(name, 120)}" for name in sorted(new.keys() - old.keys())]
    lines += [f"gone: {safe_text(name, 120)}" for name in sorted(old.keys() - new.keys())]
    lines += [
        f"changed: {safe_text(name, 120)}"
        for name in sorted(old.keys() & new.keys())
        if old[name] != new[name] or (before / name).read_bytes() != (after / name).read_bytes()
    ]
    return lines if len(lines) <= _SHOWN else [*lines[:_SHOWN], f"... and {len(lines) - _SHOWN} more"]


class Pins:
    """Checks contents, each time that they may have changed."""

    def __init__(self) -> None:
        self._checked: dict[Path, tuple[str, str]] = {}

    async def check(self, name: str, code: Path, content_hash: str) -> None:
        """Raises: ContentChangedError."""
        await anyio.to_thread.run_sync(self._check, name, code, content_hash)

    def _check(self, name: str, code: Path, content_hash: str) -> None:
        try:
            stamp = tree_stamp(code)  # before the reading: what is changed meanwhile changes the next stamp
            if self._checked.get(code) == (content_hash, stamp):
                return
            self._checked.pop(code, None)
            check_content(name, code, content_hash)
        except OSError as error:
            raise ContentChangedError(
                f"extension '{name}' cannot be read: {error.strerror}",
                hint=f"take it from its source again: ringfence extension reload {name}",
            ) from error
        self._checked[code] = (content_hash, stamp)

    def forget(self, code: Path) -> None:
        """A copy is gone."""
        self._checked.pop(code, None)


def _odd_entry(root: Path) -> str | None:
    if not stat.S_ISDIR(os.lstat(root).st_mode):
        return "it is no directory"
    for directory, directories, files in os.walk(root):
        for entry in (*directories, *files):
            mode = os.lstat(f"{directory}/{entry}").st_mode
            if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
                shown = safe_text(os.path.relpath(f"{directory}/{entry}", root), 120)
                return f"'{shown}' is neither file nor directory"
    return None


def _files(root: Path) -> dict[str, int]:
    return {
        path.relative_to(root).as_posix(): path.stat().st_size for path in root.rglob("*") if path.is_file()
    }

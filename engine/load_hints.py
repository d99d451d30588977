"""What to do about a module that a pack imports and that is not there, from what was said when it was added.

The pack's folder is only looked at by names, and to a bound.
"""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import anyio

_MISSING: Final = re.compile(r"No module named '([A-Za-z_][\w.]{0,200})'")
_MISSING_PART: Final = re.compile(
    r"No module named '/[^']{0,300}/custom_nodes/[^'/.]{1,200}\.([\w.]{1,200})'"
)
_MISSING_FILE: Final = re.compile(
    r"No such file or directory: '/[^']{0,300}/custom_nodes/[^'/]{1,200}/([^']{1,200})'"
)
_MISSING_NAME: Final = re.compile(
    r"cannot import name '(\w{1,100})' from '([A-Za-z_][\w.]{0,200})' \([^)]{0,100}/env/"
)
_MOST_NAMES: Final = 20_000


async def module_hint(
    message: str, notes: Sequence[str], pack: Path, ask: Callable[[str], Awaitable[str]]
) -> str | None:
    """The hint for a module or a part of the pack that is not found; None when the message is about something else.

    ``notes`` are those of the pack's environment; ``ask`` knows what the image has.
    """
    # a relative import, or a file beside the pack's own
    part, found = _MISSING_PART.search(message) or _MISSING_FILE.search(message), _MISSING.search(message)
    if part is not None:
        return _of_the_pack(part[1])
    name = _MISSING_NAME.search(message)
    if name is not None:
        return _another_version(name[2].partition(".")[0], f"{name[2]}.{name[1]}")
    if found is None:
        return None
    module = found[1]
    top = module.partition(".")[0]
    if await anyio.to_thread.run_sync(_is_part, pack, top):
        return _of_the_pack(module)
    named = re.compile(rf"(?<![\w-]){re.escape(top).replace('_', '[-_]')}(?![\w-])", re.IGNORECASE)
    for note in notes:
        if "left out" in note and named.search(note):
            return note
    said = await ask(top)
    if (
        module != top and "requirements.txt" in said
    ):  # the usual words, for a package of which nothing is known
        return _another_version(top, module)
    return said


def _another_version(top: str, name: str) -> str:
    return (
        f"the package that has '{top}' is there, but not with '{name}': the pack was written for another version "
        "of it. Name that version in the pack's requirements.txt, then: ringfence extension reload"
    )


def _of_the_pack(module: str) -> str:
    return (
        f"'{module}' is a part of the pack itself, and the copy that was added does not have it: packs bring such "
        "parts as git submodules, or download them in install.py, which is not run. Put it into the pack's folder "
        "and add the pack again"
    )


def _is_part(pack: Path, name: str) -> bool:
    """Whether a folder or file of that name lies somewhere in the pack, for its code to import from."""
    seen = 0
    for _, directories, files in os.walk(pack):
        seen += len(directories) + len(files)
        if name in directories or f"{name}.py" in files:
            return True
        if seen > _MOST_NAMES:
            return False
    return False

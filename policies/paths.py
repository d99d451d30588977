"""Whether a path stays where it has to stay: links resolved, compared component by component.

Never by string prefix ("/srv/models-secret" starts with "/srv/models"), never before links are resolved.
`resolve_*` answer for trees that only the operator writes. In a tree that a sandbox can write, the answer may
be stale before it is used: open such files with `open_beneath`, which checks and opens in one walk.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from policies.errors import PathEscapeError
from policies.text import safe_text


def is_inside(path: Path, root: Path) -> bool:
    """Whether `path` is `root` or below it; both must be absolute and have their links resolved."""
    return path.is_relative_to(root)


def resolve_beneath(root: Path, relative: str) -> Path:
    """`root/relative` with links resolved; it need not exist.

    Raises: PathEscapeError for an absolute path, `..`, NUL, a link loop, or a link that leads out of `root`.
    """
    parts = _plain_parts(relative)
    top = _resolved(root)
    target = _resolved(top.joinpath(*parts))
    if not is_inside(target, top):
        raise PathEscapeError(
            f"path '{safe_text(relative, 200)}' leads out of its directory through a link",
            hint="name a file inside the directory",
        )
    return target


def resolve_in_roots(path: str | Path, roots: Iterable[Path]) -> Path:
    """The existing file or directory that `path` leads to, if that lies in one of `roots`.

    Raises: PathEscapeError for a relative path, `..`, NUL, something that does not exist or is neither file nor
    directory (a socket is a door, not data), or a place outside all roots.
    """
    text = str(path)
    shown = safe_text(text, 200)
    if not text.startswith("/"):
        raise PathEscapeError(f"path '{shown}' is not absolute", hint="write it from '/' on")
    _plain_parts(text.lstrip("/") or ".")
    target = _resolved(Path(text))
    allowed = list(roots)
    if not any(is_inside(target, _resolved(root)) for root in allowed):
        leads = "" if str(target) == text else f" leads to '{safe_text(str(target), 200)}', which"
        names = ", ".join(str(root) for root in allowed) or "none is set"
        raise PathEscapeError(
            f"path '{shown}'{leads} is outside the allowed roots ({names})",
            hint="name a path below one of them, or add a root to 'path_roots' in default.yaml",
        )
    try:
        mode = target.stat().st_mode
    except OSError as error:
        raise PathEscapeError(
            f"path '{shown}' cannot be read here: {error.strerror}", hint="create it, or remove the line"
        ) from None
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise PathEscapeError(f"path '{shown}' is neither a file nor a directory", hint="name one of those")
    return target


def open_beneath(root: Path, relative: str) -> int:
    """A read-only descriptor of the regular file `root/relative`, opened without following any link below `root`.

    Each component is opened from the descriptor of the one before, so renaming or swapping in a link while we
    walk cannot lead us elsewhere. The caller closes it.

    Raises: PathEscapeError for a link, `..`, or anything but a regular file; FileNotFoundError as usual.
    """
    parts = _plain_parts(relative)
    # O_NONBLOCK: opening a FIFO that a sandbox left there would otherwise hang the host.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    here = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for index, part in enumerate(parts):
            last = index == len(parts) - 1
            try:
                there = os.open(part, flags if last else flags | os.O_DIRECTORY, dir_fd=here)
            except FileNotFoundError:
                raise
            except OSError as error:  # ELOOP, ENOTDIR: a link; ENXIO: a socket
                raise PathEscapeError(
                    f"path '{safe_text(relative, 200)}' cannot be opened safely: {error.strerror}",
                    hint="links are not followed here",
                ) from None
            os.close(here)
            here = there
        if not stat.S_ISREG(os.fstat(here).st_mode):
            raise PathEscapeError(
                f"path '{safe_text(relative, 200)}' is not a regular file", hint="name a file"
            )
    except BaseException:
        os.close(here)
        raise
    return here


def _plain_parts(relative: str) -> list[str]:
    """Raises: PathEscapeError unless every component of `relative` is an ordinary name."""
    shown = safe_text(relative, 200)
    if "\0" in relative:
        raise PathEscapeError(f"path '{shown}' has a NUL character in it", hint="remove it")
    if relative.startswith("/"):
        raise PathEscapeError(f"path '{shown}' is absolute", hint="write it relative to its directory")
    parts = [part for part in relative.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise PathEscapeError(f"path '{shown}' climbs with '..'", hint="write it without '..'")
    return parts


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):  # too long, a loop of links, an unencodable character
        raise PathEscapeError(
            f"path '{safe_text(str(path), 200)}' cannot be resolved", hint="check its links"
        ) from None

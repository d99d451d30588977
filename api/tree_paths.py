"""Which paths and names a file of a tenant may have; pure, so links are not looked for here."""

from __future__ import annotations

from api.tree_errors import FileRefusedError, FileUnknownError
from policies import PathEscapeError, safe_text

DEPTH_LIMIT = 32
"""Directories within directories, at most."""
_NAME_LIMIT = 255


def split(path: str) -> tuple[str, str]:
    """The directory and the name of a file."""
    parts = parts_of(path)
    if not parts:
        raise FileRefusedError("the file needs a name")
    return "/".join(parts[:-1]), checked_name(parts[-1])


def parts_of(path: str) -> list[str]:
    """The components of a path.

    Raises: PathEscapeError when it leads out, FileRefusedError when a name cannot be used.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or ".." in parts or "\0" in path:
        raise PathEscapeError(
            f"the path '{safe_text(path, 200)}' leads out of its directory",
            hint="write it relative, without '..'",
        )
    if len(parts) > DEPTH_LIMIT:
        raise FileRefusedError(f"the path has more than {DEPTH_LIMIT} components")
    for part in parts:
        checked_name(part)
    return parts


def checked_name(name: str) -> str:
    """The name itself, when a file may have it. Raises: as ``parts_of``."""
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        encoded = b""
    if not encoded or len(encoded) > _NAME_LIMIT or "/" in name or any(ord(char) < 32 for char in name):
        raise FileRefusedError(
            f"the name '{safe_text(name, 80)}' cannot be used for a file",
            hint=f"use 1 to {_NAME_LIMIT} bytes without control characters",
        )
    if name in (".", ".."):
        raise PathEscapeError("a file cannot have this name")
    return name


def unknown_file(path: str) -> FileUnknownError:
    """To be raised where there is none."""
    return FileUnknownError(f"there is no file '{safe_text(path, 200)}'")

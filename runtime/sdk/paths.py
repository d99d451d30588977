"""Where things are, as packs see them.

Strings, not ``Path``: ``folder_paths`` hands them to packs, which add to them with ``+``. The worker sets the root
when it starts; in a container that is ``/``.
"""

from __future__ import annotations

import os

from .. import wire

_root = "/"


def set_root(root: str) -> None:
    """Put every place below ``root`` (tests and the unconfined launcher run without a container)."""
    global _root
    _root = os.path.abspath(root)  # noqa: PTH100 - strings throughout, see above


def place(absolute: str) -> str:
    """Where an absolute path of a sandbox (``/ringfence/in``) really is."""
    return absolute if _root == "/" else _root + absolute


def app() -> str:
    """ComfyUI's root: the working directory, holding ``custom_nodes``, ``models``, ``input`` ..."""
    return place(wire.APP_DIRECTORY)


def input() -> str:  # noqa: A001 - named as what it names
    return app() + "/input"


def output() -> str:
    return app() + "/output"


def temp() -> str:
    return app() + "/temp"


def user() -> str:
    return app() + "/user"


def models() -> str:
    return app() + "/models"


def custom_nodes() -> str:
    return app() + "/custom_nodes"


def is_granted(area: str) -> bool:
    """Whether the policy gives this sandbox something of ``area`` ("output", "models", ...) or of a folder in it.

    What it gives is mounted; anything else below the application root is a throwaway folder of the sandbox's own.
    Without a container everything counts as given.
    """
    if _root != "/" or not os.path.isdir(wire.IN_DIRECTORY):  # noqa: PTH112
        return True
    top = f"{app()}/{area}"
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as table:  # noqa: PTH123
            points = [line.split(" ", 5)[4] for line in table]
    except (OSError, IndexError):
        return True
    return any(point == top or point.startswith(top + "/") for point in points)

"""Makes the process look the way packs expect: search path, working directory, HOME, arguments, logging.

Nothing here opens a wall; it arranges what the container already allows.
"""

from __future__ import annotations

import importlib
import logging
import os
import site
import sys
from pathlib import Path

from . import aliases, partial_torchvision, wire
from .sdk import paths


def prepare() -> None:
    """Arrange the process; once, before anything of an extension runs."""
    sys.dont_write_bytecode = True  # the folders are throwaway copies in memory
    _search_path()
    aliases.install()
    partial_torchvision.install()
    importlib.import_module(
        ".compat", __package__
    )  # whose import installs the finder of the names-only modules
    _directories()
    sys.argv[:] = [f"{paths.app()}/main.py"]
    sys.modules["__main__"].__file__ = sys.argv[0]  # where packs look for ComfyUI's root, too
    # As ComfyUI sets it up: packs log at INFO through the root logger.
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)


def _search_path() -> None:
    """The application root first; the extension's environment before the image's packages, after the standard
    library (a package named like a standard module must not replace it)."""
    home = Path(__file__).parent.parent
    if (home / "pyproject.toml").exists():
        # A checkout, full of names like "api" that packs bring along too. The image has a folder for us alone.
        sys.path[:] = [entry for entry in sys.path if entry not in {"", str(home)}]
    environment = paths.place(wire.ENVIRONMENT_DIRECTORY)
    if Path(environment).is_dir():
        before = list(sys.path)
        site.addsitedir(environment)  # with its .pth files
        added = [entry for entry in sys.path if entry not in before]
        at = next((i for i, entry in enumerate(before) if Path(entry).name in _SITE_NAMES), len(before))
        sys.path[:] = [*before[:at], *added, *before[at:]]
    sys.path.insert(0, paths.app())


_SITE_NAMES = frozenset({"site-packages", "dist-packages"})


def _directories() -> None:
    for directory in (
        paths.app(),
        paths.custom_nodes(),
        paths.input(),
        paths.output(),
        paths.temp(),
        paths.user(),
        paths.models(),
    ):
        try:
            Path(directory).mkdir(parents=True, exist_ok=True)
        except OSError:  # not granted: whoever needs it gets the system's own error
            pass
    try:
        os.chdir(paths.app())
    except OSError:
        pass
    _home()


def _home() -> None:
    """Caches and settings of libraries go below HOME; without a writable one many refuse to be imported."""
    for directory in (os.environ.get("HOME", ""), f"{paths.app()}/home", paths.user(), "/tmp"):  # noqa: S108 - last resort
        try:
            Path(directory or "/").mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if directory and os.access(directory, os.W_OK):
            os.environ["HOME"] = directory
            return

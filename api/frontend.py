"""Which files of ComfyUI's web frontend are on this machine, and under which path each is served.

The frontend is a package of its own (GPL-3.0, unmodified, replaceable); what is read of it is where its files lie, none
of its code is imported. The catalogue is made once, at the start: a path that is not in it has no file, so no request
can name one outside. Not here: how a file is answered (api/routes/frontend.py).
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path
from types import MappingProxyType

from policies import RingfenceError, safe_text

log = logging.getLogger(__name__)

PACKAGE = "comfyui-frontend-package"
LICENCE = "GPL-3.0-only"
SOURCE = "https://github.com/Comfy-Org/ComfyUI_frontend"
OFF = "none"

_DOCS_PACKAGE = "comfyui-embedded-docs"
_TEMPLATES_PREFIX = "comfyui_workflow_templates_"
_MOST_FILES = 100_000
_PAGE_LIMIT = 4 * 1024 * 1024
_INLINE_SCRIPT = re.compile(rb"<script(?![^>]*\bsrc\s*=)[^>]*>(.*?)</script>", re.DOTALL | re.IGNORECASE)


class FrontendError(RingfenceError):
    """The directory that was named holds no frontend."""

    code = "frontend-missing"


@dataclass(frozen=True, slots=True)
class Frontend:
    """The files that a browser gets; empty where no frontend is installed."""

    files: Mapping[str, Path] = field(default_factory=dict)
    """From the path in the URL, without its leading '/', to the file."""
    version: str | None = None
    """The package's version; None for a build from a directory, and without a frontend."""
    inline_scripts: tuple[str, ...] = ()
    """Hashes of the scripts written into the page itself, as a content security policy names them."""
    why_not: str = ""
    """Why there is no frontend, for the page that stands in for it."""

    @property
    def is_there(self) -> bool:
        """Whether there is a page to show."""
        return "index.html" in self.files

    @property
    def scripts(self) -> list[str]:
        """What ``/extensions`` lists first: the frontend's own extension scripts, as URL paths."""
        return [
            f"/{name}"
            for name in self.files
            if name.startswith("extensions/") and name.endswith(".js") and "\\" not in name
        ]


def find_frontend(setting: str) -> Frontend:
    """The frontend that the setting names: a directory, ``none``, or (empty) the installed package.

    Raises:
        FrontendError: a directory was named that holds no frontend.
    """
    if setting == OFF:
        return Frontend(why_not="it is switched off here: RINGFENCE_FRONTEND_DIR=none")
    if setting:
        root, version = Path(setting), None
        if not (root / "index.html").is_file():
            raise FrontendError(
                f"RINGFENCE_FRONTEND_DIR={safe_text(setting, 200)} has no index.html in it",
                hint="name the directory of a built frontend, or 'none', or leave it out for the installed package",
            )
    else:
        package = _distribution(PACKAGE)
        if package is None:
            return Frontend(why_not=f"the package {PACKAGE} is not installed")
        root, version = _inside(package, "comfyui_frontend_package/static"), package.version
        if not (root / "index.html").is_file():
            return Frontend(why_not=f"the package {PACKAGE} {safe_text(version, 40)} has no index.html")
    files: dict[str, Path] = {}
    # The first that has a path keeps it, so neither help pages nor templates can stand in for a part of the page.
    for prefix, tree in (("", root), *_extras()):
        for name, path in _files(tree):
            files.setdefault(prefix + name, path)
    log.info("frontend: %s, %d files", version or safe_text(str(root), 200), len(files))
    return Frontend(MappingProxyType(files), version, _inline_scripts(root / "index.html"))


def _extras() -> Iterator[tuple[str, Path]]:
    """Trees of optional packages: the help pages of core nodes, and workflow templates."""
    docs = _distribution(_DOCS_PACKAGE)
    if docs is not None:
        yield "docs/", _inside(docs, "comfyui_embedded_docs/docs")
    names = {str(each.metadata["Name"]).replace("-", "_").lower(): each for each in distributions()}
    for name in sorted(names):
        if name.startswith(_TEMPLATES_PREFIX):
            yield "templates/", _inside(names[name], f"{name}/templates")


def _inline_scripts(page: Path) -> tuple[str, ...]:
    with page.open("rb") as stream:
        text = stream.read(_PAGE_LIMIT)
    digests = (hashlib.sha256(script).digest() for script in _INLINE_SCRIPT.findall(text))
    return tuple(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


def _distribution(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def _inside(package: Distribution, path: str) -> Path:
    return Path(str(package.locate_file(path)))


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    """Regular files below a directory, in order; links are left out, since they may lead anywhere."""
    found = 0
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            if name.startswith(".") or path.is_symlink() or not path.is_file():
                continue
            found += 1
            if found > _MOST_FILES:
                raise FrontendError(
                    f"{safe_text(str(root), 200)} holds more than {_MOST_FILES} files",
                    hint="name the directory of a built frontend, not one of its sources",
                )
            yield path.relative_to(root).as_posix(), path

"""Lets packs import the stand-ins under ComfyUI's names: ``folder_paths`` is ``<this package>.compat.folder_paths``.

Both names are the *same* module object, whichever is imported first, so that compat modules can use relative imports
and a pack that patches ``folder_paths`` patches what everybody sees. Only names that exist in ``compat/`` are taken;
everything else goes the usual way.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.abc import Loader, MetaPathFinder
else:  # they bring temporary files, archivers and OpenSSL along, and nothing that is needed here
    Loader = MetaPathFinder = object


class AliasFinder(MetaPathFinder):
    """Finds ``name`` as ``<package>.name`` when a file or folder of that name exists below ``directory``."""

    def __init__(self, package: str, directory: Path) -> None:
        self.package = package
        self._directory = directory

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Answer for names that exist in the stand-in directory, and for no others."""
        del path, target
        parts = fullname.split(".")
        if not all(part.isidentifier() for part in parts):
            return None  # a pack's own module: those are named by their absolute path
        place = self._directory.joinpath(*parts)
        is_package = (place / "__init__.py").is_file()
        if not is_package and not place.with_name(place.name + ".py").is_file():
            return None
        spec = ModuleSpec(fullname, SameModuleLoader(f"{self.package}.{fullname}"), is_package=is_package)
        spec.origin = str(place)
        return spec


class SameModuleLoader(Loader):
    """Gives the module of another name, unchanged."""

    def __init__(self, real_name: str) -> None:
        self._real_name = real_name
        self._real_spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        del spec
        module = importlib.import_module(self._real_name)
        self._real_spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The import system has just put the alias's spec on the module; relative imports inside it need its own.
        module.__spec__ = self._real_spec


def install(package: str | None = None, directory: Path | None = None) -> AliasFinder:
    """Put the finder in front of all others; a second call for the same package changes nothing."""
    package = package or f"{__package__}.compat"
    for finder in sys.meta_path:
        if isinstance(finder, AliasFinder) and finder.package == package:
            return finder
    finder = AliasFinder(package, directory or Path(__file__).parent / "compat")
    sys.meta_path.insert(0, finder)
    return finder


def shown_name(module_name: str) -> str:
    """The name packs know a module by: without the compat package in front."""
    return module_name.removeprefix(f"{__package__}.compat.")

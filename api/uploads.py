"""Where extensions that clients sent as archives are kept: the original that a later reload reads again.

``<data>/uploads/<tenant>/<extension>/<extension>`` is the pack; ``origin.json`` beside it says which directory of which
machine the client took it from, so that the command line can send that directory again.
"""

from __future__ import annotations

import json
import secrets
import shutil
from pathlib import Path
from typing import IO, Any
from weakref import WeakValueDictionary

import anyio

from api.archives import unpack
from api.settings import Settings
from engine import SourceLimits
from policies import ExtensionName, TenantId, safe_text

_STAGING = ".staging-"
_ORIGIN = "origin.json"


def pack_limits(settings: Settings) -> SourceLimits:
    """How much a pack may be, wherever it comes from."""
    return SourceLimits(files=settings.max_extension_files, nbytes=settings.max_extension_bytes)


class Uploads:
    """The kept originals of one installation. Every method but ``turn`` blocks."""

    def __init__(self, data_dir: Path, limits: SourceLimits) -> None:
        self.root = data_dir / "uploads"
        self.limits = limits
        self._turns: WeakValueDictionary[tuple[TenantId, ExtensionName], anyio.Lock] = WeakValueDictionary()

    def turn(self, tenant: TenantId, name: ExtensionName) -> anyio.Lock:
        """To be held while an extension's original is exchanged and read: else it would be another's meanwhile."""
        return self._turns.setdefault((tenant, name), anyio.Lock())

    def sweep(self) -> None:
        """Remove what an interrupted upload left; called at start."""
        for leftover in self.root.glob(f"*/{_STAGING}*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def stage(self, tenant: TenantId, name: ExtensionName, archive: IO[bytes], *, origin: str) -> Path:
        """Unpack an archive to a new place and return it; ``keep`` or ``discard`` it.

        Raises:
            ArchiveError
        """
        staging = self.root / tenant / f"{_STAGING}{secrets.token_hex(8)}"
        tree = staging / name  # errors about the pack quote this directory's name
        tree.mkdir(parents=True)
        try:
            unpack(archive, tree, max_bytes=self.limits.nbytes, max_files=self.limits.files)
            (staging / _ORIGIN).write_text(
                json.dumps({"directory": safe_text(origin, 1000)}), encoding="utf-8"
            )
        except BaseException:
            self.discard(staging)
            raise
        return staging

    def keep(self, tenant: TenantId, name: ExtensionName, staging: Path) -> Path:
        """Make a staged upload the original of an extension; returns the pack: a directory, or one .py file."""
        target = self.root / tenant / name
        aside = self.root / tenant / f"{_STAGING}{secrets.token_hex(8)}"
        if target.exists():
            target.rename(aside)
        staging.rename(target)
        self.discard(aside)
        return pack_in(target, name)

    def put(self, tenant: TenantId, name: ExtensionName, staging: Path) -> Path | None:
        """As ``keep``, and the original that was there before is returned: ``put_back`` or ``discard`` it."""
        target = self.root / tenant / name
        aside = self.root / tenant / f"{_STAGING}{secrets.token_hex(8)}"
        was_there = target.exists()
        if was_there:
            target.rename(aside)
        staging.rename(target)
        return aside if was_there else None

    def put_back(self, tenant: TenantId, name: ExtensionName, aside: Path | None) -> None:
        """Make what ``put`` returned the original again."""
        self.remove(tenant, name)
        if aside is not None:
            aside.rename(self.root / tenant / name)

    def discard(self, staging: Path) -> None:
        """Remove a staged upload."""
        shutil.rmtree(staging, ignore_errors=True)

    def remove(self, tenant: TenantId, name: ExtensionName) -> None:
        """Forget the original of an extension."""
        shutil.rmtree(self.root / tenant / name, ignore_errors=True)

    def shown(self, tenant: TenantId, name: ExtensionName, source: dict[str, Any]) -> dict[str, Any]:
        """An extension's source for people: the client's directory instead of our copy of it."""
        if not str(source.get("location", "")).startswith(f"{self.root}/"):
            return source
        try:
            origin = json.loads((self.root / tenant / name / _ORIGIN).read_text(encoding="utf-8"))
            location = str(origin["directory"])
        except (OSError, ValueError, KeyError, TypeError):
            location = ""
        return {**source, "kind": "upload", "location": location}


def pack_in(staging: Path, name: ExtensionName) -> Path:
    """The pack in an upload: a lone .py file stands for itself, everything else is its directory."""
    tree = staging / name
    items = list(tree.iterdir())
    if len(items) == 1 and items[0].is_file() and items[0].suffix == ".py" and items[0].name != "__init__.py":
        return items[0]
    return tree

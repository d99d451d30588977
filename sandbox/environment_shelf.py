"""The environments on disk: a directory for each under its key, which is whole or not there, and who asked for which.

What stands here was built and checked; it is read again before anybody else gets it. Everything blocks on the disk.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sandbox.build_tools import versions
from sandbox.environment_errors import EnvironmentChangedError
from sandbox.environment_locks import lock_digest, locked_hashes
from sandbox.environment_plan import Plan
from sandbox.environment_steps import Progress
from sandbox.inventory import Inventory, take_inventory, with_build_tools
from sandbox.launcher import build_verb as verb
from sandbox.trees import tree_digest

logger = logging.getLogger(__name__)

MANIFEST: Final = "environment.json"
_PLANS: Final = ".plans"
_KEY: Final = re.compile(r"[0-9a-f]{64}")


class EnvironmentShelf:
    """Those below ``root``; who may change one at a time is the caller's business."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def locks_of(self, plan: Plan) -> tuple[str | None, str | None]:
        """The lock of an environment that was made for the same wish, and that of its build tools where it has one."""
        try:
            key = (self._root / _PLANS / plan.key).read_text(encoding="ascii").strip()
            if _KEY.fullmatch(key) is None or _read_manifest(self._root / key) is None:
                return None, None
            return (self._root / key / verb.LOCK).read_text(encoding="utf-8"), self._tools(key)
        except (OSError, ValueError):
            return None, None

    def _tools(self, key: str) -> str | None:
        """The lock of the build tools of an environment; None where nothing was built from source."""
        file = self._root / key / verb.TOOLS
        return file.read_text(encoding="utf-8") if file.exists() else None

    def point(self, plan: Plan, key: str) -> None:
        """Remember that the wish of ``plan`` is answered by the environment ``key``."""
        plans = self._root / _PLANS
        plans.mkdir(mode=0o700, exist_ok=True)
        new = plans / f".new-{secrets.token_hex(8)}"
        new.write_text(f"{key}\n", encoding="ascii")
        new.replace(plans / plan.key)

    def whole(self, key: str, progress: Progress) -> Mapping[str, Any] | None:
        """What is known of an environment that is as it was built; None when it is to be built (again)."""
        stored = self.manifest(key)
        if stored is None:
            return None
        try:
            self.check(key)
        except EnvironmentChangedError as error:
            logger.warning("%s; it is built again", error.message)
            progress(f"{error.message}; it is built again")
            return None
        return stored

    def check(self, key: str) -> None:
        """Read a whole one. Raises: EnvironmentChangedError unless it is as it was built."""
        stored = self.manifest(key)
        if stored is None:
            raise EnvironmentChangedError(
                f"environment {key[:12]} is not there", hint="build it: ringfence extension reload NAME"
            )
        digest = tree_digest(self._root / key / verb.SITE) if stored["packages"] else ""
        lock = lock_digest((self._root / key / verb.LOCK).read_text(encoding="utf-8"))
        tools = self._tools(key)
        found = (digest, lock, None if tools is None else lock_digest(tools))
        if found != (stored.get("digest"), stored.get("lock"), stored.get("tools")):
            raise EnvironmentChangedError(
                f"environment {key[:12]} is not as it was built: its files have the digest {digest[:12] or 'none'}, "
                f"recorded is {str(stored.get('digest'))[:12]}",
                hint="something on this machine changed it; build it again: ringfence extension reload NAME",
            )

    def manifest(self, key: str) -> Mapping[str, Any] | None:
        """What was written down of one when it was built; None when it is not there, or not whole."""
        return _read_manifest(self._root / key)

    def inventory(self, image: verb.NodeImage, key: str | None) -> Inventory:
        """The packages of one and of the image."""
        stored = self.manifest(key) if key is not None else None
        if key is None or stored is None:
            return take_inventory(image, None, None, {}, {})
        lock = locked_hashes((self._root / key / verb.LOCK).read_text(encoding="utf-8"))
        tools = self._tools(key)
        found = take_inventory(image, key, self.site(key), lock, stored["packages"])
        return with_build_tools(found, versions(tools), locked_hashes(tools or ""))

    def site(self, key: str) -> Path | None:
        """The directory of an environment that exists; None when it is gone or adds nothing to the image."""
        site = self._root / key / verb.SITE
        return site if site.is_dir() else None

    def put(
        self, job: Path, key: str, manifest: Mapping[str, Any], tools: str | None = None
    ) -> Mapping[str, Any]:
        """Take what a build left in its directory, as one, with the lock of the ``tools`` it was built with.

        Returns its manifest, now with what was found in it.
        """
        found = dict(manifest)
        built = job / "whole"
        built.mkdir(mode=0o755)
        if found["packages"]:
            (job / "out" / verb.SITE).replace(built / verb.SITE)
            found["contents"] = tree_digest(built / verb.SITE, compiled=False)
        found["digest"] = tree_digest(built / verb.SITE) if found["packages"] else ""
        (job / "in" / verb.LOCK).replace(built / verb.LOCK)
        if tools is not None:
            (built / verb.TOOLS).write_text(tools, encoding="utf-8")
        (built / MANIFEST).write_text(json.dumps(found, indent=2) + "\n")
        target = self._root / key
        shutil.rmtree(target, ignore_errors=True)  # a damaged one: ``whole`` would have taken a whole one
        built.replace(target)
        return found

    def drop(self, key: str) -> None:
        """Delete one, if it is there."""
        shutil.rmtree(self._root / key, ignore_errors=True)


def _read_manifest(directory: Path) -> Mapping[str, Any] | None:
    try:
        manifest = json.loads((directory / MANIFEST).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(manifest, dict) or (manifest["packages"] and not (directory / verb.SITE).is_dir()):
        return None
    return manifest

"""What the sandbox room asks of the extensions: where one that is ready lies, and who shares its sandbox."""

from __future__ import annotations

import logging
from dataclasses import replace

from engine.extension_errors import ContentChangedError
from engine.extension_loader import Loader
from engine.extension_pins import Pins
from engine.extension_shelf import Shelf
from policies import CORE_EXTENSION, ExtensionName, RingfenceError, TenantId
from sandbox import ExtensionFiles
from sandbox.errors import StartError

logger = logging.getLogger(__name__)


class ExtensionsToRun:
    """A ``sandbox.extension_source.ExtensionSource``."""

    def __init__(self, shelf: Shelf, loader: Loader) -> None:
        self._shelf = shelf
        self._loader = loader
        self._pins = Pins()

    async def files(self, tenant: TenantId, extension: ExtensionName) -> ExtensionFiles:
        """Where one extension is. Raises: StartError when there is none, or it is not ready to run."""
        if extension == CORE_EXTENSION:
            return ExtensionFiles(extension, self._shelf.core_code, None, self._shelf.core_hash, core=True)
        entry = self._shelf.entries.get((tenant, extension))
        if entry is None:
            raise StartError(f"there is no extension '{extension}'", "ringfence extension list")
        if not entry.loading:
            failure = entry.record.failure
            if entry.record.state != "ready":
                reason = failure.message if failure else "it is being added"
                raise StartError(
                    f"extension '{extension}' is not ready: {reason}",
                    f"ringfence extension reload {extension}",
                )
            await self._loader.renew_environment(entry)
        if not self._loader.live(entry):
            try:
                await self._pins.check(extension, entry.code, entry.record.content_hash)
            except ContentChangedError as error:
                raise StartError(error.message, error.hint) from error
        return ExtensionFiles(extension, entry.code, entry.site, entry.record.content_hash)

    async def group_files(
        self, tenant: TenantId, group: str, extension: ExtensionName
    ) -> tuple[ExtensionFiles, ...]:
        """See ``ExtensionSource``: the group's members, with one environment for all."""
        asked = await self.files(tenant, extension)
        names = [name for name in await self.members(tenant, group) if name != extension]
        found = [asked, *[await self.files(tenant, name) for name in names]]
        found.sort(key=lambda files: files.name)
        entries = [self._shelf.entries.get((tenant, files.name)) for files in found]
        packs = [entry for entry in entries if entry is not None and not entry.core]
        if len(found) < 2 or not packs:
            return tuple(found)

        def log(line: str) -> None:
            logger.info("sandbox group %s: %s", group, line)

        site = await self._loader.group_site(tenant, group, packs, log)
        return tuple(replace(files, environment=site) for files in found)

    async def members(self, tenant: TenantId, group: str) -> tuple[ExtensionName, ...]:
        """All ready extensions of the tenant whose policy names ``group``, by name."""
        found = []
        for entry in self._shelf.of(tenant):
            if entry.record.state != "ready" and not entry.loading:
                continue
            try:
                if (await self._shelf.read_policy(entry)).group == group:
                    found.append(entry.name)
            except RingfenceError:
                continue  # said by whoever starts that extension
        return tuple(sorted(found))

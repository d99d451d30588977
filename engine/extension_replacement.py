"""One version of an extension takes the place of another; when it fails, the one that was ready goes on."""

from __future__ import annotations

import anyio
import anyio.to_thread

from engine.extension_asks import Consent
from engine.extension_errors import UpdateAsksMoreError
from engine.extension_intake import Taken
from engine.extension_loader import Loader, failure_of
from engine.extension_ports import Progress
from engine.extension_shelf import Entry, Shelf
from engine.extension_versions import Versions, drop_all_but
from engine.extensions_to_run import ExtensionsToRun


class Replacement:
    """Puts new versions in their places; whoever calls holds the extension's lock."""

    def __init__(self, shelf: Shelf, loader: Loader, versions: Versions, to_run: ExtensionsToRun) -> None:
        self._shelf = shelf
        self._loader = loader
        self._versions = versions
        self._to_run = to_run

    async def replace(
        self, old: Entry, taken: Taken, progress: Progress, *, upgrade: bool, consent: Consent | None
    ) -> Entry:
        """Build and load what was taken over, then end the old version's sandboxes and delete its files.

        Raises: what stands in the way; the old version is as it was then, if it was ready.
        """
        found = await self._versions.compare_files(old, taken, progress, consent)
        changes = {"origin": taken.origin, "content_hash": taken.content_hash, "failure": None}
        record = old.record.model_copy(update=changes)
        code = old.directory / taken.content_hash
        entry = Entry(old.tenant, record, old.directory, code, dict(old.nodes), old.site, old.group)
        entry.upgrade = upgrade
        was_ready = old.record.state == "ready"
        before = self._loader.live(old)
        stored = await self._loader.stored(old) if was_ready and consent is not None else None
        await self._tell_group(old, progress)
        if not was_ready or not await self._versions.differ(old, taken):
            # It would be the same sandbox again: end it, so that the pack is really loaded anew.
            await self._loader.stop(old, before, "is loaded anew")
            before = ()
        self._shelf.entries[old.tenant, old.name] = entry
        try:
            await self._loader.bring_up(entry, progress, spare=before)
            if was_ready:
                await self._versions.compare_loaded(old, entry, found, progress, consent)
        except BaseException as error:
            if was_ready:
                with anyio.CancelScope(shield=True):
                    if isinstance(error, UpdateAsksMoreError):
                        new = [sandbox for sandbox in self._loader.live(entry) if sandbox not in before]
                        await self._loader.stop(entry, new, "asks for more than was agreed to")
                    await self._go_back(old, entry, error)
                    await self._loader.store_again(old, stored)
            raise
        await self._loader.stop(old, before, "was reloaded")
        await anyio.to_thread.run_sync(drop_all_but, old.directory, taken.content_hash)
        await self._loader.drop_environment(old.record.environment_key)
        return entry

    async def _go_back(self, old: Entry, entry: Entry, error: BaseException) -> None:
        """The new version failed and the old one was fine: it goes on, and says that it is not the newest."""
        if not isinstance(error, UpdateAsksMoreError):
            failure = failure_of(error)
            old.record.failure = failure.model_copy(update={"message": f"reload failed: {failure.message}"})
        self._shelf.entries[old.tenant, old.name] = old
        self._shelf.changed(old.tenant)
        await self._shelf.save(old)
        await anyio.to_thread.run_sync(drop_all_but, old.directory, old.record.content_hash)
        await self._loader.drop_environment(entry.record.environment_key)

    async def _tell_group(self, entry: Entry, progress: Progress) -> None:
        if entry.group and self._loader.live(entry):
            others = [
                name for name in await self._to_run.members(entry.tenant, entry.group) if name != entry.name
            ]
            if others:
                names = ", ".join(f"'{name}'" for name in others)
                progress(f"the sandbox of group '{entry.group}' is replaced, which also holds {names}")

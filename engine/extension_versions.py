"""Two versions of one extension: what changed, what the new one asks for beyond the old one, and is that agreed to."""

from __future__ import annotations

import logging
from pathlib import Path

import anyio
import anyio.to_thread

from engine import extension_asks
from engine.extension_asks import Consent, Difference
from engine.extension_intake import Taken, drop_copies
from engine.extension_pins import differences
from engine.extension_ports import Progress
from engine.extension_records import drop_locks
from engine.extension_shelf import Entry, Shelf
from policies import PolicyStore, RingfenceError

logger = logging.getLogger(__name__)


class Versions:
    """Compares the version that is there with one that is to take its place."""

    def __init__(self, shelf: Shelf, policies: PolicyStore) -> None:
        self._shelf = shelf
        self._policies = policies

    async def tell_changes(self, old: Entry, taken: Taken, progress: Progress) -> None:
        """Say which pins, commits and files change."""
        before, after = old.record, taken
        if before.content_hash == after.content_hash:
            return
        progress(f"the pin changes from sha256:{before.content_hash} to sha256:{after.content_hash}")
        if before.origin.commit and after.origin.commit:
            progress(f"commit {before.origin.commit} becomes {after.origin.commit}")
        for line in await anyio.to_thread.run_sync(differences, old.code, old.directory / after.content_hash):
            progress(line)

    async def differ(self, old: Entry, taken: Taken) -> bool:
        """Whether the new one, or the policy by now, would make another sandbox."""
        if old.record.content_hash != taken.content_hash:
            return True
        try:
            return (await self._shelf.read_policy(old)).digest() != old.record.policy_digest
        except RingfenceError:
            return False

    async def compare_files(
        self, old: Entry, taken: Taken, progress: Progress, consent: Consent | None
    ) -> tuple[Difference, ...]:
        """What the files of the new one ask for beyond the old one's, before anything of them runs.

        Raises: UpdateAsksMoreError: ``consent`` is given and does not cover it; nothing of the new version is kept.
        """
        new_code = old.directory / taken.content_hash
        if old.record.content_hash == taken.content_hash:
            return ()
        try:
            found = await anyio.to_thread.run_sync(
                extension_asks.compare_files, self._policies, old.name, old.tenant, old.code, new_code
            )
            for difference in found:
                progress(str(difference))
            if consent is not None:
                consent.check(old.name, taken.content_hash, found)
        except BaseException as error:
            if consent is None and isinstance(error, RingfenceError):
                logger.info("extension %s: its versions cannot be compared: %s", old.name, error)
                return ()  # what stands in the way stands in the way of bringing it up, too, and is said there
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(drop_all_but, old.directory, old.record.content_hash)
            raise
        return found

    async def compare_loaded(
        self,
        old: Entry,
        entry: Entry,
        files: tuple[Difference, ...],
        progress: Progress,
        consent: Consent | None,
    ) -> None:
        """What the new one has registered, too; ``files`` were found before. Raises: UpdateAsksMoreError."""
        if old.record.content_hash == entry.record.content_hash:
            return
        others = {
            class_type: other.name
            for other in self._shelf.of(old.tenant)
            if other.name != old.name
            for class_type in other.nodes
        }
        policy = await self._shelf.read_policy(entry)
        found = extension_asks.compare_loaded(old, entry, policy, others)
        for difference in found:
            progress(str(difference))
        if consent is not None and any(each.is_more for each in found):
            consent.check(old.name, entry.record.content_hash, (*files, *found))


def drop_all_but(directory: Path, content_hash: str) -> None:
    """Delete the files and locks of every other version."""
    drop_copies(directory, keep=content_hash)
    drop_locks(directory, keep=content_hash)

"""Which uid a sandbox runs as: one of its own, and the same one again for the same extension.

Files that a pack keeps in ``user/`` belong to the uid that wrote them, so an extension gets its old uid back whenever
nobody else lives under it. Two live sandboxes never share one, but for a sandbox and its own spare (the same request,
in which nothing of the extension has been loaded yet): a uid is what per-user limits count by, and what the host checks
at the socket.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Collection
from pathlib import Path

from sandbox.errors import StartError

log = logging.getLogger(__name__)


class UidBook:
    """Remembers uids in a small file, read and written whole. Blocking; for the threads of one launcher."""

    def __init__(self, path: Path, first: int, count: int) -> None:
        self._path = path
        self._first = first
        self._count = count
        self._known: dict[str, int] | None = None
        self._one_at_a_time = threading.Lock()
        """What is free is looked at, taken and written down in several steps, and starts are made in threads."""

    def assign(self, owner: str, live: Collection[int]) -> int:
        """A uid for ``owner`` ("tenant/extension") that is not among ``live``.

        Raises:
            StartError: all are taken.
        """
        with self._one_at_a_time:
            return self._assign(owner, live)

    def _assign(self, owner: str, live: Collection[int]) -> int:
        known = self._load()
        remembered = known.get(owner)
        if remembered is not None and remembered not in live:
            return remembered
        taken = {*live, *known.values()}
        span = range(self._first, self._first + self._count)
        uid = next((uid for uid in span if uid not in taken), None)
        if uid is None:  # every uid is remembered for somebody: take one that nobody lives under
            uid = next((uid for uid in span if uid not in live), None)
        if uid is None:
            raise StartError(f"all {self._count} sandbox uids are in use", "stop some sandboxes")
        if remembered is None:
            known[owner] = uid
            self._save(known)
        return uid

    def _load(self) -> dict[str, int]:
        if self._known is None:
            try:
                data = json.loads(self._path.read_text("utf-8"))
                known = {str(owner): int(uid) for owner, uid in data.items()}
                span = range(self._first, self._first + self._count)
                # A uid of somebody else (0!) is never given, whoever wrote it there.
                self._known = {owner: uid for owner, uid in known.items() if uid in span}
            except FileNotFoundError:
                self._known = {}
            except (ValueError, AttributeError, TypeError):
                log.warning("%s is damaged; uids are given anew", self._path)
                self._known = {}
        return self._known

    def _save(self, known: dict[str, int]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_suffix(".new")
        with draft.open("w", encoding="utf-8") as stream:
            json.dump(known, stream, indent=1, sort_keys=True)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(self._path)
